"""Published values beside ours, only where benchmark, metric, method and base model are the same.

Left out, because what we record means something else: strongreject (published is goodness, a rubric's
ratings; ours is the refusal rate, benchmarks/strongreject/README.md).

advglue and drirl_hhh, the means over their parts, are set beside the published accuracies, which the same
protocol defines so; on which items those were measured is not known.

wildchat is set beside ours: both are refusal rates on toxic first messages. Which ones the paper took is not
known; its values fit 219 items, as many as the rule in benchmarks/wildchat/README.md chooses.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from drirl.errors import DrirlError

__all__ = ["COLUMNS", "Published", "Value", "load_published"]

COLUMNS = ("table", "model", "method", "benchmark", "metric", "value", "source")

TASKS = {"drirl_gsm8k": "gsm8k", "drirl_hhh": "hhh", "wildchat_toxic": "wildchat"}
"""Our task name -> benchmark name in published.csv, where the two differ."""

METRICS = {("gsm8k", "exact_match"): "accuracy"}
"""(benchmark, our metric) -> metric name in published.csv, where the two differ."""


@dataclass(frozen=True)
class Value:
    """One published number (shares as 0..1) and where it was read."""

    value: float
    source: str


class Published:
    """Look-up of published values."""

    def __init__(self, values: dict[tuple[str, str, str, str], Value], models: dict[str, str]) -> None:
        self._values = values
        self._models = models

    def find(self, model: str, method: str, benchmark: str, metric: str) -> Value | None:
        """Return the published value of the same cell, or None.

        The base model has to be the published one: the last part of the path or hub id of ``model`` in
        params.yaml is compared, without case and punctuation. A small model trained here never matches.
        """
        benchmark = TASKS.get(benchmark, benchmark)
        metric = METRICS.get((benchmark, metric), metric)
        return self._values.get((_plain(self._models.get(model, "")), method, benchmark, metric))


def load_published(path: Path, models: dict[str, str]) -> Published:
    """Read published.csv; ``models`` gives the hub id or path of each model name ("" if trained here).

    Raises:
        DrirlError: missing file, other columns, a value that is no number, the same cell twice.
    """
    path = Path(path)
    values: dict[tuple[str, str, str, str], Value] = {}
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DrirlError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
            for row in reader:
                if not row["value"]:
                    continue
                where = f"{path}:{reader.line_num}"
                key = (_plain(row["model"]), row["method"], row["benchmark"], row["metric"])
                if key in values:
                    raise DrirlError(f"{where}: a second value for {', '.join(key)}; keep one")
                try:
                    values[key] = Value(float(row["value"]), f"{row['table']}; {row['source']}")
                except ValueError:
                    raise DrirlError(f"{where}: expected a number, found '{row['value']}'") from None
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file; restore it or set compare.published") from None
    return Published(values, models)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower())
