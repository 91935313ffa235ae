"""Agreement of two people who labelled the same prompts by hand: Cohen's kappa (paper section 2)."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl.data.files import csv_rows
from drirl.data.taxonomy import CATEGORIES, category_index, category_name
from drirl.errors import DrirlError
from drirl.records import BENIGN, Prompt, atomic_write

__all__ = ["agreement", "cohen_kappa", "compare_labels", "read_labels", "write_sheet"]

_COLUMNS = ("prompt_id", "text", "category")


def cohen_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return (p_o - p_e) / (1 - p_e); None if it is undefined (no items, or one label throughout).

    p_o: share of items on which both agree; p_e: the share expected if each drew labels at random with their
    own frequencies. Source: Cohen 1960.
    """
    n = len(first)
    if n != len(second):
        raise ValueError("two equally long lists of labels are expected")
    if n == 0:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    a, b = Counter(first), Counter(second)
    expected = sum(a[label] * b[label] for label in a) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def agreement(
    first: Sequence[int], second: Sequence[int], *, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return n, observed agreement, kappa with a 95 % bootstrap interval over items, and confusions."""
    kappa = cohen_kappa(first, second)
    rng = random.Random(seed)
    samples = []
    for _ in range(draws if kappa is not None else 0):
        rows = rng.choices(range(len(first)), k=len(first))
        value = cohen_kappa([first[i] for i in rows], [second[i] for i in rows])
        samples.append(1.0 if value is None else value)
    samples.sort()
    pairs = Counter(tuple(sorted((a, b))) for a, b in zip(first, second, strict=True) if a != b)
    return {
        "n": len(first),
        "observed": round(sum(a == b for a, b in zip(first, second, strict=True)) / len(first), 4)
        if first
        else None,
        "kappa": None if kappa is None else round(kappa, 4),
        "interval": [round(samples[int(q * (draws - 1))], 4) for q in (0.025, 0.975)] if samples else None,
        "confused": {
            f"{category_name(a)} / {category_name(b)}": count
            for (a, b), count in sorted(pairs.items(), key=lambda row: (-row[1], row[0]))
        },
    }


def write_sheet(prompts: Sequence[Prompt], path: Path, *, count: int, seed: int) -> int:
    """Write a .csv of mapped harmful prompts for labelling by hand, category left empty; return how many.

    Categories take turns (the mapped one is not shown); order and choice are seeded.
    """
    rng = random.Random(f"{seed}/label-sheet")
    queues = []
    for category in CATEGORIES:
        rows = sorted(
            (p for p in prompts if p.category == category.index and not p.synthetic),
            key=lambda p: p.prompt_id,
        )
        rng.shuffle(rows)
        queues.append(rows)
    turns = [queue[k] for k in range(max(map(len, queues))) for queue in queues if k < len(queue)]
    chosen = turns[:count]
    rng.shuffle(chosen)
    if not chosen:
        raise DrirlError("there is no harmful prompt to label: run 'drirl stage data' first")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(_COLUMNS)
        writer.writerows((p.prompt_id, p.text, "") for p in chosen)
    return len(chosen)


def read_labels(path: Path) -> dict[str, int]:
    """Return prompt_id -> category (0..6, or -1 for benign) of a filled-in sheet; empty cells are left out.

    Raises:
        DrirlError: missing file or column, an unknown category, a prompt labelled twice, no label at all.
    """
    labels: dict[str, int] = {}
    for where, row in csv_rows(path, ("prompt_id", "category")):
        value = row["category"].strip()
        if not value:
            continue
        if row["prompt_id"] in labels:
            raise DrirlError(f"{where}: prompt {row['prompt_id']} is labelled twice")
        labels[row["prompt_id"]] = BENIGN if value == str(BENIGN) else category_index(value, where)
    if not labels:
        raise DrirlError(f"{path}: column 'category' is empty; write a number 0 to 6, a name, or benign")
    return labels


def compare_labels(first: Path, second: Path, mapped: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the agreement of two sheets on the prompts that both label, and of each with the mapping.

    ``mapped``: prompt_id -> category of the built data.
    """
    a, b = read_labels(first), read_labels(second)
    shared = sorted(set(a) & set(b))
    if not shared:
        raise DrirlError(f"{first} and {second} have no labelled prompt in common")
    out: dict[str, Any] = {
        "labellers": agreement([a[k] for k in shared], [b[k] for k in shared]),
        "labelled_by_one_only": len(set(a) ^ set(b)),
    }
    for name, labels in (("first_with_mapping", a), ("second_with_mapping", b)):
        known = sorted(set(labels) & set(mapped or {}))
        if mapped is not None and known:
            out[name] = agreement([labels[k] for k in known], [mapped[k] for k in known])
    return out
