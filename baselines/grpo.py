"""GRPO with one static Bradley-Terry reward: GRPO-IRL with its reward model exchanged.

For a prompt q with G completions o_i ~ pi_old and rewards R_i = r(q, o_i) of a single reward model for all
prompts:

    A_i = (R_i - mean_i R_i) / (std_i R_i + 1e-4)
    J   = E[ (1/G) sum_i (1/|o_i|) sum_t min(rho A_i, clip(rho, 1 - epsilon, 1 + epsilon) A_i) - beta KL ]

The reward is fitted once, to preference pairs of the same train split (stage ``reward``), and stays as it is.

Equations: docs/paper.md sections 6 and 7; arXiv:2402.03300.
Deviations: one update per batch of completions, so rho = pi / pi_old = 1 and the clip never acts. Where the
paper's static reward comes from is not known; ours sees the same prompts as every other method.
"""

from __future__ import annotations

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2402.03300"
USES = ("static",)


class Config(Section):
    """Section ``align.methods.grpo``; budget, group size, KL and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")


def train(inputs: Inputs, config: Config) -> None:
    """Run GRPO on the static reward and save the policy."""
    from drirl.align.setup import train_rl

    train_rl(inputs, lr=config.lr, reward_path=inputs.static_reward_path)
