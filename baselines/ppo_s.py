"""PPO-S: PPO with the advantages of a prompt's completions multiplied by the prompt's hardness alpha.

Per token t of a completion o of prompt q, with the score r(q, o) of the static reward on its last token T:

    R_t = - beta * log(pi_old / pi_ref) + [t = T] r(q, o)
    d_t = R_t + gamma V_{t+1} - V_t,    A_t = sum_k (gamma lambda)^k d_{t+k},    return_t = A_t + V_t
    L   = - E min(rho alpha A, clip(rho, 1 - epsilon, 1 + epsilon) alpha A)
          + c * 1/2 E max((V - return)^2, (clip(V, V_old -+ epsilon_v) - return)^2)

A is whitened over the batch, then multiplied by alpha(q), which a whitening afterwards would shrink. alpha
reads the reward gap from the category rewards r_j, as in DR-IRL; what the policy is trained on is the static
reward, as in PPO. This is ppo.py with one factor added: with alpha = 1 it is the same to the last bit.

Equations: docs/paper.md sections 5 (alpha) and 7; arXiv:1707.06347, arXiv:1506.02438.
Deviations: those of PPO and of DR-IRL's alpha. The paper reports PPO-S; that alpha acts after the
normalisation and that the critic's target stays unscaled are our reading.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from drirl.align.interface import Inputs
from drirl.align.returns import clipped_value_loss, generalised_advantages
from drirl.errors import DrirlError
from drirl.hardness.settings import HardnessSettings
from drirl.settings import Section

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl", "static")
PRELOAD = (
    "drirl.align.setup",
    "drirl.align.actor_critic",
    "drirl.hardness.encoder",
    "sentence_transformers",
)


class Config(Section):
    """Section ``align.methods.ppo_s``; budget, KL coefficient, clip range and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of the policy")
    critic_lr: float = Field(1e-3, gt=0, description="learning rate of the critic")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the advantage estimate")
    value_clip: float = Field(0.2, gt=0, description="largest change of a value counted in the loss")
    value_coefficient: float = Field(0.5, ge=0, description="weight of the value loss")
    epochs: int = Field(1, ge=1, description="optimiser steps per batch of completions")
    hardness: HardnessSettings = Field(HardnessSettings(), description="how alpha is computed")

    @field_validator("hardness")
    @classmethod
    def _no_groups(cls, value: HardnessSettings) -> HardnessSettings:
        if value.recentre:
            raise ValueError("'recentre' is for group advantages, PPO has one per token: set it to false")
        return value


def trainer_class() -> Any:
    """Return the actor-critic trainer with DR-IRL's advantage scale on it; built on call, TRL is heavy."""
    from dataclasses import replace

    import torch

    from drirl.align.actor_critic import ActorCriticTrainer
    from drirl.align.rewards import BankReward
    from drirl.align.trainer import DRIRLTrainer, ScoredBatch
    from drirl.reward.bank import RewardBank

    class HardPPOTrainer(DRIRLTrainer, ActorCriticTrainer):
        """Advantages: the critic's, per token and whitened; scale: alpha, its gap from ``gap_bank``.

        Args:
            gap_bank: the category rewards.
            demo_rewards: reward of each prompt's demonstration under ``gap_bank``, by prompt id.
        """

        def __init__(
            self, *args: Any, gap_bank: RewardBank, demo_rewards: dict[str, float], **kwargs: Any
        ) -> None:
            super().__init__(*args, **kwargs)
            policy_reward: Any = self.reward_funcs[0]
            self.gap_reward = BankReward(gap_bank, policy_reward.end_ids)
            self.demo_rewards = demo_rewards

        def advantage_scale(self, batch: ScoredBatch) -> Tensor:
            """Return alpha of each row, (B,), from the category rewards of its completions."""
            rewards = torch.tensor(
                self.gap_reward(
                    prompts=[row["prompt"] for row in batch.rows],
                    completions=batch.completions,
                    completion_ids=batch.completion_ids,
                    category=[row["category"] for row in batch.rows],
                )
            )  # (B,)
            everything = self.accelerator.gather(rewards.to(self.accelerator.device))  # (processes * B,)
            return super().advantage_scale(replace(batch, rewards=rewards, all_rewards=everything))

        def _demo_reward(self, row: dict[str, Any]) -> float:
            return self.demo_rewards[row["prompt_id"]]

    return HardPPOTrainer


def train(inputs: Inputs, config: Config) -> None:
    """Run PPO on the static reward with advantages scaled by alpha; save the policy and its critic."""
    import torch

    from drirl.align.actor_critic import load_critic
    from drirl.align.setup import train_rl
    from drirl.hardness.state import load_hardness
    from drirl.models import resolve_device, seed_everything
    from drirl.reward.bank import RewardBank

    if inputs.shared.beta == 0:
        raise DrirlError(
            "align.shared.beta: PPO-S needs a KL coefficient above 0; set it or leave 'ppo_s' out of "
            "run.methods"
        )
    bank = RewardBank.load(inputs.reward_path, resolve_device(inputs.device))
    scores = bank.score_completions(
        [prompt.text for prompt, _ in inputs.train],
        [demo.full_text for _, demo in inputs.train],
        [True] * len(inputs.train),
        [prompt.category for prompt, _ in inputs.train],
    )
    seed_everything(inputs.seed)
    critic = load_critic(inputs.policy_path, getattr(torch, inputs.dtype), inputs.revision)
    train_rl(
        inputs,
        lr=config.lr,
        reward_path=inputs.static_reward_path,
        num_iterations=config.epochs,
        trainer_class=trainer_class(),
        hardness=load_hardness(config.hardness, inputs.encoder, inputs.cache, inputs.seed),
        gap_bank=bank,
        demo_rewards={p.prompt_id: float(s) for (p, _), s in zip(inputs.train, scores, strict=True)},
        critic=critic,
        critic_lr=config.critic_lr,
        estimate=partial(generalised_advantages, gamma=config.gamma, gae_lambda=config.gae_lambda),
        value_loss=partial(clipped_value_loss, clip=config.value_clip),
        value_coefficient=config.value_coefficient,
    )
    critic.save_pretrained(inputs.out / "critic")
