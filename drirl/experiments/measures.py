"""The measures experiments speak of, each the first of its options that was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from drirl.compare.names import ALL
from drirl.compare.scores import parse_metric
from drirl.compare.tables import Analysis
from drirl.errors import DrirlError, nearest

__all__ = ["MEASURES", "Measure", "find", "keys"]


@dataclass(frozen=True)
class Measure:
    """A measure: its title and the (benchmark, metric) pairs that stand for it, the first preferred."""

    name: str
    title: str
    options: tuple[tuple[str, str], ...]


_ALL = (
    Measure(
        "refusal_disguised",
        "Refusal, disguised",
        (
            ("drirl_tiny_harmful", "refusal_rate[level=disguised]"),
            ("drirl_tiny_harmful", "refusal_rate"),
            ("strongreject", "refusal_rate"),
        ),
    ),
    Measure(
        "refusal_paraphrased",
        "Refusal, paraphrased",
        (("drirl_tiny_harmful", "refusal_rate[level=paraphrased]"),),
    ),
    Measure(
        "refusal_direct",
        "Refusal, direct",
        (("drirl_tiny_harmful", "refusal_rate[level=direct]"), ("xstest_unsafe", "refusal_rate")),
    ),
    Measure(
        "refusal",
        "Refusal, harmful",
        (("drirl_tiny_harmful", "refusal_rate"), ("xstest_unsafe", "refusal_rate")),
    ),
    Measure(
        "false_refusal",
        "False refusal, benign",
        (("drirl_tiny_benign", "false_refusal_rate"), ("xstest_safe", "false_refusal_rate")),
    ),
    Measure(
        "false_refusal_contrast",
        "False refusal, contrast",
        (("drirl_tiny_contrast", "false_refusal_rate"), ("xstest_safe", "false_refusal_rate")),
    ),
    Measure("help", "Helpfulness", (("drirl_tiny_help", "accuracy"), ("drirl_gsm8k", "exact_match"))),
    Measure(
        "refusal_transfer",
        "Refusal, transferred templates",
        (("drirl_jailbreak_transfer", "refusal_rate"),),
    ),
    Measure("refusal_dra", "Refusal, disguise and reconstruct", (("drirl_jailbreak_dra", "refusal_rate"),)),
    Measure("refusal_gcg", "Refusal, GCG", (("gcg", "refusal_rate"),)),
    Measure("refusal_autodan", "Refusal, AutoDAN-style", (("autodan", "refusal_rate"),)),
    Measure("success_gcg", "Attack succeeds, GCG", (("gcg", "attack_success_rate"),)),
    Measure("success_autodan", "Attack succeeds, AutoDAN-style", (("autodan", "attack_success_rate"),)),
    Measure("degenerate", "Degenerate", ((ALL, "degenerate_rate"),)),
)
MEASURES = {measure.name: measure for measure in _ALL}


def find(analysis: Analysis, name: str) -> tuple[str, str, str] | None:
    """Return (title, benchmark, metric) of a measure, or None if no policy has it.

    ``refusal_of:<category>`` is the refusal rate on one harm category.

    Raises:
        DrirlError: no such measure.
    """
    known = {(row.benchmark, row.metric) for row in analysis.rows if row.value is not None}
    for benchmark, metric in _options(name):
        if (benchmark, metric) in known:
            return _title(name), benchmark, metric
    return None


def keys(names: list[str]) -> set[tuple[str, str]]:
    """Return the (benchmark, metric) pairs that may be needed, slices taken off."""
    return {(benchmark, parse_metric(metric)[0]) for name in names for benchmark, metric in _options(name)}


def _options(name: str) -> tuple[tuple[str, str], ...]:
    kind, _, category = name.partition(":")
    if kind == "refusal_of":
        return (("drirl_tiny_harmful", f"refusal_rate[category={category}]"),)
    if name not in MEASURES:
        raise DrirlError(f"unknown measure '{name}'; {nearest(name, [*MEASURES, 'refusal_of:<category>'])}")
    return MEASURES[name].options


def _title(name: str) -> str:
    kind, _, category = name.partition(":")
    return f"Refusal, {category}" if kind == "refusal_of" else MEASURES[name].title
