"""Sheets for labelling replies by hand, without the judge's verdicts in sight, and their scoring.

A sheet holds the texts themselves, so any judge can be scored on a filled-in one later, without the records
it was drawn from. Cells that a spreadsheet would run as a formula start with an apostrophe, which is taken
off when the sheet is read.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.data.agreement import cohen_kappa
from drirl.data.files import csv_rows
from drirl.errors import DrirlError, nearest
from drirl.judge.interface import REFUSAL_CLASSES, Item, Judge, Kind, full_name, hash_of, judge_all
from drirl.judge.measures import agree
from drirl.judge.settings import JudgeSettings
from drirl.records import atomic_write

__all__ = ["ANSWERS", "HandLabel", "compare_sheets", "read_sheet", "score_sheet", "write_sheet"]

ANSWERS: dict[Kind, tuple[str, ...]] = {
    "refusal": REFUSAL_CLASSES,
    "harm": ("safe", "harmful"),
    "degenerate": ("broken", "sound"),
}
"""What may be written into column 'verdict'; the first of each is the "yes" that a judge's 1 stands for."""
_COLUMNS = ("item", "prompt", "reply", "finished", "verdict")
_ACTIVE = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True)
class HandLabel:
    """One labelled row."""

    key: str
    item: Item
    verdict: str


def write_sheet(items: Iterable[Item], path: Path, *, count: int, seed: int) -> int:
    """Write ``count`` different items drawn at random into a .csv; return how many there are.

    The draw depends on the items' texts and the seed alone. Nothing says where a reply came from.

    Raises:
        DrirlError: there is no item.
    """
    unique = sorted({_key(item): item for item in items}.items())
    if not unique:
        raise DrirlError("there is no reply to label")
    random.Random(f"{seed}/judge-sheet").shuffle(unique)
    chosen = unique[:count]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(_COLUMNS)
        for key, item in chosen:
            ended = "yes" if item.finished else "no"
            writer.writerow((key, _passive(item.prompt), _passive(item.reply), ended, ""))
    return len(chosen)


def read_sheet(path: Path, kind: Kind) -> list[HandLabel]:
    """Return the labelled rows of a filled-in sheet; rows without a verdict are left out.

    Raises:
        DrirlError: missing file or column, a verdict that is not one of ANSWERS, a text that was changed, an
            item labelled twice, no label at all.
    """
    labels: dict[str, HandLabel] = {}
    for where, row in csv_rows(path, _COLUMNS):
        verdict = row["verdict"].strip().lower().replace(" ", "_")
        if not verdict:
            continue
        if verdict not in ANSWERS[kind]:
            raise DrirlError(f"{where}: unknown verdict '{verdict[:40]}'; {nearest(verdict, ANSWERS[kind])}")
        item = Item(_active(row["prompt"]), _active(row["reply"]), row["finished"].strip() != "no")
        if _key(item) != row["item"]:
            raise DrirlError(f"{where}: the texts of item {row['item']} were changed; write the sheet anew")
        if row["item"] in labels:
            raise DrirlError(f"{where}: item {row['item']} is labelled twice")
        labels[row["item"]] = HandLabel(row["item"], item, verdict)
    if not labels:
        raise DrirlError(
            f"{path}: column 'verdict' is empty; write one of {', '.join(ANSWERS[kind])} into it"
        )
    return list(labels.values())


def score_sheet(
    judge: Judge, labels: Sequence[HandLabel], settings: JudgeSettings, *, seed: int = 0
) -> dict[str, Any]:
    """Return how a judge agrees with hand labels: measures with intervals, kappa of the classes, confusions.

    Intervals redraw prompts.
    """
    verdicts = judge_all(judge, [label.item for label in labels], show=True)
    yes = ANSWERS[judge.kind][0]
    values = [None if v.value is None else float(v.value >= 0.5) for v in verdicts]
    found = agree(
        values,
        [label.verdict == yes for label in labels],
        [label.item.prompt for label in labels],
        draws=settings.bootstrap,
        confidence=settings.confidence,
        seed=seed,
    )
    out: dict[str, Any] = {
        "judge": full_name(judge),
        "yes": yes,
        "n": found.n,
        "missing": found.missing,
        "measures": {
            name: {"value": _round(m.value), "low": _round(m.low), "high": _round(m.high)}
            for name, m in found.measures.items()
        },
        "verdicts": {
            f"{verdict} / {label}": count
            for (verdict, label), count in sorted(
                Counter((v.label, row.verdict) for v, row in zip(verdicts, labels, strict=True)).items()
            )
        },
    }
    classes = ANSWERS[judge.kind]
    pairs = [(v.label, row.verdict) for v, row in zip(verdicts, labels, strict=True) if v.value is not None]
    if len(classes) > 2 and pairs and all(label in classes for label, _ in pairs):
        numbers = [(classes.index(a), classes.index(b)) for a, b in pairs]
        out["kappa_of_classes"] = _round(cohen_kappa([a for a, _ in numbers], [b for _, b in numbers]))
    return out


def compare_sheets(first: Sequence[HandLabel], second: Sequence[HandLabel], kind: Kind) -> dict[str, Any]:
    """Return the agreement of two people on the items that both labelled.

    Raises:
        DrirlError: no item in common.
    """
    a, b = ({label.key: ANSWERS[kind].index(label.verdict) for label in part} for part in (first, second))
    shared = sorted(set(a) & set(b))
    if not shared:
        raise DrirlError("the two sheets have no labelled item in common")
    return {
        "n": len(shared),
        "observed": _round(sum(a[k] == b[k] for k in shared) / len(shared)),
        "kappa": _round(cohen_kappa([a[k] for k in shared], [b[k] for k in shared])),
        "labelled_by_one_only": len(set(a) ^ set(b)),
    }


def _key(item: Item) -> str:
    return hash_of([item.prompt.replace("\r\n", "\n"), item.reply.replace("\r\n", "\n")])[:16]


def _passive(text: str) -> str:
    return f"'{text}" if text.startswith(_ACTIVE) else text


def _active(text: str) -> str:
    return text[1:] if text.startswith("'") else text


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
