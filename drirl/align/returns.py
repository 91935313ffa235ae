"""What PPO computes from rewards and values: generalised advantages and the clipped value loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["clipped_value_loss", "generalised_advantages"]


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, (B, T) each, 0 outside the completion.

    Args:
        rewards, values: (B, T) reward of each token and value of the state before it.
        mask: (B, T) 1 for completion tokens, then 0; after the last one the value is 0.
    Source: arXiv:1506.02438, equation 16.
    """
    rewards, values = rewards * mask, values * mask
    advantages = rewards.new_zeros(rewards.shape)
    running = rewards.new_zeros(rewards.shape[0])  # (B,)
    following = running
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + gamma * following - values[:, t]
        running = (error + gamma * gae_lambda * running) * mask[:, t]
        advantages[:, t] = running
        following = values[:, t]
    return advantages, (advantages + values) * mask


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Return half the mean squared error of the values, per token the larger of plain and clipped.

    Args:
        values, old_values, returns: (B, T); ``old_values`` are those of the rollout.
        mask: (B, T) 1 for completion tokens.
        clip: a value may leave its old one by this much before the clipped error stops following it.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    error = (values - returns).square().maximum((near - returns).square())
    return 0.5 * (error * mask).sum() / mask.sum().clamp(min=1)
