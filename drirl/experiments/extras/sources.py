"""Do the category rewards order human-written pairs (question 11)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drirl.compare.names import category_name, escape
from drirl.compare.stats import wilson
from drirl.experiments.figures import draw_facts
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Fact, Section, markdown_table
from drirl.records import read_json, read_jsonl

__all__ = ["real_pairs"]

LEAST = 10
"""Pairs that a source needs to be drawn."""
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
    lines, answers, facts = [], {}, []
    for source, name in _NAMES.items():
        own = [row for row in rows if row["source"] == source]
        counts = report["counts"].get(source, {"pairs": 0, "short_enough": 0})
        parts = {"all": own}
        for category in sorted({row["category"] for row in own if row["category"] is not None}):
            parts[category_name(category) or ""] = [row for row in own if row["category"] == category]
        for part, chosen in parts.items():
            lines.append(_line(name, part, chosen, confidence))
            for measure, more in (
                ("own category's reward right", ""),
                ("mean of harm rewards right", "_mean"),
            ):
                facts.append(Fact(name, part, measure, *_share(chosen, more, confidence), len(chosen)))
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
    figure = _draw(facts, report["model"], found, target)
    text = f"## Pairs\n\n{figure}{markdown_table(heads, lines)}\n\n{note}"
    return Section(text, answers, facts)


def _draw(facts: Sequence[Fact], model: str, found: Gathered, target: Path) -> str:
    """Draw the shares of whole sources that have enough pairs; return the image's Markdown."""
    shown = [
        replace(fact, part=model, name=fact.part)
        for fact in facts
        if fact.name == "all" and (fact.n or 0) >= LEAST
    ]
    measures = {fact.measure: fact.measure.capitalize() for fact in shown}
    bars = "Bars: Wilson intervals over pairs; chance is 50 %"
    path = draw_facts(target / "q11.png", shown, measures, found.notice, bars)
    return f"![Pairs ordered right]({path.name})\n\n" if path else ""


def _right(row: Mapping[str, Any], more: str = "") -> float:
    safe, unsafe = row["safe" + more], row["unsafe" + more]
    return 0.5 if safe == unsafe else float(safe > unsafe)


def _line(source: str, part: str, rows: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    cells = [_shown(rows, "", confidence), _shown(rows, "_mean", confidence)]
    return [escape(source), escape(part), str(len(rows)), *cells]


def _share(
    rows: Sequence[Mapping[str, Any]], more: str, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Return the share of pairs in the right order and its interval; None without a pair."""
    if not rows:
        return None, None, None
    share = sum(_right(row, more) for row in rows) / len(rows)
    low, high = wilson(share, len(rows), confidence)
    return share, min(low, share), max(high, share)  # rounding puts the end at 0 or 1 a hair inside


def _shown(rows: Sequence[Mapping[str, Any]], more: str, confidence: float) -> str:
    share, low, high = _share(rows, more, confidence)
    if share is None or low is None or high is None:
        return MISSING
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
