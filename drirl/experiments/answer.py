"""From measured differences to a plain answer, and to how much data an answer would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from drirl.compare.stats import Estimate

__all__ = ["Outcome", "Verdict", "judge", "needed", "overall"]

Outcome = Literal["yes", "no", "unclear", "missing"]
POWER = 0.8


@dataclass(frozen=True)
class Verdict:
    """What one difference says about what was expected of it.

    Attributes:
        opposite: the interval lies on the side that was not expected.
        factor: by how much intents and seeds have to grow for an answer; None unless ``unclear``.
        difference: what could then be told from zero: the measured difference, or the margin if that is
            more; for ``not_worse`` how far the measured one is from a loss of ``margin``, at least half
            of it.
    """

    outcome: Outcome
    opposite: bool = False
    factor: float | None = None
    difference: float | None = None


def judge(
    estimate: Estimate | None, expect: str, *, higher_is_better: bool, margin: float, confidence: float = 0.95
) -> Verdict:
    """Judge a difference ``of - against``.

    ``higher`` (``lower``): yes if the interval lies above (below) zero; no if it lies on the other side or
    rules out a difference of ``margin``. ``differs``: yes if the interval excludes zero; no if it lies within
    the margin on both sides. ``not_worse``: yes if the interval rules out a loss of ``margin``; no if it lies
    on the losing side and the loss measured exceeds the margin.

    Args:
        higher_is_better: whether a larger value is a gain (for ``not_worse``).
        margin: smallest difference that matters, in the unit of the measure.
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return Verdict("missing")
    value, low, high = estimate.value, estimate.low, estimate.high
    if expect == "lower" or (expect == "not_worse" and not higher_is_better):
        value, low, high = -value, -high, -low
    if expect == "differs":
        if estimate.excludes_zero:
            return Verdict("yes")
        if -margin < low and high < margin:
            return Verdict("no")
        return _unclear(estimate, max(abs(value), margin), confidence)
    if expect == "not_worse":
        if low > -margin:
            return Verdict("yes")
        if high < 0 and value < -margin:
            return Verdict("no", opposite=True)
        return _unclear(estimate, max(abs(value + margin), margin / 2), confidence)
    if low > 0:
        return Verdict("yes")
    if high < 0:
        return Verdict("no", opposite=True)
    if high < margin:
        return Verdict("no")
    return _unclear(estimate, max(abs(value), margin), confidence)


def _unclear(estimate: Estimate, difference: float, confidence: float) -> Verdict:
    return Verdict("unclear", factor=needed(estimate, difference, confidence), difference=difference)


def needed(estimate: Estimate, difference: float, confidence: float = 0.95) -> float:
    """Return the factor by which intents and seeds must grow to tell ``difference`` from zero, at least 1.

    The half-width h of an interval falls with the square root of the number of independent draws, when
    intents and seeds grow alike. A difference d is found with 80 % power once the standard error is
    d / (z + z_power); with h = z * error the factor is (h (1 + z_power / z) / d)^2. h is that of the interval
    before it was cut at the largest difference possible.
    """
    assert estimate.low is not None
    assert estimate.high is not None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = estimate.margin if estimate.margin is not None else (estimate.high - estimate.low) / 2
    if difference <= 0:
        return math.inf
    return max(1.0, (half * (1 + NormalDist().inv_cdf(POWER) / z) / difference) ** 2)


def overall(verdicts: Sequence[Verdict], rule: str) -> Outcome:
    """Join verdicts: ``all`` needs every one to be yes, ``any`` at least one."""
    outcomes = [verdict.outcome for verdict in verdicts]
    if not outcomes or all(o == "missing" for o in outcomes):
        return "missing"
    decisive: Outcome = "no" if rule == "all" else "yes"
    other: Outcome = "yes" if rule == "all" else "no"
    if decisive in outcomes:
        return decisive
    if "missing" in outcomes:
        return "missing"
    return "unclear" if "unclear" in outcomes else other
