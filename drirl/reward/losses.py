"""Losses of maximum-likelihood IRL: pure functions of reward tensors (paper section 4).

Dimension letters: B prompts (one demonstration each), K negatives per prompt.

The likelihood gradient is (1/beta)(E_D[grad r] - E_policy[grad r]); the linear objective behind it has no
bound, so the classes here stand in for it. At r = 0 the logistic loss has exactly half its gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["infonce_loss", "logistic_loss", "penalty"]


def logistic_loss(chosen: Tensor, rejected: Tensor, weights: Tensor) -> Tensor:
    """Bradley-Terry loss -log sigma(r(x,y) - r(x,y~_k)), averaged over pairs by weight.

    Args:
        chosen: (B,) raw rewards of the demonstrations.
        rejected: (B, K) raw rewards of the negatives; entries of weight 0 may hold anything finite.
        weights: (B, K), each in [0, 1].
    Returns:
        Scalar, nats; 0 if every weight is 0.
    Source: paper section 4, loss ``logistic``.
    """
    _check(chosen, rejected, weights)
    losses = F.softplus(rejected - chosen[:, None])  # (B, K)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-8)


def infonce_loss(chosen: Tensor, rejected: Tensor, weights: Tensor, beta: float = 1.0) -> Tensor:
    """Contrast the demonstration with all its negatives at once.

    L = -log[e^{r(y)/beta} / (e^{r(y)/beta} + sum_k w_k e^{r(y~_k)/beta})], averaged over the prompts that
    have a negative of positive weight. Equals :func:`logistic_loss` for K = 1, weight 1 and beta = 1.

    Args:
        chosen: (B,); rejected: (B, K); weights: (B, K) in [0, 1], as in :func:`logistic_loss`.
        beta: temperature in reward units.
    Returns:
        Scalar, nats; 0 if every weight is 0.
    Source: paper section 4, loss ``infonce``.
    """
    _check(chosen, rejected, weights)
    live = weights.sum(1) > 0  # (B,)
    logits = torch.where(weights > 0, rejected / beta + weights.clamp(min=1e-30).log(), -torch.inf)  # (B, K)
    top = (chosen / beta)[:, None]  # (B, 1)
    losses = torch.logsumexp(torch.cat([top, logits], 1), 1) - top[:, 0]  # (B,)
    return (losses * live).sum() / live.sum().clamp(min=1)


def penalty(
    chosen: Tensor, rejected: Tensor, weights: Tensor, form: Literal["each", "sum"] = "each"
) -> Tensor:
    """Mean over pairs, by weight, of r(y)^2 + r(y~)^2 (``each``) or of (r(y) + r(y~))^2 (``sum``).

    The first keeps raw rewards near zero and bounded; the second holds the centre of a pair at zero only.

    Args:
        chosen: (B,); rejected: (B, K); weights: (B, K), as in :func:`logistic_loss`.
    Returns:
        Scalar, reward units squared; 0 if every weight is 0.
    Source: paper section 4, step 5; ``sum`` is the form of the works it builds on.
    """
    _check(chosen, rejected, weights)
    if form == "sum":
        squares = (chosen[:, None] + rejected).square()  # (B, K)
    else:
        squares = chosen[:, None].square() + rejected.square()  # (B, K)
    return (squares * weights).sum() / weights.sum().clamp(min=1e-8)


def _check(chosen: Tensor, rejected: Tensor, weights: Tensor) -> None:
    if rejected.dim() != 2 or chosen.shape != rejected.shape[:1] or weights.shape != rejected.shape:
        raise ValueError(
            f"expected chosen (B,), rejected (B, K), weights (B, K); found {tuple(chosen.shape)}, "
            f"{tuple(rejected.shape)}, {tuple(weights.shape)}"
        )
