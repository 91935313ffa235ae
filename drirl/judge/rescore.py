"""``drirl judge run``: saved completions scored by another judge, without a policy.

In: ``out/evaluate/<model>/<method>/{items.jsonl, runs.jsonl}``, which stay as they are. Out, in the same
formats: ``out/judge/<judge>/<model>/<method>/{items.jsonl, runs.jsonl, summary.json}``. Metrics are called
``<metric>@<judge>``. A cell that the same judge has read in the same records is not read again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.errors import DrirlError, nearest
from drirl.judge.interface import (
    BLOCKED,
    OVERLONG,
    Item,
    Judge,
    Kind,
    Verdict,
    column,
    full_name,
    hash_of,
    judge_all,
)
from drirl.judge.rules import RULE_JUDGES
from drirl.records import EvalItem, RunRecord, atomic_dir, read_json, read_jsonl, write_json, write_jsonl
from drirl.text import split_draft

__all__ = ["Cell", "Counts", "cells", "folder_of", "item_of", "judge_cell", "replies", "rescore"]

_RULES = {name.rpartition("/")[0] for name in RULE_JUDGES}
_DEGENERATE = "degenerate_rate"
_REFUSAL = ("refusal_rate", "false_refusal_rate")


@dataclass(frozen=True)
class Cell:
    """One (model, method) whose completions are saved."""

    model: str
    method: str
    folder: Path

    def read(self) -> tuple[list[EvalItem], list[RunRecord]]:
        """Return its records.

        Raises:
            DrirlError: a file is missing, malformed, from another version or empty.
        """
        items = read_jsonl(self.folder / "items.jsonl", EvalItem)
        if not items:
            raise DrirlError(f"{self.folder / 'items.jsonl'}: no record in it; run 'dvc repro' for this cell")
        return items, read_jsonl(self.folder / "runs.jsonl", RunRecord)

    @property
    def digest(self) -> str:
        """Hash of both files."""
        value = hashlib.sha256()
        for name in ("items.jsonl", "runs.jsonl"):
            value.update((self.folder / name).read_bytes() if (self.folder / name).is_file() else b"-")
        return value.hexdigest()


@dataclass
class Counts:
    """What became of the replies of a cell."""

    replies: int = 0
    malformed: int = 0
    blocked: int = 0
    overlong: int = 0
    cut: int = 0
    retried: int = 0

    def add(self, verdict: Verdict) -> None:
        self.replies += 1
        self.malformed += verdict.malformed
        self.blocked += verdict.label == BLOCKED
        self.overlong += verdict.label == OVERLONG
        self.cut += bool(verdict.raw.get("cut"))
        self.retried += verdict.raw.get("tries", 1) > 1

    @property
    def without(self) -> int:
        """Replies without a verdict."""
        return self.malformed + self.blocked + self.overlong


def cells(
    out: Path, models: Sequence[str], methods: Sequence[str], *, model: str | None, method: str | None
) -> list[Cell]:
    """Return the cells with saved completions, all of them or those named.

    Raises:
        DrirlError: a named model or method has none, or there is none at all.
    """
    root = Path(out) / "evaluate"
    found = [
        Cell(folder.parent.name, folder.name, folder)
        for folder in sorted(root.glob("*/*"))
        if (folder / "items.jsonl").is_file()
    ]
    if not found:
        raise DrirlError(
            f"{root}: no saved completions there; run 'dvc repro' or 'drirl stage evaluate' first"
        )
    for wanted, known in (
        (model, {cell.model for cell in found}),
        (method, {cell.method for cell in found if model in (None, cell.model)}),
    ):
        if wanted is not None and wanted not in known:
            raise DrirlError(f"{root}: no saved completions of '{wanted}'; {nearest(wanted, known)}")
    order = {name: k for k, name in enumerate([*models, *methods])}
    chosen = [c for c in found if model in (None, c.model) and method in (None, c.method)]
    return sorted(
        chosen, key=lambda c: (order.get(c.model, 999), c.model, order.get(c.method, 999), c.method)
    )


def item_of(record: EvalItem) -> Item:
    """Return what a judge sees of a record: the prompt and the reply without its draft."""
    return Item(record.prompt, split_draft(record.response)[1], record.finished)


def rescore(
    judge: Judge,
    chosen: Iterable[Cell],
    out: Path,
    *,
    benchmarks: Sequence[str] | None = None,
    force: bool = False,
) -> Iterable[tuple[Cell, Counts | None]]:
    """Judge cell by cell, yielding each with its counts, or None where nothing was to do.

    Raises:
        DrirlError: as :func:`judge_cell`; the cells before are written.
    """
    for cell in chosen:
        target = Path(out) / "judge" / folder_of(judge) / cell.model / cell.method
        digest = hash_of([cell.digest, full_name(judge), judge.cache_key, sorted(benchmarks or [])])
        if not force and _is_done(target, digest):
            yield cell, None
            continue
        items, runs, counts = judge_cell(judge, cell, benchmarks)
        with atomic_dir(target) as folder:
            write_jsonl(folder / "items.jsonl", items)
            write_jsonl(folder / "runs.jsonl", runs)
            write_json(
                folder / "summary.json",
                {
                    "judge": full_name(judge),
                    "cache_key": judge.cache_key,
                    "digest": digest,
                    "counts": dataclasses.asdict(counts),
                },
            )
        yield cell, counts


def _kept(item: EvalItem) -> dict[str, Any]:
    """Return what of a record's details does not come from its judge."""
    return {key: item.raw[key] for key in ("label", "truncated_prompt") if key in item.raw}


def folder_of(judge: Judge) -> str:
    """Return the folder of a judge under ``out/judge``; one whose settings change keeps it."""
    return f"{judge.name}-{judge.version}" if judge.name in _RULES else judge.name


def _is_done(target: Path, digest: str) -> bool:
    path = target / "summary.json"
    try:
        return path.is_file() and read_json(path).get("digest") == digest
    except (DrirlError, AttributeError):
        return False


def judge_cell(
    judge: Judge, cell: Cell, benchmarks: Sequence[str] | None = None
) -> tuple[list[EvalItem], list[RunRecord], Counts]:
    """Judge the replies of one cell.

    A refusal judge reads the benchmarks that have a refusal rate, and takes the metric's name and direction
    from them; a harm judge those where refusing is right; a judge of broken replies all.

    Raises:
        DrirlError: an unknown benchmark, one that this judge cannot read, or as ``Judge.verdicts``.
    """
    items, runs = cell.read()
    chosen = _choose(cell, items, runs, judge.kind, benchmarks)
    verdicts = judge_all(judge, [item_of(item) for item in chosen], show=True)
    counts = Counts()
    records: list[EvalItem] = []
    groups: dict[tuple[str, str, str], list[EvalItem]] = {}
    sources = {(run.run_id, run.benchmark, run.metric): run for run in runs}
    of_group: dict[tuple[str, str, str], tuple[RunRecord | None, bool, Counts]] = {}
    for item, verdict in zip(chosen, verdicts, strict=True):
        counts.add(verdict)
        source = sources.get((item.run_id, item.benchmark, item.metric))
        for metric, higher, value in _scores(judge, verdict, item.metric, source):
            record = dataclasses.replace(
                item,
                metric=metric,
                value=value,
                judge=full_name(judge),
                raw={**_kept(item), "verdict": verdict.label, **verdict.raw},
            )
            records.append(record)
            key = (item.run_id, item.benchmark, metric)
            groups.setdefault(key, []).append(record)
            of_group.setdefault(key, (source, higher, Counts()))[2].add(verdict)
    made = []
    for key, group in groups.items():
        source, higher, sums = of_group[key]
        if source is not None:
            made.append(_run(judge, group, source, higher, sums))
    return records, made, counts


def replies(cell: Cell, kind: Kind, benchmarks: Sequence[str] | None = None) -> list[Item]:
    """Return what a judge of a kind would read in a cell.

    Raises:
        DrirlError: as :func:`judge_cell`.
    """
    items, runs = cell.read()
    return [item_of(item) for item in _choose(cell, items, runs, kind, benchmarks)]


def _choose(
    cell: Cell,
    items: Sequence[EvalItem],
    runs: Sequence[RunRecord],
    kind: Kind,
    benchmarks: Sequence[str] | None,
) -> list[EvalItem]:
    better = {(run.benchmark, run.metric): run.higher_is_better for run in runs}
    chosen = [item for item in items if _reads(kind, item.metric, better.get((item.benchmark, item.metric)))]
    known = {item.benchmark for item in chosen}
    for name in benchmarks or []:
        if name not in known:
            raise DrirlError(
                f"{cell.folder}: a judge of kind '{kind}' has nothing to read in benchmark '{name}'; "
                f"{nearest(name, known)}"
            )
    chosen = [item for item in chosen if not benchmarks or item.benchmark in benchmarks]
    if not chosen:
        raise DrirlError(f"{cell.folder}: no benchmark there for a judge of kind '{kind}'")
    return chosen


def _reads(kind: Kind, metric: str, higher: bool | None) -> bool:
    """Say whether a judge reads the records of a metric; each reply carries at most one that it does."""
    if kind == "degenerate":
        return metric == _DEGENERATE
    return metric in _REFUSAL and (kind == "refusal" or higher is not False)


def _scores(
    judge: Judge, verdict: Verdict, base: str, source: RunRecord | None
) -> list[tuple[str, bool, float | None]]:
    """Return (column, higher is better, value) of each metric of the judge."""
    first, *others = judge.metrics
    higher = judge.metrics[first]
    if judge.kind == "refusal":
        first, higher = base, source.higher_is_better if source is not None else higher
    rows = [(column(first, judge), higher, verdict.value)]
    for name in others:
        rows.append((column(name, judge), judge.metrics[name], verdict.more.get(name)))
    return rows


def _run(
    judge: Judge, group: Sequence[EvalItem], source: RunRecord, higher: bool, counts: Counts
) -> RunRecord:
    """Return the record of one policy, benchmark and metric: the mean over the replies with a verdict."""
    values = [item.value for item in group if item.value is not None]
    config: dict[str, Any] = {
        **source.config,
        "judge": {"cache_key": judge.cache_key, **dataclasses.asdict(counts)},
    }
    return dataclasses.replace(
        source,
        metric=group[0].metric,
        judge=full_name(judge),
        higher_is_better=higher,
        value=math.fsum(values) / len(values) if values else None,
        stderr=_stderr(values),
        n=len(values),
        config=config,
    )


def _stderr(values: Sequence[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
