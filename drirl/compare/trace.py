"""From a number in the tables back to the per-prompt records it was computed from."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from drirl.compare.collect import mean_of_seeds, read_items
from drirl.compare.names import ALL, MEANS, TRAINING, category_name, judged_again
from drirl.compare.scores import has, parse_metric
from drirl.config import Params
from drirl.errors import DrirlError, nearest
from drirl.records import EvalItem

__all__ = ["records_behind", "trace"]


def trace(
    params: Params, *, model: str, method: str, benchmark: str, metric: str, limit: int | None = None
) -> None:
    """Print the records behind one row as JSON lines on stdout, and how many there are on stderr.

    Args:
        limit: print this many at most; None or 0 prints all.
    Raises:
        DrirlError: no such row; the known names are listed.
    """
    items = records_behind(params.run.out, model, method, benchmark, metric)
    for item in items[: limit or len(items)]:
        print(json.dumps(dataclasses.asdict(item), ensure_ascii=False, sort_keys=True))
    scored = sum(item.value is not None for item in items)
    mean = mean_of_seeds(items)
    if benchmark in MEANS and items:
        means = [mean_of_seeds(i for i in items if i.benchmark == part) for part in MEANS[benchmark][1]]
        known = [value for value in means if value is not None]
        mean = sum(known) / len(known) if len(known) == len(means) else None
    shown = min(limit or len(items), len(items))
    prompts = len({(item.benchmark, item.item_id) for item in items})
    seeds = len({item.seed for item in items})
    print(
        f"{shown} of {len(items)} records shown: {prompts} prompts, seeds {seeds}, "
        f"{len(items) - scored} without a score{'' if mean is None else f', mean {mean:.6f}'}",
        file=sys.stderr,
    )


def records_behind(out: Path, model: str, method: str, benchmark: str, metric: str) -> list[EvalItem]:
    """Return the per-prompt records behind one row of ``comparison.csv``, by prompt and seed.

    Raises:
        DrirlError: no such cell, benchmark, metric or slice; the known ones are named.
    """
    folder = Path(out) / "evaluate" / model / method
    name, by, wanted = parse_metric(metric)
    if benchmark == TRAINING:
        raise DrirlError(
            f"'{TRAINING}' counts have no prompts; they are in out/align/{model}/{method}/seed*/run.json"
        )
    if not folder.is_dir():
        raise DrirlError(f"{folder}: no records of {model}/{method}; run 'dvc repro' or check the two names")
    items = read_items(folder / "items.jsonl")
    if judged_again(name):
        for path in sorted((Path(out) / "judge").glob(f"*/{model}/{method}/items.jsonl")):
            items += read_items(path)
    known = sorted({item.benchmark for item in items})
    parts = MEANS[benchmark][1] if benchmark in MEANS else (benchmark,)
    if benchmark != ALL and not set(parts) <= set(known):
        raise DrirlError(f"--benchmark: no records of '{benchmark}'; {nearest(benchmark, [*known, ALL])}")
    if benchmark != ALL:
        items = [item for item in items if item.benchmark in parts]
    metrics = {item.metric for item in items}
    if name not in metrics:
        raise DrirlError(f"--metric: {benchmark} has no '{name}'; {nearest(name, metrics)}")
    items = [item for item in items if item.metric == name]
    if by is not None:
        values = {category_name(item.category) if by == "category" else getattr(item, by) for item in items}
        items = [item for item in items if has(item, by, wanted)]
        if not items:
            raise DrirlError(f"--metric: no {by} '{wanted}' in {benchmark}; {nearest(wanted, values - {''})}")
    return sorted(items, key=lambda item: (item.benchmark, item.item_id, item.seed))
