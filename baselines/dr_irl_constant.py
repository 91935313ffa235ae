"""DR-IRL with alpha averaged over the batch: the control that tells hardness from a change of step size.

    A_i = alpha_bar * (R_i - mean_i R_i) / (std_i R_i + 1e-4),   alpha_bar = mean over the batch's prompts

Everything else, the update of the running means included, is DR-IRL: in every update the mean alpha is the
one DR-IRL would have used on the same batch, only its distribution over prompts is flat. If DR-IRL is
better than GRPO-IRL and this control is not, the gain comes from which prompts are scaled.

Equations: docs/paper.md section 5, "alternatives behind flags", ``constant``.
Deviations: as DR-IRL. The paper has no such control.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from drirl.align.interface import Inputs
from drirl.hardness.settings import HardnessSettings
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl",)
PRELOAD = ("drirl.align.setup", "drirl.hardness.encoder", "sentence_transformers")


class Config(Section):
    """Section ``align.methods.dr_irl_constant``; budget, group size, KL and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")
    hardness: HardnessSettings = Field(
        HardnessSettings(control="constant"), description="how alpha is computed; control must stay constant"
    )

    @model_validator(mode="after")
    def _is_the_control(self) -> Self:
        if self.hardness.control != "constant":
            raise ValueError("hardness.control must be 'constant' here; other arms belong to dr_irl")
        return self


def train(inputs: Inputs, config: Config) -> None:
    """Run GRPO on the category rewards, advantages scaled by the batch's mean alpha; save the policy."""
    from drirl.align.setup import train_rl
    from drirl.align.trainer import DRIRLTrainer
    from drirl.hardness.state import load_hardness

    hardness = load_hardness(config.hardness, inputs.encoder, inputs.cache, inputs.seed)
    train_rl(
        inputs,
        lr=config.lr,
        reward_path=inputs.reward_path,
        trainer_class=DRIRLTrainer,
        hardness=hardness,
    )
