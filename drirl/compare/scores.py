"""The scores of a policy on a benchmark: a matrix of prompts by seeds; its slices; several put together.

Dimension letters: I prompts, K seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from drirl.compare.names import ALL, CATEGORIES, category_name
from drirl.errors import DrirlError
from drirl.records import EvalItem

__all__ = [
    "SLICED_BY",
    "Item",
    "Key",
    "Scores",
    "has",
    "joined",
    "parse_metric",
    "pool",
    "select",
    "slices",
]

Key = tuple[str, str]
"""(benchmark, metric)."""

SLICED_BY = ("level", "category", "novelty")
_METRIC = re.compile(r"^(?P<name>[^\[\]]+)(\[(?P<field>level|category|novelty)=(?P<value>.*)\])?$")


@dataclass(frozen=True)
class Item:
    """What is known of one prompt besides its scores."""

    item_id: str
    cluster: str
    category: int
    kind: str
    level: str
    novelty: str


@dataclass(frozen=True)
class Scores:
    """One metric of one policy on one benchmark.

    Attributes:
        items: I prompts, sorted by id.
        seeds: K training seeds, sorted.
        values: (I, K) score of each prompt and seed; NaN where it is missing.
        judge: name and version of what gave the scores; over several benchmarks, all of them.
        template_hash: hash of the chat template the prompts were put in; all of them if seeds differ.
        task_version: version of the task; over several benchmarks, all of them.
        decode: settings of decoding as JSON; over several benchmarks empty.
        cut: prompts that lost their beginning to fit the context, in the seed with most of them.
        parts: (I,) task of each prompt where the score is the mean over tasks; empty: over prompts.
    """

    model: str
    method: str
    benchmark: str
    metric: str
    higher_is_better: bool
    items: tuple[Item, ...]
    seeds: tuple[int, ...]
    values: NDArray[np.float64]
    judge: str = ""
    template_hash: str = ""
    task_version: str = ""
    decode: str = ""
    cut: int = 0
    parts: tuple[str, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        """The cluster (intent) of every prompt, (I,)."""
        return tuple(item.cluster for item in self.items)


def joined(names: Iterable[str]) -> str:
    return " ".join(sorted({part for name in names for part in name.split(" ")} - {""}))


def pool(parts: Sequence[Scores], benchmark: str = ALL, *, even: bool = False) -> Scores:
    """Put the prompts of several benchmarks together as one, by default ``all``.

    Args:
        even: parts are to count the same whatever their sizes (``Scores.parts``); a seed in which one of them
            has no score gets none.
    """
    seeds = tuple(sorted({seed for part in parts for seed in part.seeds}))
    items: list[Item] = []
    blocks = []
    for part in parts:
        block = np.full((len(part.items), len(seeds)), np.nan)
        for column, seed in enumerate(part.seeds):
            block[:, seeds.index(seed)] = part.values[:, column]
        blocks.append(block)
        for item in part.items:
            name = f"{part.benchmark}/{item.item_id}"
            items.append(Item(name, item.cluster, item.category, item.kind, item.level, item.novelty))
    head = parts[0]
    values = np.concatenate(blocks)  # (sum of I, K)
    if even:
        values[:, np.any([np.isnan(block).all(0) for block in blocks], axis=0)] = np.nan
    return Scores(
        head.model,
        head.method,
        benchmark,
        head.metric,
        head.higher_is_better,
        tuple(items),
        seeds,
        values,
        joined(part.judge for part in parts),
        joined(part.template_hash for part in parts),
        joined(part.task_version for part in parts),
        parts=tuple(part.benchmark for part in parts for _ in part.items) if even else (),
    )


def parse_metric(metric: str) -> tuple[str, str | None, str]:
    """Split ``name[field=value]`` into name, field (None without brackets) and value.

    Raises:
        DrirlError: not of that form.
    """
    match = _METRIC.match(metric)
    if match is None:
        raise DrirlError(
            f"metric '{metric}': expected a name, or name[level=...], name[category=...], name[novelty=...]"
        )
    return match["name"], match["field"], match["value"] or ""


def has(item: Item | EvalItem, by: str, wanted: str) -> bool:
    """Return whether the level, category (by name) or novelty of a prompt is ``wanted``."""
    if by == "category":
        return category_name(item.category) == wanted
    return bool(getattr(item, by) == wanted)


def select(scores: Scores, by: str, wanted: str) -> Scores | None:
    """Return the prompts whose ``by`` (level, category, novelty) is ``wanted``; None if there are none."""
    return _part(scores, by, wanted, [has(item, by, wanted) for item in scores.items])


def _part(scores: Scores, by: str, wanted: str, chosen: Sequence[bool]) -> Scores | None:
    keep = [number for number, taken in enumerate(chosen) if taken]
    if not keep:
        return None
    return replace(
        scores,
        metric=f"{scores.metric}[{by}={wanted}]",
        items=tuple(scores.items[number] for number in keep),
        values=scores.values[keep],
    )


_LEVELS = ("direct", "paraphrased", "disguised")


def slices(scores: Scores) -> list[Scores]:
    """Return the parts of ``scores`` by level, category and novelty, where there are at least two parts."""
    parts: list[Scores] = []
    if scores.parts:
        return parts
    for by in SLICED_BY:
        labels = [
            category_name(item.category) if by == "category" else getattr(item, by) for item in scores.items
        ]
        order = {name: number for number, name in enumerate(CATEGORIES if by == "category" else _LEVELS)}
        names = sorted(set(labels) - {""}, key=lambda name: (order.get(name, len(order)), name))
        if len(names) < 2:
            continue
        for name in names:
            part = _part(scores, by, name, [label == name for label in labels])
            if part is not None:
                parts.append(part)
    return parts
