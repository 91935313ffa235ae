"""PPO with a critic and one static Bradley-Terry reward, on the same rollouts as GRPO.

Per token t of a completion, with the score r(q, o) of the static reward on its last token T:

    R_t = - beta * log(pi_old / pi_ref) + [t = T] r(q, o)
    d_t = R_t + gamma V_{t+1} - V_t,    A_t = sum_k (gamma lambda)^k d_{t+k},    return_t = A_t + V_t
    L   = - E min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A)
          + c * 1/2 E max((V - return)^2, (clip(V, V_old -+ epsilon_v) - return)^2)

A is whitened over the batch. The critic is a copy of the base trunk with a value head; it is saved beside the
policy. Gradients of policy and critic are clipped apart.

Equations: docs/paper.md section 7; arXiv:1707.06347 (clipping), arXiv:1506.02438 (GAE).
Deviations: as in every other method here, one optimiser step per batch of completions (``epochs: 1``), so
that updates, prompts and tokens are equal; then rho = 1 and neither clip acts. With ``epochs: 2`` each
batch is used twice, the number of updates stays, and half as many prompts are seen.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.align.returns import clipped_value_loss, generalised_advantages
from drirl.errors import DrirlError
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/1707.06347"
USES = ("static",)
PRELOAD = ("drirl.align.setup", "drirl.align.actor_critic")


class Config(Section):
    """Section ``align.methods.ppo``; budget, KL coefficient, clip range and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of the policy")
    critic_lr: float = Field(1e-3, gt=0, description="learning rate of the critic")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the advantage estimate")
    value_clip: float = Field(0.2, gt=0, description="largest change of a value counted in the loss")
    value_coefficient: float = Field(0.5, ge=0, description="weight of the value loss")
    epochs: int = Field(1, ge=1, description="optimiser steps per batch of completions")


def train(inputs: Inputs, config: Config) -> None:
    """Run PPO on the static reward; save the policy and its critic."""
    import torch

    from drirl.align.actor_critic import ActorCriticTrainer, load_critic
    from drirl.align.setup import train_rl
    from drirl.models import seed_everything

    if inputs.shared.beta == 0:
        raise DrirlError(
            "align.shared.beta: PPO needs a KL coefficient above 0; set it or leave 'ppo' out of run.methods"
        )
    seed_everything(inputs.seed)
    critic = load_critic(inputs.policy_path, getattr(torch, inputs.dtype), inputs.revision)
    train_rl(
        inputs,
        lr=config.lr,
        reward_path=inputs.static_reward_path,
        num_iterations=config.epochs,
        trainer_class=ActorCriticTrainer,
        critic=critic,
        critic_lr=config.critic_lr,
        estimate=partial(generalised_advantages, gamma=config.gamma, gae_lambda=config.gae_lambda),
        value_loss=partial(clipped_value_loss, clip=config.value_clip),
        value_coefficient=config.value_coefficient,
    )
    critic.save_pretrained(inputs.out / "critic")
