"""Read what the other stages recorded into matrices of prompts by seeds; no model is loaded here.

Dimension letters: I prompts, K seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from drirl.compare.names import ALL, MEANS, POOLED, UNTRAINED
from drirl.compare.scores import Item, Key, Scores, joined, parse_metric, pool, select
from drirl.errors import DrirlError, nearest
from drirl.records import EvalItem, RunRecord, read_json, read_jsonl

__all__ = [
    "Group",
    "Records",
    "collect",
    "finite",
    "mean_of_seeds",
    "one_judge",
    "read_groups",
    "read_items",
]

Group = dict[tuple[str, int], EvalItem]
"""Records of one metric by (prompt, seed)."""


@dataclass
class Records:
    """Everything the tables are made of.

    Attributes:
        models, methods: names in the order of params.yaml.
        cells: scores by (model, method), then by (benchmark, metric).
        missing: (model, method) without records.
        counts: deterministic training costs by (model, method): name -> one number per seed.
        rewards: ``out/reward/<model>/report.json`` by model.
    """

    models: tuple[str, ...]
    methods: tuple[str, ...]
    cells: dict[tuple[str, str], dict[Key, Scores]] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)

    def get(self, model: str, method: str, benchmark: str, metric: str) -> Scores | None:
        """Return the scores of one table cell, slices such as ``refusal_rate[level=direct]`` included."""
        name, by, wanted = parse_metric(metric)
        scores = self.cells.get((model, method), {}).get((benchmark, name))
        if scores is None or by is None:
            return scores
        return select(scores, by, wanted)

    def keys(self) -> list[Key]:
        """Return every (benchmark, metric) found in any cell, in the order of the tables."""
        found = {key: None for cell in self.cells.values() for key in cell}
        return sorted(found, key=lambda key: (key[0] == ALL, key))


def collect(
    out: Path,
    models: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    benchmarks: Sequence[str] | None = None,
    judges: Sequence[str] = (),
    allow_uneven: bool = False,
) -> Records:
    """Read ``out/evaluate``, ``out/align`` and ``out/reward`` for the asked models and methods.

    Args:
        out: folder of the stage outputs.
        seeds: the seeds every trained method has to have.
        benchmarks: keep these only; None keeps all.
        judges: folders of ``out/judge`` (``drirl judge run``) whose scores are read as further metrics.
        allow_uneven: accept a cell with other seeds instead of refusing.
    Raises:
        DrirlError: nothing found, an unknown judge, malformed records, a record twice, seeds, judges, task
            versions or decoding that differ between cells.
    """
    out = Path(out)
    records = Records(tuple(models), tuple(methods))
    for model in models:
        for method in methods:
            folder = out / "evaluate" / model / method
            if not (folder / "items.jsonl").is_file():
                records.missing.append((model, method))
                continue
            cell = _read_cell(folder, model, method)
            _check_seeds(cell, folder, method, seeds, allow_uneven)
            for judge in judges:
                folder = _judge_folder(out, judge) / model / method
                if (folder / "items.jsonl").is_file():
                    again = _read_cell(folder, model, method)
                    _check_seeds(again, folder, method, seeds, allow_uneven)
                    cell.update(again)
            records.cells[model, method] = cell
    if not records.cells:
        raise DrirlError(
            f"{out / 'evaluate'}: no records of the asked models and methods; run 'dvc repro' first"
        )
    if benchmarks is not None:
        _keep(records, benchmarks)
    _check_alike(records)
    for cell in records.cells.values():
        cell.update(_pooled(cell))
    for model in models:
        for method in methods:
            counts = _read_counts(out / "align" / model / method)
            if counts:
                records.counts[model, method] = counts
        report = out / "reward" / model / "report.json"
        if report.is_file():
            records.rewards[model] = read_json(report)
    return records


def _judge_folder(out: Path, judge: str) -> Path:
    folder = out / "judge" / judge
    if not folder.is_dir():
        known = sorted(path.name for path in (out / "judge").glob("*") if path.is_dir())
        hint = nearest(judge, known) if known else "none has been run ('drirl judge run --judge NAME')"
        raise DrirlError(f"--judges: no scores of '{judge}' in {out / 'judge'}; {hint}")
    return folder


def _read_cell(folder: Path, model: str, method: str) -> dict[Key, Scores]:
    runs = read_jsonl(folder / "runs.jsonl", RunRecord)
    recorded: dict[Key, list[RunRecord]] = {}
    for run in runs:
        recorded.setdefault((run.benchmark, run.metric), []).append(run)
    path = folder / "items.jsonl"
    grouped = read_groups(path)
    for group in grouped.values():
        for item in group.values():
            if (item.model, item.method) != (model, method):
                raise DrirlError(
                    f"{path}: a record of {item.model}/{item.method} in the folder of {model}/{method}; "
                    "rerun the stage evaluate of this cell"
                )
    if not grouped:
        raise DrirlError(f"{path}: no records in it; rerun the stage evaluate of {model}/{method}")
    cell: dict[Key, Scores] = {}
    for key, group in sorted(grouped.items()):
        if key not in recorded:
            raise DrirlError(
                f"{folder / 'runs.jsonl'}: no run record for {key[0]}, {key[1]}, which has items"
            )
        judge = one_judge(path, key, group)
        scores = _matrix(model, method, key, recorded[key][-1].higher_is_better, group)
        version, decode = _measured(folder, key, recorded[key])
        cell[key] = replace(
            scores,
            judge=judge,
            template_hash=joined(run.template_hash for run in recorded[key]),
            task_version=version,
            decode=decode,
            cut=max(int(run.config.get("truncated_prompts", 0)) for run in recorded[key]),
        )
    return cell


def _measured(folder: Path, key: Key, runs: Sequence[RunRecord]) -> tuple[str, str]:
    """Return task version and decoding of one metric, the latter as JSON; its seeds have to agree."""
    versions = sorted({run.task_version for run in runs})
    decodings = sorted({json.dumps(run.decode, sort_keys=True) for run in runs})
    for what, found in (("scored on task versions", versions), ("decoded with", decodings)):
        if len(found) > 1:
            raise DrirlError(
                f"{folder / 'runs.jsonl'}: seeds of {key[0]}, {key[1]} were {what} {' and '.join(found)}; "
                "they do not mix in one score, so rerun the stage evaluate of this cell"
            )
    return versions[0], decodings[0]


def read_groups(path: Path) -> dict[Key, Group]:
    """Read per-prompt records by (benchmark, metric), then by (prompt, seed).

    Raises:
        DrirlError: missing file, malformed records, a record twice.
    """
    groups: dict[Key, Group] = {}
    for item in read_items(path):
        group = groups.setdefault((item.benchmark, item.metric), {})
        if (item.item_id, item.seed) in group:
            raise DrirlError(
                f"{path}: item '{item.item_id}' of {item.benchmark}, {item.metric}, seed {item.seed} is "
                "there twice; evaluate this policy again (stage evaluate)"
            )
        group[item.item_id, item.seed] = item
    return groups


def one_judge(path: Path, key: Key, group: Group) -> str:
    """Return the judge of a group's scores, or raise a DrirlError if there are several."""
    judges = sorted({item.judge for item in group.values()})
    if len(judges) > 1:
        raise DrirlError(
            f"{path}: {key[0]}, {key[1]} was judged by {' and by '.join(map(repr, judges))}; judges do not "
            "mix in one score: evaluate this policy again (stage evaluate)"
        )
    return judges[0]


def read_items(path: Path) -> list[EvalItem]:
    """Read per-prompt records; a value that is NaN or infinite is no score, so it is missing (None).

    Raises:
        DrirlError: missing file, malformed records.
    """
    items = read_jsonl(path, EvalItem)
    return [item if item.value == finite(item.value) else replace(item, value=None) for item in items]


def finite(value: float | None) -> float | None:
    """Return a score, None for NaN and infinity, which JSON as Python writes it can hold."""
    return value if value is not None and math.isfinite(value) else None


def mean_of_seeds(items: Iterable[EvalItem]) -> float | None:
    """Return the mean over seeds of the means over prompts, as in the tables.

    None if there is no record, or a seed without any score.
    """
    by_seed: dict[int, list[float]] = {}
    for item in items:
        known = by_seed.setdefault(item.seed, [])
        if item.value is not None:
            known.append(item.value)
    if not by_seed or not all(by_seed.values()):
        return None
    return sum(sum(values) / len(values) for values in by_seed.values()) / len(by_seed)


def _check_alike(records: Records) -> None:
    """Refuse a column of the tables whose scores differ in judge, task version or decoding."""
    first: dict[Key, Scores] = {}
    for cell in records.cells.values():
        for key, scores in cell.items():
            other = first.setdefault(key, scores)
            for how, word, one, two in (
                ("judged", "by", other.judge, scores.judge),
                ("scored on", "task version", other.task_version, scores.task_version),
                ("decoded", "with", other.decode, scores.decode),
            ):
                if one != two:
                    raise DrirlError(
                        f"{key[0]}, {key[1]}: {how} {word} '{one}' in {other.model}/{other.method}, {word} "
                        f"'{two}' in {scores.model}/{scores.method}; such scores do not compare: rerun the "
                        "stage evaluate of the one that is out of date, or leave it out (--methods, --models)"
                    )


def _matrix(
    model: str, method: str, key: Key, higher: bool, group: dict[tuple[str, int], EvalItem]
) -> Scores:
    ids = sorted({item_id for item_id, _ in group})
    seeds = sorted({seed for _, seed in group})
    row = {item_id: number for number, item_id in enumerate(ids)}
    column = {seed: number for number, seed in enumerate(seeds)}
    values = np.full((len(ids), len(seeds)), np.nan)  # (I, K)
    first: dict[str, EvalItem] = {}
    for (item_id, seed), item in group.items():
        first.setdefault(item_id, item)
        if item.value is not None:
            values[row[item_id], column[seed]] = item.value
    items = tuple(
        Item(
            i, _cluster(key[0], first[i]), first[i].category, first[i].kind, first[i].level, first[i].novelty
        )
        for i in ids
    )
    return Scores(model, method, key[0], key[1], higher, items, tuple(seeds), values)


def _cluster(benchmark: str, item: EvalItem) -> str:
    """Name the cluster across benchmarks; a prompt without one stands for itself."""
    return f"{item.kind}/{item.cluster}" if item.cluster else f"{benchmark}/{item.item_id}"


def _check_seeds(
    cell: dict[Key, Scores], folder: Path, method: str, seeds: Sequence[int], allow_uneven: bool
) -> None:
    found = sorted({seed for scores in cell.values() for seed in scores.seeds})
    for scores in cell.values():
        holes = [seed for seed in found if seed not in scores.seeds]
        if holes and not allow_uneven:
            raise DrirlError(
                f"{folder}: {scores.benchmark}, {scores.metric} lacks seed {holes[0]}, which others have; "
                "rerun its stage evaluate or set compare.allow_uneven"
            )
    if allow_uneven or (method in UNTRAINED and len(found) == 1):
        return
    if found != sorted(seeds):
        raise DrirlError(
            f"{folder}: seeds {found}, expected {sorted(seeds)} (run.seeds): averages over others do not "
            "compare; rerun this cell or set compare.allow_uneven"
        )


def _keep(records: Records, benchmarks: Sequence[str]) -> None:
    known = {benchmark for benchmark, _ in records.keys()}
    benchmarks = [part for name in benchmarks for part in (MEANS[name][1] if name in MEANS else [name])]
    for name in benchmarks:
        if name not in known:
            raise DrirlError(f"--benchmarks: no records of '{name}'; {nearest(name, known)}")
    for cell in records.cells.values():
        for key in [key for key in cell if key[0] not in benchmarks]:
            del cell[key]


def _pooled(cell: dict[Key, Scores]) -> dict[Key, Scores]:
    pooled = {}
    for metric in POOLED:
        parts = [scores for (_, name), scores in sorted(cell.items()) if name == metric]
        if parts:
            pooled[ALL, metric] = pool(parts)
    for group, (metric, tasks) in MEANS.items():
        parts = [cell[task, metric] for task in tasks if (task, metric) in cell]
        if len(parts) == len(tasks):
            pooled[group, metric] = pool(parts, group, even=True)
    return pooled


def _read_counts(folder: Path) -> dict[str, list[float]]:
    """Return updates and tokens per seed from ``seed*/run.json``; empty if there are none."""
    counts: dict[str, list[float]] = {}
    for path in sorted(
        folder.glob("seed*/run.json"), key=lambda path: (len(path.parent.name), path.parent.name)
    ):
        run = read_json(path)
        for name in ("updates", "generated_tokens", "trained_tokens"):
            value = run.get(name, run.get("counts", {}).get(name))
            if value is not None:
                counts.setdefault(name, []).append(float(value))
    return counts
