"""Tests and sizes of paired differences that need no resampling (docs/statistics.md).

Dimension letters: I prompts, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "POWER",
    "cohens_h",
    "detectable",
    "holm",
    "is_binary",
    "mcnemar",
    "mcnemar_of_counts",
    "standardised",
]

Array = NDArray[np.float64]
Name = TypeVar("Name")

POWER = 0.8
"""Power at which the minimum detectable difference is stated."""


def is_binary(values: Array) -> bool:
    """Return whether every score that is there is 0 or 1."""
    seen = values[~np.isnan(values)]
    return bool(((seen == 0) | (seen == 1)).all())


def mcnemar(values: Array, reference: Array) -> float | None:
    """Return the p-value of McNemar's exact test, two-sided, of two policies on the same prompts.

    A prompt counts as 1 for a policy if more than half of its seeds scored 1, as 0 if fewer did; one split
    evenly, or without a score, is left out. b prompts are 1 for the first only and c for the second only:
    under the null b is binomial (b + c, 1/2), and p is twice the smaller tail, at most 1; no such prompt
    gives 1. The test takes prompts for independent and seeds for given, so it says too often that policies
    differ where prompts share intents or seeds vary.

    Args:
        values: (I, K1) scores, 0 or 1, NaN where missing.
        reference: (I, K2) scores of the other policy.
    Returns:
        p in 0..1; None for scores other than 0 and 1, or if no prompt is left.
    Source: McNemar (1947), exact binomial form.
    """
    if not (is_binary(values) and is_binary(reference)):
        return None
    both = ~np.isnan(values).all(1) & ~np.isnan(reference).all(1)
    if not both.any():
        return None
    first = np.sign(np.nanmean(values[both], 1) - 0.5)
    second = np.sign(np.nanmean(reference[both], 1) - 0.5)
    if not ((first != 0) & (second != 0)).any():
        return None
    gained = int(((first > 0) & (second < 0)).sum())
    lost = int(((first < 0) & (second > 0)).sum())
    return mcnemar_of_counts(gained, lost)


def mcnemar_of_counts(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided: twice the smaller binomial tail, at most 1.

    Args:
        gained: prompts whose score rose; ``lost``: whose score fell; ties take no part.
    Source: McNemar (1947), exact binomial form.
    """
    term, total = 1, 1
    for number in range(min(gained, lost)):
        term = term * (gained + lost - number) // (number + 1)
        total += term
    return min(1.0, 2 * total / 2 ** (gained + lost))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return Holm's adjusted p-values: the k-th smallest of m times m - k + 1, never falling, at most 1.

    Source: Holm (1979), a simple sequentially rejective multiple test procedure.
    """
    adjusted: dict[Name, float] = {}
    highest = 0.0
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for place, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def cohens_h(share: float, reference: float) -> float:
    """Return 2 arcsin sqrt(share) - 2 arcsin sqrt(reference), in radians: 0.2 small, 0.5 medium, 0.8 large.

    Source: Cohen (1988), Statistical Power Analysis, chapter 6.
    """
    first, second = (min(1.0, max(0.0, value)) for value in (share, reference))
    return 2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second))


def standardised(values: Array, reference: Array) -> float | None:
    """Return the mean of the prompts' differences in units of their standard deviation (I-1).

    Args:
        values: (I, K1) scores; a prompt's is the mean of its seeds.
        reference: (I, K2) scores of the other policy.
    Returns:
        None with fewer than two prompts, or if all differ by the same.
    """
    both = ~np.isnan(values).all(1) & ~np.isnan(reference).all(1)
    if both.sum() < 2:
        return None
    gaps = np.nanmean(values[both], 1) - np.nanmean(reference[both], 1)
    spread = float(gaps.std(ddof=1))
    return float(gaps.mean()) / spread if spread > 1e-12 else None


def detectable(margin: float, confidence: float, power: float = POWER) -> float:
    """Return the smallest true difference that would be found in ``power`` of all repetitions.

    ``margin`` is half the width of the interval, z standard errors; a difference is found if it lies a
    margin from zero, so it has to be z(power) standard errors larger: 1.43 margins at 95 % and 80 %.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return margin * (z + NormalDist().inv_cdf(power)) / z
