"""The formulas of the hardness coefficient as pure functions (paper section 5, equations 1 to 9).

Letters: P prompts, G completions per prompt, M gaps of one category in the batch (M_j), K and L
sub-sentences of a completion and of the demonstration, d embedding size. Everything is computed in
float64, is unitless and carries no gradient. NaN stands for "missing".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "alpha_gap",
    "alpha_text",
    "clamp_alpha",
    "combine",
    "constant_alpha",
    "dissimilarity",
    "filtered_mean",
    "fixed_mask",
    "gaussian_mask",
    "inverse_alpha",
    "masked_count",
    "overlap",
    "quantile_mask",
    "reward_gap",
    "running_mean",
    "scale_advantages",
    "shuffled_alpha",
    "sigmoid_ratio",
    "similarity",
]


def similarity(generated: Tensor, demonstration: Tensor) -> Tensor:
    """Cosines s_kl between sub-sentences (equation 2).

    Args:
        generated: (K, d) embeddings, any norm.
        demonstration: (L, d) embeddings, any norm.
    Returns:
        (K, L) in [-1, 1]. A zero vector has cosine 0 with everything; equal vectors have exactly 1.
    """
    a, b = _plain(generated), _plain(demonstration)
    norms = a.norm(dim=-1)[:, None] * b.norm(dim=-1)[None, :]  # (K, L)
    dots = (a[:, None, :] * b[None, :, :]).sum(dim=-1)  # (K, L)
    cosines = (dots / norms.where(norms > 0, 1.0)).clamp(-1.0, 1.0)
    equal = (a[:, None, :] == b[None, :, :]).all(dim=-1)
    return cosines.where(~equal, 1.0).where(norms > 0, 0.0)


def overlap(s: Tensor, direction: str = "gen_to_demo") -> Tensor:
    """W: the mean over pieces of the best cosine (equation 2).

    Args:
        s: (K, L) cosines, K and L at least 1.
        direction: ``gen_to_demo`` (mean over K of the maximum over L), ``demo_to_gen`` (mean over L of the
            maximum over K), or ``symmetric`` (the mean of both).
    Returns:
        scalar in [-1, 1].
    Raises:
        ValueError: unknown direction.
    """
    forward, backward = s.max(dim=1).values.mean(), s.max(dim=0).values.mean()
    if direction == "gen_to_demo":
        return forward
    if direction == "demo_to_gen":
        return backward
    if direction == "symmetric":
        return (forward + backward) / 2
    raise ValueError(f"unknown direction {direction!r}")


def dissimilarity(generated: Tensor, demonstration: Tensor, direction: str = "gen_to_demo") -> float:
    """Delta = 1 - W (equation 3): larger means less like the demonstration.

    Args:
        generated: (K, d) sub-sentence embeddings of a completion.
        demonstration: (L, d) sub-sentence embeddings of the demonstration.
    Returns:
        delta in [0, 2]; 1 if K = 0 (silence is not agreement); NaN if L = 0 (no demonstration).
    """
    if len(demonstration) == 0:
        return math.nan
    if len(generated) == 0:
        return 1.0
    return min(2.0, max(0.0, 1.0 - overlap(similarity(generated, demonstration), direction).item()))


def sigmoid_ratio(value: Tensor, baseline: float) -> Tensor:
    """sigmoid(value) / sigmoid(baseline), through logarithms so that large arguments do not give 0/0."""
    value = _plain(value)
    return (logsigmoid(value) - logsigmoid(torch.tensor(baseline, dtype=torch.float64))).exp()


def alpha_text(delta: Tensor, delta_mean: float) -> Tensor:
    """alpha^D = sigmoid(delta) / sigmoid(mean delta of the category) (equation 4).

    Args:
        delta: any shape; NaN where the demonstration is missing.
        delta_mean: running mean of the category; NaN if it has none.
    Returns:
        the shape of ``delta``; 1 where something is missing. In [0.684, 1.462] for arguments in [0, 1].
    """
    return sigmoid_ratio(delta, delta_mean).nan_to_num(nan=1.0, posinf=math.inf)


def reward_gap(r_demo: Tensor, r_gen: Tensor) -> Tensor:
    """R = r(demonstration) - r(completion) (equation 5).

    Args:
        r_demo: (P,) calibrated rewards of the demonstrations; NaN where missing.
        r_gen: (P, G) calibrated rewards of the completions.
    Returns:
        (P, G); NaN wherever one of the two is missing or not finite.
    """
    gap = _plain(r_demo)[:, None] - _plain(r_gen)
    return gap.where(gap.isfinite(), math.nan)


def masked_count(m: int, share: float) -> int:
    """T = floor(share * M), safe against 0.2 * 5 falling just below 1."""
    return math.floor(share * m + 1e-9)


def quantile_mask(gaps: Tensor, centre: float, share: float = 0.2) -> Tensor:
    """Mask the floor(share * M) gaps farthest from ``centre`` (equation 6, tau a quantile of the batch).

    tau is the largest squared deviation that has to stay, so a tie at the limit stays whole and the
    result does not depend on the order of the gaps.

    Args:
        gaps: (M,) finite reward gaps of one category.
        centre: the running mean of the category's gap.
    Returns:
        (M,) bool, True = kept.
    """
    squared = (_plain(gaps) - centre) ** 2
    if len(squared) == 0:
        return torch.zeros(0, dtype=torch.bool)
    tau = squared.sort().values[len(squared) - 1 - masked_count(len(squared), share)]
    return squared <= tau


def fixed_mask(gaps: Tensor, centre: float, tau: float) -> Tensor:
    """Keep gaps whose squared deviation from ``centre`` is at most ``tau`` (equation 6); (M,) bool."""
    return (_plain(gaps) - centre) ** 2 <= tau


def gaussian_mask(gaps: Tensor, centre: float, share: float, rng: np.random.Generator) -> Tensor:
    """Draw M - floor(share * M) gaps without replacement, weights exp(-(gap - centre)^2 / 2).

    The filter of DAMA's released code; drawn by the Gumbel top-k trick, so weights cannot underflow.

    Returns:
        (M,) bool, True = drawn.
    """
    log_weights = -0.5 * (_plain(gaps) - centre).numpy() ** 2
    keep = len(log_weights) - masked_count(len(log_weights), share)
    keys = log_weights + rng.gumbel(size=len(log_weights))
    kept = torch.zeros(len(log_weights), dtype=torch.bool)
    kept[torch.from_numpy(np.argsort(-keys, kind="stable")[:keep])] = True
    return kept


def filtered_mean(gaps: Tensor, mask: Tensor, otherwise: float) -> float:
    """Mean of the kept gaps (equation 7); ``otherwise`` if none is kept (M - T = 0).

    Args:
        gaps: (M,) finite. mask: (M,) bool, True = kept.
    """
    return _mean(_plain(gaps)[mask]) if bool(mask.any()) else otherwise


def alpha_gap(filtered: float, gap_mean: float) -> float:
    """alpha^M = sigmoid(filtered batch mean) / sigmoid(running mean) (equation 8).

    In (0, 2) if the running mean is at least 0; 1 if either is NaN (no gap in the batch).
    """
    if math.isnan(filtered) or math.isnan(gap_mean):
        return 1.0
    return sigmoid_ratio(torch.tensor(filtered, dtype=torch.float64), gap_mean).item()


def running_mean(previous: float | None, batch_mean: float, gamma: float = 0.9) -> float:
    """gamma * previous + (1 - gamma) * batch mean; the first batch sets it; a NaN batch changes nothing."""
    if previous is None:
        return batch_mean
    return previous if math.isnan(batch_mean) else gamma * previous + (1 - gamma) * batch_mean


def combine(alpha_d: Tensor, alpha_m: Tensor, how: str = "product", weight: float | None = None) -> Tensor:
    """alpha from its two factors (equation 9 and the ablations), any one shape.

    Args:
        how: ``product``, ``weighted_sum`` (weight * alpha_D + (1 - weight) * alpha_M), ``only_D``,
            ``only_M`` or ``off`` (ones).
        weight: lambda in [0, 1], for ``weighted_sum`` only.
    Raises:
        ValueError: unknown ``how``, or weighted_sum without a weight.
    """
    if how == "product":
        return alpha_d * alpha_m
    if how == "weighted_sum" and weight is not None:
        return weight * alpha_d + (1 - weight) * alpha_m
    if how == "only_D":
        return alpha_d.clone()
    if how == "only_M":
        return alpha_m.clone()
    if how == "off":
        return torch.ones_like(alpha_d)
    raise ValueError(f"unknown combination {how!r} with weight {weight}")


def clamp_alpha(alpha: Tensor, low: float = 0.25, high: float = 4.0) -> Tensor:
    """Limit alpha to [low, high]."""
    return alpha.clamp(low, high)


def inverse_alpha(alpha: Tensor) -> Tensor:
    """1 / alpha: the opposite reading of the sign."""
    return 1.0 / alpha


def shuffled_alpha(alpha: Tensor, use: Tensor, rng: np.random.Generator) -> Tensor:
    """Permute the entries where ``use`` is True among themselves; same mean, no link to the prompt."""
    chosen = alpha[use]
    result = alpha.clone()
    result[use] = chosen[torch.from_numpy(rng.permutation(len(chosen)))]
    return result


def constant_alpha(alpha: Tensor, use: Tensor) -> Tensor:
    """Give every entry the mean over entries where ``use`` is True: a plain change of step size.

    Without any entry in use it is 1.
    """
    return torch.full_like(alpha, _mean(alpha[use]) if bool(use.any()) else 1.0)


def scale_advantages(advantages: Tensor, weights: Tensor, recentre: bool = False) -> Tensor:
    """Multiply group-normalised advantages by alpha (paper section 6).

    Alpha has to act after the normalisation of the group: a factor on the reward would be divided out.

    Args:
        advantages: (P, G); may be NaN where ``weights`` is 0.
        weights: (P, G) alpha of each completion; 0 drops it.
        recentre: subtract, in each group, the mean over the completions that were not dropped.
    Returns:
        (P, G) in the dtype of ``advantages``; 0 where dropped.
    """
    factors = weights.detach().to(advantages.dtype).to(advantages.device)
    used = factors > 0
    scaled = (advantages.where(used, 0.0) * factors).where(used, 0.0)
    if recentre:
        count = used.sum(dim=1, keepdim=True).clamp(min=1)
        scaled = (scaled - scaled.sum(dim=1, keepdim=True) / count).where(used, 0.0)
    return scaled


def _plain(values: Tensor) -> Tensor:
    return values.detach().to(device="cpu", dtype=torch.float64)


def _mean(values: Tensor) -> float:
    """Mean that does not depend on the order of the values, to the last bit."""
    return math.fsum(values.tolist()) / len(values)
