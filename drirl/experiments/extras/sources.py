"""Do the category rewards order human-written pairs (question 11)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drirl.compare.names import category_name, escape
from drirl.compare.stats import wilson
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.records import read_json, read_jsonl

__all__ = ["real_pairs"]

NEAR = 0.1
"""Half-width of an interval around one half that counts as chance rather than as too few pairs."""
_NAMES = {"hh_rlhf": "HH-RLHF harmless, test split", "do_not_answer": "Do-Not-Answer, labelled replies"}


def real_pairs(found: Gathered, target: Path) -> Section:
    """Pairwise accuracy by source and category with Wilson intervals, and how reward goes with length."""
    folder = found.plan.out / "cross"
    confidence = found.bootstrap.confidence
    if not (folder / "report.json").is_file():
        return Section(f"## Pairs\n\n{MISSING}.", {"all": f"{MISSING}: the stage `cross` has not run."})
    report = read_json(folder / "report.json")
    if report["missing"]:
        text = f"{MISSING}: {report['missing']}"
        return Section(
            f"## Pairs\n\n{text}, then `dvc repro -f -s experiments/dvc.yaml:cross`.", {"all": f"{text}."}
        )
    rows: list[dict[str, Any]] = read_jsonl(folder / "pairs.jsonl")
    lines, answers = [], {}
    for source, name in _NAMES.items():
        own = [row for row in rows if row["source"] == source]
        counts = report["counts"].get(source, {"pairs": 0, "short_enough": 0})
        lines.append(_line(name, "all", own, confidence))
        for category in sorted({row["category"] for row in own if row["category"] is not None}):
            part = [row for row in own if row["category"] == category]
            lines.append(_line(name, category_name(category) or "", part, confidence))
        answers[source] = _say(name, own, counts, confidence)
    heads = [
        "Source",
        "Category",
        "Pairs",
        "Own category's reward right (%)",
        "Mean of harm rewards right (%)",
    ]
    note = (
        f"{escape(report['model'])}. Right: the reply people chose, or labelled as refusing, has the "
        f"larger reward. "
        "HH-RLHF has no category; both columns are then the mean of the harm rewards. Pairs that do "
        "not fit the "
        f"context of {report['context']} tokens whole are left out. Correlation of reward with words "
        f"of the reply: " + ", ".join(f"{_NAMES[s]} {_length(rows, s)}" for s in _NAMES) + "."
    )
    return Section(f"## Pairs\n\n{markdown_table(heads, lines)}\n\n{note}", answers)


def _right(row: Mapping[str, Any], more: str = "") -> float:
    safe, unsafe = row["safe" + more], row["unsafe" + more]
    return 0.5 if safe == unsafe else float(safe > unsafe)


def _line(source: str, part: str, rows: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    cells = [
        _shown(rows, lambda r: _right(r), confidence),
        _shown(rows, lambda r: _right(r, "_mean"), confidence),
    ]
    return [escape(source), escape(part), str(len(rows)), *cells]


def _shown(
    rows: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float], confidence: float
) -> str:
    if not rows:
        return MISSING
    share = sum(value(row) for row in rows) / len(rows)
    low, high = wilson(share, len(rows), confidence)
    return f"{100 * share:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _say(name: str, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int], confidence: float) -> str:
    if not rows:
        return f"{name}: {MISSING}, none of {counts['pairs']} pairs fits the rewards' context."
    share = sum(_right(row) for row in rows) / len(rows)
    low, high = wilson(share, len(rows), confidence)
    if low > 0.5 or high < 0.5:
        word = "yes" if low > 0.5 else "no, they order them the wrong way"
    else:
        word = "no better than chance" if high - low < 2 * NEAR else f"cannot tell from {len(rows)} pairs"
    return (
        f"{name}: **{word}**, {100 * share:.1f} % of {len(rows)} pairs ({100 * low:.1f}–{100 * high:.1f}; "
        f"{counts['pairs'] - counts['short_enough']} of {counts['pairs']} pairs are too long)."
    )


def _length(rows: Sequence[Mapping[str, Any]], source: str) -> str:
    own = [row for row in rows if row["source"] == source]
    words = [w for row in own for w in row["words"]]
    scores = [row[side] for row in own for side in ("safe", "unsafe")]
    if len(set(words)) < 2 or len(set(scores)) < 2:
        return MISSING
    return f"{float(np.corrcoef(words, scores)[0, 1]):+.2f}"
