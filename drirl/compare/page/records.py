"""Per-prompt records as small compressed chunks, for the browser in the page.

A chunk is deflated JSON in base64 text, read only when somebody looks at it. Records of one model and a
stretch of one benchmark's prompts lie together, all policies of a prompt side by side, so that equal and
similar completions are near each other and cost little.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl.compare.collect import Records, finite
from drirl.compare.names import ALL, CATEGORIES, POOLED
from drirl.records import read_jsonl

__all__ = ["BUDGET", "CHUNK", "Archive", "archive", "bundled_texts", "labels", "pack", "unpack"]

BUDGET = 2 * 2**20
"""Most characters of chunks for which every seed is embedded; beyond it, one seed of each policy is."""

CHUNK = 10_000
"""Most records in a chunk, about."""

_LABELS = (
    ("degenerate", ("fine", "degenerate")),
    ("refusal", ("answered", "refused")),
    ("attack", ("withstood", "attacked")),
    ("accuracy", ("wrong", "correct")),
    ("exact_match", ("wrong", "correct")),
)
_FIELDS = ("category", "kind", "level", "novelty", "cluster")


@dataclass
class Archive:
    """What the browser reads.

    Attributes:
        index: names of models, methods, benchmarks and metrics, and which chunk holds what; plain JSON.
        chunks: base64 text by chunk id.
        records: (policy, prompt) pairs embedded.
        left_out: such pairs of seeds that were left out to keep the page small.
    """

    index: dict[str, Any] = field(default_factory=dict)
    chunks: dict[str, str] = field(default_factory=dict)
    records: int = 0
    left_out: int = 0

    @property
    def size(self) -> int:
        """Characters of all chunks together."""
        return sum(map(len, self.chunks.values()))


@dataclass
class _Benchmark:
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    # (model, method, seed) -> item id -> completion, finished, values by metric
    found: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = field(default_factory=dict)


def pack(value: Any) -> str:
    """Return a JSON value as deflated base64 text, the same for the same value."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)).decode()


def unpack(text: str) -> Any:
    """Return what :func:`pack` was given."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def bundled_texts(sources: Sequence[str], benchmark: str) -> bool:
    """Return whether the prompts of a benchmark are the bundled ones, which may be shown to anybody.

    Other data sets have licences of their own, and attack prompts in them: their texts are embedded only if
    asked for.
    """
    return list(sources) == ["bundled"] and benchmark.startswith("drirl_tiny")


def labels(metric: str) -> tuple[str, str] | None:
    """Return the words for a score of 0 and of 1; None if the metric has no such words."""
    return next((words for part, words in _LABELS if part in metric), None)


def archive(
    out: Path,
    records: Records,
    *,
    sources: Sequence[str],
    texts: str = "bundled",
    budget: int = BUDGET,
    chunk: int = CHUNK,
) -> Archive:
    """Return all per-prompt records of ``records`` as chunks.

    Args:
        out: folder of the stage outputs; ``evaluate/<model>/<method>/items.jsonl`` is read again, for the
            texts that the tables do without.
        sources: ``data.sources``, see :func:`bundled_texts`.
        texts: which prompts and completions are embedded: all, bundled or none.
        budget: see :data:`BUDGET`.
        chunk: see :data:`CHUNK`.
    """
    benchmarks = _read(Path(out), records)
    shown = {
        name: texts == "all" or (texts == "bundled" and bundled_texts(sources, name)) for name in benchmarks
    }
    whole = _build(records, benchmarks, shown, chunk)
    if whole.size <= budget:
        return whole
    every = whole.records
    for benchmark in benchmarks.values():
        first: dict[tuple[str, str], int] = {}
        for model, method, seed in benchmark.found:
            first[model, method] = min(seed, first.get((model, method), seed))
        benchmark.found = {key: value for key, value in benchmark.found.items() if first[key[:2]] == key[2]}
    part = _build(records, benchmarks, shown, chunk)
    part.left_out = every - part.records
    return part


def _read(out: Path, records: Records) -> dict[str, _Benchmark]:
    kept = {key[0] for key in records.keys()}
    benchmarks: dict[str, _Benchmark] = {}
    for (model, method), cell in records.cells.items():
        # collect() has checked these files line by line; plain dicts are quicker to read
        for line in read_jsonl(out / "evaluate" / model / method / "items.jsonl"):
            name, metric = line["benchmark"], line["metric"]
            if name not in kept:
                continue
            benchmark = benchmarks.setdefault(name, _Benchmark())
            about = benchmark.metrics.setdefault(
                metric, {"higher": cell[name, metric].higher_is_better, "judges": []}
            )
            if line["judge"] not in about["judges"]:
                about["judges"].append(line["judge"])
            benchmark.items.setdefault(line["item_id"], line)
            policy = benchmark.found.setdefault((model, method, line["seed"]), {})
            record = policy.setdefault(
                line["item_id"],
                {"completion": line["response"], "finished": line.get("finished", True), "values": {}},
            )
            record["values"][metric] = finite(line["value"])
    return dict(sorted(benchmarks.items()))


def _build(
    records: Records, benchmarks: dict[str, _Benchmark], shown: dict[str, bool], chunk: int
) -> Archive:
    made = Archive()
    policies = {
        model: sorted(
            {key[1:] for benchmark in benchmarks.values() for key in benchmark.found if key[0] == model},
            key=lambda policy: (records.methods.index(policy[0]), policy[1]),
        )
        for model in records.models
    }
    most = max([len(found) for found in policies.values()] + [1])
    listed = []
    for name, benchmark in benchmarks.items():
        ids = sorted(benchmark.items)
        metrics = sorted(benchmark.metrics, key=lambda metric: (metric in POOLED, metric))
        parts = []
        for piece in _pieces(ids, max(1, chunk // most)):
            key = f"i{len(made.chunks)}"
            made.chunks[key] = pack(_items(benchmark, piece, shown[name]))
            where = {}
            for model, found in policies.items():
                if not any((model, *policy) in benchmark.found for policy in found):
                    continue
                where[model] = f"r{len(made.chunks)}"
                value, count = _records(benchmark, model, found, piece, metrics, shown[name])
                made.chunks[where[model]] = pack(value)
                made.records += count
            parts.append({"items": key, "count": len(piece), "records": where})
        listed.append(
            {
                "name": name,
                "shown": shown[name],
                "metrics": [
                    {"name": metric, "labels": labels(metric), **benchmark.metrics[metric]}
                    for metric in metrics
                ],
                "parts": parts,
            }
        )
    made.index = {
        "models": [model for model in records.models if policies[model]],
        "methods": list(records.methods),
        "policies": {model: [list(policy) for policy in found] for model, found in policies.items()},
        "benchmarks": listed,
        "categories": list(CATEGORIES),
        "pooled": list(POOLED),
        "all": ALL,
    }
    return made


def _pieces(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _items(benchmark: _Benchmark, ids: Sequence[str], shown: bool) -> dict[str, list[Any]]:
    lines = [benchmark.items[item_id] for item_id in ids]
    columns: dict[str, list[Any]] = {name: [line.get(name, "") for line in lines] for name in _FIELDS}
    columns["id"] = list(ids)
    columns["prompt"] = [line["prompt"] if shown else None for line in lines]
    return columns


def _records(
    benchmark: _Benchmark,
    model: str,
    policies: Sequence[tuple[str, int]],
    ids: Sequence[str],
    metrics: Sequence[str],
    shown: bool,
) -> tuple[dict[str, Any], int]:
    """Return the chunk of one model and some prompts, and how many records are in it.

    ``texts`` holds every completion once; ``completion[p][i]`` points into it, -1 where there is no record.
    ``values[m][p][i]`` is the score, null where it is missing. ``cut[p]`` lists the unfinished ones.
    """
    place: dict[str, int] = {}
    completion = [[-1] * len(ids) for _ in policies]
    values: list[list[list[float | None]]] = [[[None] * len(ids) for _ in policies] for _ in metrics]
    cut: list[list[int]] = [[] for _ in policies]
    count = 0
    for i, item_id in enumerate(ids):
        for p, policy in enumerate(policies):
            record = benchmark.found.get((model, *policy), {}).get(item_id)
            if record is None:
                continue
            count += 1
            text = record["completion"] if shown else ""
            completion[p][i] = place.setdefault(text, len(place))
            if not record["finished"]:
                cut[p].append(i)
            for m, metric in enumerate(metrics):
                values[m][p][i] = _short(record["values"].get(metric))
    return {"texts": list(place), "completion": completion, "values": values, "cut": cut}, count


def _short(value: float | None) -> float | None:
    """Round to three decimals; whole numbers are written without a point."""
    if value is None:
        return None
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded
