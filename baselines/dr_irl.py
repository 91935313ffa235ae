"""DR-IRL: GRPO on one inverse-RL reward per harm category, advantages scaled by how hard the prompt is.

For a prompt q of category j, completions o_1..o_G ~ pi_old and rewards R_i = r_j(q, o_i):

    A_i = alpha_j(q) * (R_i - mean_i R_i) / (std_i R_i + 1e-4)
    J   = E[ (1/G) sum_i (1/|o_i|) sum_t min(rho A_i, clip(rho, 1 - epsilon, 1 + epsilon) A_i) - beta KL ]

    alpha   = alpha_D * alpha_M
    alpha_D = sigmoid(delta) / sigmoid(mean delta_j)  delta: dissimilarity to the demonstration, in pieces
    alpha_M = sigmoid(R_P) / sigmoid(mean R_j)        R_P: mean gap to the demonstration's reward, filtered

Far from the demonstration, in text or in reward, means not learnt yet, so the update is larger. alpha is
detached and acts after the group normalisation, which would cancel it in the reward. This is GRPO-IRL with
alpha added.

Equations: docs/paper.md sections 5 (alpha) and 6 (objective).
Deviations: the readings that section 5 chooses where sources disagree; sentences are split by rule (by an
LLM: ``splitter: llm``), the encoder is all-MiniLM-L6-v2; benign prompts are in the batch as a category of
their own; one update per batch of completions.
"""

from __future__ import annotations

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.hardness.settings import HardnessSettings
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl",)
PRELOAD = ("drirl.align.setup", "drirl.hardness.encoder", "sentence_transformers")


class Config(Section):
    """Section ``align.methods.dr_irl``; budget, group size, KL and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")
    hardness: HardnessSettings = Field(HardnessSettings(), description="how alpha is computed")


def train(inputs: Inputs, config: Config) -> None:
    """Run GRPO on the category rewards with advantages scaled by alpha, and save the policy."""
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
