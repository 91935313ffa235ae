"""Names that tables, figures and records agree on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drirl.data import taxonomy

__all__ = [
    "ALL",
    "CATEGORIES",
    "MEANS",
    "OURS",
    "PARTS",
    "POOLED",
    "TRAINING",
    "UNTRAINED",
    "category_name",
    "code",
    "escape",
    "grouped",
    "judged_again",
]

CATEGORIES: tuple[str, ...] = tuple(category.name for category in taxonomy.CATEGORIES)
"""Names of the harm categories; the position is the number in the records."""

ALL = "all"
"""Benchmark name of what is pooled over all benchmarks."""

POOLED = ("degenerate_rate", "mean_reward")
"""Metrics of every completion, also reported over all benchmarks together."""

MEANS: dict[str, tuple[str, tuple[str, ...]]] = {
    "advglue": ("accuracy", tuple(f"advglue_{part}" for part in "sst2 qqp mnli mnli_mm qnli rte".split())),
    "drirl_hhh": ("accuracy", tuple(f"drirl_hhh_{part}" for part in "harmless helpful honest other".split())),
}
"""Groups under benchmarks/ that are scored by the mean over their tasks: metric, tasks (paper section 8)."""

PARTS = {part: group for group, (_, parts) in MEANS.items() for part in parts}
"""Task -> the group it is a part of."""

TRAINING = "training"
"""Benchmark name of the deterministic training costs."""

UNTRAINED = frozenset({"base"})
"""Methods that are one fixed policy, hence one seed."""


OURS = ("grpo_irl", "dr_irl")
"""Starts of the names of DR-IRL and its ablations: the lower part of the paper's Table 1."""


def grouped(methods: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the methods in the two parts of the paper's Table 1, baselines first; no empty part."""
    parts = [
        ("baselines", [method for method in methods if not method.startswith(OURS)]),
        ("ours", [method for method in methods if method.startswith(OURS)]),
    ]
    return [(name, found) for name, found in parts if found]


def judged_again(metric: str) -> bool:
    """Return whether a metric is another judge's score of the same replies: ``refusal_rate@NAME/1``."""
    return "@" in metric.partition("[")[0]


def category_name(number: int) -> str:
    """Return the name of category 0..6; an empty text for benign prompts."""
    return CATEGORIES[number] if 0 <= number < len(CATEGORIES) else ""


def escape(text: str) -> str:
    """Make untrusted text inert in a Markdown table cell: one line, no markup, no HTML."""
    line = re.sub(r"([\\`*{}\[\]|~$])", r"\\\1", _one_line(text))
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    line = re.sub(r"^([#+-])", r"\\\1", line)
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    return line.replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Show untrusted text as code in a Markdown table cell; what would end the code is left out."""
    return f"`{_one_line(text).replace('`', '').replace('|', '')}`"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
