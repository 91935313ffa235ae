"""Exactly the same number of prompts in every category, and the imbalanced control (paper section 3)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

from drirl.data.raw import RawPrompt
from drirl.data.taxonomy import CATEGORIES, IMBALANCED_ORDER

__all__ = ["Candidate", "Drawer", "imbalanced_counts", "round_robin"]


@dataclass(frozen=True)
class Candidate:
    """A collected prompt with its id, cluster and split."""

    raw: RawPrompt
    prompt_id: str
    cluster: int
    split: str


def round_robin(candidates: Iterable[Candidate], *, seed: int, label: str) -> list[Candidate]:
    """Order candidates so that any prefix spreads evenly over (source, cluster) pairs.

    Pairs take turns in a seeded order; within a pair the levels of difficulty take turns, too, each in
    a seeded order.
    """
    groups: dict[tuple[str, int], dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        groups[candidate.raw.source, candidate.cluster][candidate.raw.level].append(candidate)
    rng = random.Random(f"{seed}/round-robin/{label}")
    queues = []
    for pair in sorted(groups):
        levels = [sorted(groups[pair][level], key=lambda c: c.prompt_id) for level in sorted(groups[pair])]
        for level in levels:
            rng.shuffle(level)
        rng.shuffle(levels)
        queues.append(_take_turns(levels))
    rng.shuffle(queues)
    return _take_turns(queues)


def _take_turns(queues: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


class Drawer:
    """Draws prompts of one category (or kind) in a fixed order, leaving out rejected ones.

    Weakly mapped prompts fill at most ``max_weak`` and synthetic ones at most ``max_synthetic`` of a draw;
    synthetic ones come last in the order, so they only fill what real ones leave.
    """

    def __init__(self, order: Sequence[Candidate], *, max_weak: float, max_synthetic: float) -> None:
        self.order = order
        self.max_weak = max_weak
        self.max_synthetic = max_synthetic
        self.rejected: dict[str, str] = {}

    def draw(self, count: int | None, *, short: bool = False) -> list[Candidate]:
        """Return the first ``count`` prompts (None: all) that are not rejected, or as many as there are.

        The shares are those of ``count``. With ``short`` they are those of what is drawn, where that is less:
        a split that takes all there is keeps to them, too.
        """
        wanted = len(self.order) if count is None else count
        drawn = self._draw(wanted)
        while short and len(drawn) < wanted:
            wanted = len(drawn)
            drawn = self._draw(wanted)
        return drawn

    def _draw(self, wanted: int) -> list[Candidate]:
        weak, synthetic = floor(self.max_weak * wanted + 1e-9), floor(self.max_synthetic * wanted + 1e-9)
        drawn: list[Candidate] = []
        for candidate in self.order:
            if len(drawn) == wanted:
                break
            if candidate.prompt_id in self.rejected:
                continue
            if candidate.raw.weak_map:
                if weak == 0:
                    continue
                weak -= 1
            if candidate.raw.synthetic:
                if synthetic == 0:
                    continue
                synthetic -= 1
            drawn.append(candidate)
        return drawn


def imbalanced_counts(total: int, s: float, available: Sequence[int]) -> list[int]:
    """Return n_j proportional to 1/rank^s over ``IMBALANCED_ORDER``, adding up to ``total`` if they can.

    Args:
        total: prompts wanted over all categories, 7 N for a control of equal size.
        s: exponent; 0 gives equal counts.
        available: (7,) prompts each category can give. If the head lacks prompts the whole control
            shrinks, so that the shape stays.
    Returns:
        (7,) counts by category number, rounded by largest remainder.
    """
    weight = [0.0] * len(CATEGORIES)
    for rank, category in enumerate(IMBALANCED_ORDER, 1):
        weight[category] = 1 / rank**s
    norm = sum(weight)
    for size in range(total, 0, -1):
        counts = _largest_remainder([size * w / norm for w in weight], size)
        if all(count <= have for count, have in zip(counts, available, strict=True)):
            return counts
    return [0] * len(CATEGORIES)


def _largest_remainder(exact: Sequence[float], total: int) -> list[int]:
    counts = [floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
