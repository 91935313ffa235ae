"""How well yes-or-no verdicts agree with people: five measures, with intervals that redraw questions.

Several replies answer one question, so the bootstrap redraws questions with all their replies. A sample
without an error would give the interval [1, 1]; each interval is therefore never narrower than one built from
Wilson's intervals of recall and specificity by the method of variance estimates recovery (Zou and Donner
2008): the lower limit of f(recall, specificity) is f - sqrt(sum of (f - f with one of them at its lower
limit)^2).

Dimension letters: C questions, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drirl.compare.stats import wilson

__all__ = ["MEASURES", "Agreement", "Measure", "agree", "measure"]

MEASURES = ("accuracy", "precision", "recall", "specificity", "balanced_accuracy", "kappa")
_UNDEFINED = 0.05
"""No interval is given if a measure is undefined in more than this share of the draws."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A value with its interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Verdicts against labels.

    Attributes:
        counts: true positives, false negatives, false positives, true negatives.
        missing: items without a verdict; in no count.
        questions: distinct questions among the counted.
    """

    counts: tuple[int, int, int, int]
    missing: int
    questions: int
    measures: dict[str, Measure]

    @property
    def n(self) -> int:
        """Items counted."""
        return sum(self.counts)


def measure(name: str, counts: Array) -> Array:
    """Return one measure of counts (..., 4) in the order tp, fn, fp, tn; NaN where it is undefined.

    kappa = (p_o - p_e) / (1 - p_e), Cohen (1960); balanced accuracy = (recall + specificity) / 2.
    """
    tp, fn, fp, tn = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    n = tp + fn + fp + tn
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "accuracy":
            return np.asarray((tp + tn) / n)
        if name == "precision":
            return np.asarray(tp / (tp + fp))
        if name == "recall":
            return np.asarray(tp / (tp + fn))
        if name == "specificity":
            return np.asarray(tn / (tn + fp))
        if name == "balanced_accuracy":
            return np.asarray((tp / (tp + fn) + tn / (tn + fp)) / 2)
        expected = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
        return np.asarray(np.where(expected == 1, np.nan, ((tp + tn) / n - expected) / (1 - expected)))


def agree(
    verdicts: Sequence[float | None],
    labels: Sequence[bool],
    questions: Sequence[object],
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Compare verdicts with labels, item by item.

    Args:
        verdicts: 1 for yes, 0 for no, None for no verdict (counted as missing, in no measure).
        labels: what people say.
        questions: the question of each item; redrawn as a whole.
        seed: the same questions get the same draws, whatever the judge.
    """
    kept = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    names = {name: k for k, name in enumerate(sorted({str(questions[i]) for i in kept}))}
    table = np.zeros((len(names), 4))  # (C, 4)
    for i in kept:
        table[names[str(questions[i])], 2 * (not labels[i]) + (not verdicts[i])] += 1
    counts = table.sum(0)  # (4,)
    missing = len(verdicts) - len(kept)
    if not kept:
        return Agreement((0, 0, 0, 0), missing, 0, dict.fromkeys(MEASURES, Measure(None, None, None)))
    c = len(names)
    weights = np.random.default_rng([seed, c]).multinomial(c, np.full(c, 1 / c), size=draws)  # (B, C)
    drawn = weights @ table  # (B, 4)
    limits = _limits(table, drawn, confidence)
    found = {name: _with_interval(name, counts, drawn, limits, confidence) for name in MEASURES}
    a, b, d, e = (int(count) for count in counts)
    return Agreement((a, b, d, e), missing, c, found)


def _limits(table: Array, drawn: Array, confidence: float) -> list[tuple[Array, Array]]:
    """Return the counts (4,) with recall, then specificity, at its lower and at its upper Wilson limit."""
    counts = table.sum(0)
    limits = []
    for right, wrong, name in ((0, 1, "recall"), (3, 2, "specificity")):
        n = counts[right] + counts[wrong]
        if n == 0:
            continue
        share = counts[right] / n
        sample = measure(name, drawn)
        variance = float(np.nanvar(sample)) if np.isfinite(sample).any() else 0.0
        # Replies to one question are alike; without an error in sight each question counts once.
        clusters = float(((table[:, right] + table[:, wrong]) > 0).sum())
        worth = min(float(n), share * (1 - share) / variance) if variance > 0 else clusters
        pair = []
        for limit in wilson(float(share), max(worth, 1.0), confidence):
            moved = counts.copy()
            moved[right], moved[wrong] = limit * n, (1 - limit) * n
            pair.append(moved)
        limits.append((pair[0], pair[1]))
    return limits


def _with_interval(
    name: str, counts: Array, drawn: Array, limits: list[tuple[Array, Array]], confidence: float
) -> Measure:
    value = float(measure(name, counts))
    if np.isnan(value):
        return Measure(None, None, None)
    sample = measure(name, drawn)
    defined = sample[~np.isnan(sample)]
    if len(defined) < (1 - _UNDEFINED) * len(sample):
        return Measure(value, None, None)
    tail = (1 - confidence) / 2
    low, high = (float(x) for x in np.quantile(defined, [tail, 1 - tail]))
    steps = [[value - float(measure(name, moved)) for moved in pair] for pair in limits]
    down, up = (np.sqrt(sum(gap[side] ** 2 for gap in steps)) for side in (0, 1))
    if np.isfinite(down) and np.isfinite(up):
        low, high = min(low, value - float(down)), max(high, value + float(up))
    floor = -1.0 if name == "kappa" else 0.0
    return Measure(value, max(floor, low), min(1.0, high))
