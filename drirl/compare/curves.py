"""Training curves and hardness coefficients as plain csv files, for ``dvc plots show``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.compare.names import ALL, category_name
from drirl.compare.tables import number, write_csv
from drirl.records import BENIGN, read_jsonl

__all__ = ["ALPHA", "ALPHA_COLUMNS", "TRAINING", "TRAINING_COLUMNS", "Curves", "read_curves", "write_curves"]

TRAINING = (
    "loss",
    "grad_norm",
    "reward",
    "reward_std",
    "zero_std_share",
    "kl",
    "entropy",
    "length",
    "cut_off_share",
    "scale",
)
"""Values of log.jsonl that become columns of training.csv."""

ALPHA = ("alpha", "alpha_D", "alpha_M", "delta", "gap", "masked_share")
"""Values logged as ``<name>/<category>`` that become columns of alpha.csv."""

TRAINING_COLUMNS = ("model", "method", "update", *TRAINING)
ALPHA_COLUMNS = ("model", "method", "update", "category", *ALPHA)

Means = dict[str, float]


@dataclass(frozen=True)
class Curves:
    """Lines of training.csv and of alpha.csv, as texts."""

    training: list[list[str]]
    alpha: list[list[str]]


def read_curves(out: Path, models: Sequence[str], methods: Sequence[str]) -> Curves:
    """Return the means over seeds of what the methods logged.

    Reads ``out/align/<model>/<method>/seed*/log.jsonl``: one object per ``update``. Methods
    without a value leave its column empty; methods without a log leave no line.
    """
    training: list[list[str]] = []
    alpha: list[list[str]] = []
    for model in models:
        for method in methods:
            for update, means in sorted(_read(Path(out) / "align" / model / method).items()):
                if any(name in means for name in TRAINING):
                    cells = [number(means.get(name)) for name in TRAINING]
                    training.append([model, method, str(update), *cells])
                alpha += [[model, method, *line] for line in _alpha_lines(update, means)]
    return Curves(training, alpha)


def write_curves(curves: Curves, reports: Path) -> list[Path]:
    """Write ``training.csv`` and ``alpha.csv``; return the files."""
    reports = Path(reports)
    write_csv(reports / "training.csv", TRAINING_COLUMNS, curves.training)
    write_csv(reports / "alpha.csv", ALPHA_COLUMNS, curves.alpha)
    return [reports / "training.csv", reports / "alpha.csv"]


def _read(folder: Path) -> dict[int, Means]:
    """Return per update the mean over seeds of everything logged."""
    found: dict[int, dict[str, list[float]]] = {}
    for path in sorted(folder.glob("seed*/log.jsonl")):
        for line in read_jsonl(path):
            update = line.get("update")
            if not isinstance(update, int):
                continue
            for name, value in line.items():
                if name != "update" and _is_number(value):
                    found.setdefault(update, {}).setdefault(name, []).append(float(value))
    return {
        update: {name: math.fsum(values) / len(values) for name, values in names.items()}
        for update, names in found.items()
    }


def _alpha_lines(update: int, means: Means) -> list[list[str]]:
    """Return one line per category, and one of the mean over the categories of this update."""
    by_category: dict[int, Means] = {}
    for name, value in means.items():
        kind, _, category = name.partition("/")
        if kind in ALPHA and category.lstrip("-").isdigit():  # other suffixes: mean, quantiles
            by_category.setdefault(int(category), {})[kind] = value
    if not by_category:
        return []
    lines = []
    for number_, values in sorted(by_category.items()):
        name = "benign" if number_ == BENIGN else category_name(number_)
        lines.append([str(update), name, *(number(values.get(column)) for column in ALPHA)])
    overall = []
    for column in ALPHA:
        known = [values[column] for values in by_category.values() if column in values]
        overall.append(number(math.fsum(known) / len(known)) if known else "")
    return [[str(update), ALL, *overall], *lines]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
