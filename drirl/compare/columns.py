"""Which benchmarks and metrics become columns of the tables, in which order and under which headings."""

from __future__ import annotations

from collections.abc import Callable

from drirl.compare.names import ALL, MEANS, PARTS, POOLED, TRAINING, judged_again
from drirl.compare.tables import Analysis

__all__ = ["LAST", "SHOWN", "Column", "headline_columns", "parts_columns", "short_columns"]

Column = tuple[str, str, str]
"""(title, benchmark, metric)."""

SHOWN: tuple[Column, ...] = (
    ("Refusal, disguised", "drirl_tiny_harmful", "refusal_rate[level=disguised]"),
    ("Refusal, paraphrased", "drirl_tiny_harmful", "refusal_rate[level=paraphrased]"),
    ("Refusal, direct", "drirl_tiny_harmful", "refusal_rate[level=direct]"),
    ("Refusal, harmful", "drirl_tiny_harmful", "refusal_rate"),
    ("False refusal, benign", "drirl_tiny_benign", "false_refusal_rate"),
    ("False refusal, disguised benign", "drirl_tiny_benign", "false_refusal_rate[level=disguised]"),
    ("False refusal, contrast", "drirl_tiny_contrast", "false_refusal_rate"),
    ("Helpfulness", "drirl_tiny_help", "accuracy"),
)
LAST: tuple[Column, ...] = (
    ("Degenerate", ALL, "degenerate_rate"),
    ("Tokens generated", TRAINING, "generated_tokens"),
    ("Updates", TRAINING, "updates"),
)


TITLES = {
    ("advglue", "accuracy"): "AdvGLUE",
    ("decodingtrust_stereotype", "agreement_rate"): "DecodingTrust, agrees",
    ("decodingtrust_stereotype", "undecided_rate"): "DecodingTrust, undecided",
    ("drirl_gsm8k", "exact_match"): "GSM8K",
    ("drirl_hhh", "accuracy"): "HHH",
    ("drirl_truthfulqa_mc1", "mc1"): "TruthfulQA, mc1",
    ("drirl_truthfulqa_mc2", "mc2"): "TruthfulQA, mc2",
    ("simpleqa", "accuracy"): "SimpleQA",
    ("simpleqa", "not_attempted_rate"): "SimpleQA, not attempted",
    ("stereotype", "refusal_rate"): "Refusal, Stereotype",
    ("strongreject", "refusal_rate"): "Refusal, StrongREJECT",
    ("wildchat_toxic", "refusal_rate"): "Refusal, WildChat",
    ("xstest_safe", "false_refusal_rate"): "False refusal, XSTest",
    ("xstest_unsafe", "refusal_rate"): "Refusal, XSTest",
}
"""Headings of (benchmark, metric); others are called by their names."""

_LONG = (
    "Refusal, paraphrased",
    "Refusal, direct",
    "False refusal, disguised benign",
    "DecodingTrust, undecided",
    "SimpleQA, not attempted",
    "Updates",
)
"""Columns left out of the short headline table, where another says much the same."""


def headline_columns(analysis: Analysis) -> list[Column]:
    """Return the columns of the headline table that any policy has a value for."""
    found = {(row.benchmark, row.metric) for row in analysis.rows if row.value is not None}
    columns = [column for column in SHOWN if column[1:] in found]
    if any("level=" in column[2] and column[1] == "drirl_tiny_harmful" for column in columns):
        columns = [column for column in columns if column[0] != "Refusal, harmful"]
    columns += _others(analysis, lambda benchmark: not _in_a_mean(analysis, benchmark))
    return columns + [column for column in LAST if column[1:] in found]


def parts_columns(analysis: Analysis) -> list[Column]:
    """Return the columns of tasks whose mean is a column of the headline table."""
    return _others(analysis, lambda benchmark: _in_a_mean(analysis, benchmark))


def _others(analysis: Analysis, wanted: Callable[[str], bool]) -> list[Column]:
    named = {column[1] for column in SHOWN}
    columns = []
    for benchmark, metric in analysis.records.keys():
        own = benchmark not in named and benchmark != ALL and metric not in POOLED
        if (own or judged_again(metric)) and wanted(benchmark):
            title = f"{benchmark}, {metric.replace('_', ' ')}"
            columns.append((TITLES.get((benchmark, metric), title), benchmark, metric))
    return columns


def _in_a_mean(analysis: Analysis, benchmark: str) -> bool:
    group = PARTS.get(benchmark)
    return group is not None and (group, MEANS[group][0]) in analysis.records.keys()


def short_columns(analysis: Analysis) -> list[Column]:
    """Return the fewest headline columns that say whether a method works and at what cost."""
    return [column for column in headline_columns(analysis) if column[0] not in _LONG]
