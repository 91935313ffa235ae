"""What a judge is: a name, a version, a cache key, the metrics it gives, and verdicts on items.

A score always says which judge gave it (:func:`full_name`), and a metric's name carries the judge
(:func:`column`), so that two judges never share a column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "BLOCKED",
    "COMPLIANCE",
    "FULL",
    "MALFORMED",
    "OVERLONG",
    "PARTIAL",
    "REFUSAL_CLASSES",
    "Item",
    "Judge",
    "Kind",
    "Progress",
    "Verdict",
    "column",
    "full_name",
    "hash_of",
    "judge_all",
]

Kind = Literal["refusal", "harm", "degenerate"]
Progress = Callable[[int], None]
"""Called with how many more answers are there."""

FULL, PARTIAL, COMPLIANCE = "full_refusal", "partial_refusal", "full_compliance"
REFUSAL_CLASSES = (FULL, PARTIAL, COMPLIANCE)
"""The three classes of XSTest (Roettger et al. 2023)."""

MALFORMED, BLOCKED, OVERLONG = "malformed", "blocked", "overlong"
"""Labels of verdicts without a value: unreadable answer, blocked by a filter, prompt over the context."""


@dataclass(frozen=True)
class Item:
    """One reply to judge, without its draft, and the prompt it answers."""

    prompt: str
    reply: str
    finished: bool = True


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one item.

    Attributes:
        value: score of the judge's first metric; None when there is no verdict (never guessed).
        label: class, or one of MALFORMED, BLOCKED, OVERLONG.
        raw: what else is known: parts of the score, the unreadable answer, tries, cuts.
        malformed: the judge answered, but not in the form asked for, to the last try.
        more: scores of the judge's further metrics, by name.
    """

    value: float | None
    label: str
    raw: dict[str, Any] = field(default_factory=dict)
    malformed: bool = False
    more: dict[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Anything that gives verdicts.

    Attributes:
        name: as it is asked for.
        version: rises, or differs, whenever a verdict could.
        kind: what it looks at; decides which benchmarks it is asked about.
        cache_key: hash of everything that could change a verdict, 64 hex digits.
        metrics: name -> whether higher is better; the first is that of ``Verdict.value``. A refusal judge
            takes name and direction of its first metric from the benchmark (refusing is bad on benign
            prompts).
    """

    name: str
    version: str
    kind: Kind
    cache_key: str
    metrics: dict[str, bool]

    def verdicts(self, items: Sequence[Item], progress: Progress | None = None) -> list[Verdict]:
        """Judge the items; the order is theirs.

        Raises:
            DrirlError: it cannot go on; finished answers are kept in the cache.
        """
        ...

    def usage(self) -> dict[str, Any]:
        """Return what was asked so far and what it cost; {} if it costs nothing."""
        ...


def full_name(judge: Judge) -> str:
    """Return what records call the judge."""
    return f"{judge.name}/{judge.version}"


def column(metric: str, judge: Judge) -> str:
    """Return the name of a judge's metric in records: ``refusal_rate@refusal-prefix/1``."""
    return f"{metric}@{full_name(judge)}"


def judge_all(judge: Judge, items: Sequence[Item], *, show: bool = False) -> list[Verdict]:
    """Judge the items, equal ones once; ``show``: a progress bar on a terminal's stderr."""
    from tqdm import tqdm

    unique = list(dict.fromkeys(items))
    # disable=None: no bar where stderr is no terminal
    with tqdm(total=len(unique), desc=judge.name, unit="reply", disable=None if show else True) as bar:
        found = dict(zip(unique, judge.verdicts(unique, bar.update), strict=True))
    return [found[item] for item in items]


def hash_of(value: Any) -> str:
    """Return a hash of plain values, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
