"""The judges that need no model: the instruments of :mod:`drirl.detect` behind the interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import drirl.detect
from drirl.detect import DEGENERATE_JUDGE, REFUSAL_JUDGE, REFUSAL_JUDGES, degenerate, refusal_class
from drirl.judge.interface import COMPLIANCE, FULL, PARTIAL, Item, Kind, Progress, Verdict, hash_of

__all__ = ["CLASS_JUDGE", "RULE_JUDGES", "RuleJudge", "rule_judge"]

CLASS_JUDGE = "refusal-classes/1"
"""The three classes by the rules of ``refusal-rules/1``: the same full refusals, partial ones apart."""
_CLASSES = {"full": FULL, "partial": PARTIAL, "none": COMPLIANCE}
EMPTY, REFUSES, OTHER = "empty", "refusal", "no_refusal"


class RuleJudge:
    """One function from an item to a verdict, applied to each."""

    def __init__(
        self, name: str, kind: Kind, metrics: dict[str, bool], verdict: Callable[[Item], Verdict]
    ) -> None:
        self.name, _, self.version = name.rpartition("/")
        self.kind: Kind = kind
        self.metrics = metrics
        self._verdict = verdict
        self.cache_key = hash_of({"name": name, "rules": _rules_hash(), "wrapper": 1})

    def verdicts(self, items: Sequence[Item], progress: Progress | None = None) -> list[Verdict]:
        found = []
        for item in items:
            found.append(self._verdict(item))
            if progress:
                progress(1)
        return found

    def usage(self) -> dict[str, Any]:
        return {}


def _rules_hash() -> str:
    return hashlib.sha256(Path(drirl.detect.__file__).read_bytes()).hexdigest()


def _binary(refuses: Callable[[str], bool]) -> Callable[[Item], Verdict]:
    def verdict(item: Item) -> Verdict:
        found = refuses(item.reply)
        return Verdict(float(found), REFUSES if found else OTHER)

    return verdict


def _classes(item: Item) -> Verdict:
    """Full refusal, partial refusal or full compliance; a rule can only see that no refusal is worded.

    A reply without a letter or digit is none of the three: label ``empty``, no refusal.
    """
    label = _CLASSES[refusal_class(item.reply)]
    if label == COMPLIANCE and degenerate(item.reply) == "empty":
        label = EMPTY
    return Verdict(float(label == FULL), label, more={"partial_refusal_rate": float(label == PARTIAL)})


def _degenerate(item: Item) -> Verdict:
    fault = degenerate(item.reply, item.finished)
    return Verdict(float(fault != ""), fault or "sound")


RULE_JUDGES = (*REFUSAL_JUDGES, CLASS_JUDGE, DEGENERATE_JUDGE)
"""Names of the judges that are always there; the default comes first."""
assert RULE_JUDGES[0] == REFUSAL_JUDGE


def rule_judge(name: str) -> RuleJudge:
    """Return the rule judge of that name (with its version).

    Raises:
        KeyError: not one of RULE_JUDGES.
    """
    if name == CLASS_JUDGE:
        metrics = {"refusal_rate": True, "partial_refusal_rate": False}
        return RuleJudge(name, "refusal", metrics, _classes)
    if name == DEGENERATE_JUDGE:
        return RuleJudge(name, "degenerate", {"degenerate_rate": False}, _degenerate)
    return RuleJudge(name, "refusal", {"refusal_rate": True}, _binary(REFUSAL_JUDGES[name]))
