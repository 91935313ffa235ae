"""DR-IRL without category labels: a classifier of the prompt says which category reward counts.

As ``baselines/dr_irl.py``, but the reward of a completion is

    soft:  sum_j p_j(q) r_j(q, o)
    hard:  r_k(q, o),  k = argmax_j p_j(q)
    worst: min_j r_j(q, o)

over all categories, benign included, with p from ``out/arms/routes`` (:mod:`drirl.experiments.routing`); with
``harm_known`` over the harm categories alone, and a benign prompt has its own reward. The
demonstration is scored the same way, and the running means of alpha are kept by the classifier's category.
Which prompts are drawn is not changed, so that every arm sees the same ones.

Equations: docs/paper.md sections 5 and 6; routing: section 10, question 7.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.hardness.settings import HardnessSettings
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl",)
PRELOAD = ("drirl.align.setup", "drirl.hardness.encoder", "sentence_transformers")


class Config(Section):
    """The settings of ``align.methods.dr_irl`` and how rewards are joined."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")
    hardness: HardnessSettings = Field(HardnessSettings(), description="how alpha is computed")
    routing: Literal["soft", "hard", "worst"] = Field(
        description="how the rewards of all categories are joined"
    )
    harm_known: bool = Field(False, description="the classifier chooses among the harm categories only")


def train(inputs: Inputs, config: Config) -> None:
    """Run DR-IRL on routed rewards and save the policy."""
    from drirl.align.setup import train_rl
    from drirl.experiments.routed_trainer import RoutedTrainer
    from drirl.experiments.routing import Routes
    from drirl.hardness.state import load_hardness

    train_rl(
        inputs,
        lr=config.lr,
        reward_path=inputs.reward_path,
        trainer_class=RoutedTrainer,
        hardness=load_hardness(config.hardness, inputs.encoder, inputs.cache, inputs.seed),
        routes=Routes.load(inputs.cache.parent / "routes"),
        mode=config.routing,
        harm_known=config.harm_known,
    )
