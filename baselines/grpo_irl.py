"""GRPO with one inverse-RL reward per harm category and no difficulty scaling (alpha = 1).

For a prompt q of category j with G completions o_i ~ pi_old and rewards R_i = r_j(q, o_i):

    A_i = (R_i - mean_i R_i) / (std_i R_i + 1e-4)
    J   = E[ (1/G) sum_i (1/|o_i|) sum_t min(rho A_i, clip(rho, 1 - epsilon, 1 + epsilon) A_i) - beta KL ]

with rho = pi / pi_old per token and the KL estimate pi_ref/pi - log(pi_ref/pi) - 1. The rewards r_j are
learnt by maximum-likelihood inverse reinforcement learning (stage ``reward``); batches mix the categories
and each prompt is scored by its own r_j. This is the paper's ablation "IRL", the middle row between GRPO
and DR-IRL.

Equations: docs/paper.md section 6 with alpha = 1; GRPO is arXiv:2402.03300.
Deviations: one update per batch of completions, so rho = 1 and the clip never acts; benign prompts are in the
batch, scored by a reward learnt the same way (whether the paper has any is not known).
"""

from __future__ import annotations

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl",)


class Config(Section):
    """Section ``align.methods.grpo_irl``; budget, group size, KL and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")


def train(inputs: Inputs, config: Config) -> None:
    """Run GRPO on the category rewards and save the policy."""
    from drirl.align.setup import train_rl

    train_rl(inputs, lr=config.lr, reward_path=inputs.reward_path)
