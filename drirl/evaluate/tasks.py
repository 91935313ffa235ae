"""What the benchmark folders share: reading items, fixed subsets, scoring one reply. No torch, no lm-eval.

A benchmark's ``utils.py`` calls these from stock ``lm_eval --include_path benchmarks`` and from
:mod:`drirl.evaluate.harness` alike, so both give the same scores. Every item is one flat row (:func:`row`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl.detect import degenerate, is_refusal
from drirl.errors import DrirlError
from drirl.records import BENIGN, Prompt, prompt_id, read_jsonl
from drirl.text import split_draft

__all__ = [
    "as_dataset",
    "choose",
    "data_file",
    "data_files",
    "prompt_rows",
    "read_csv_rows",
    "read_json",
    "read_json_lines",
    "read_parquet_rows",
    "read_table",
    "row",
    "score_choice",
    "score_correct",
    "score_mass",
    "score_refusal",
    "text_id",
]

Row = dict[str, Any]
Hub = Mapping[str, str] | None

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})(?::(?P<file>[\w./*-]+))?")


def row(
    item_id: str,
    text: str,
    *,
    kind: str,
    category: int = BENIGN,
    level: str = "",
    cluster: str = "",
    novelty: str = "",
    label: str = "",
    reference: str = "",
    checker: str = "",
) -> Row:
    """Return one benchmark item; an item without a cluster is a cluster of its own."""
    return {
        "item_id": item_id,
        "text": text,
        "kind": kind,
        "category": category,
        "level": level,
        "cluster": cluster or item_id,
        "novelty": novelty,
        "label": label,
        "reference": reference,
        "checker": checker,
    }


def prompt_rows(kind: str, *, out: str | None = None, split: str | None = None) -> list[Row]:
    """Read the prompts of one kind and split from ``<out>/data/prompts.jsonl``.

    Args:
        kind: harmful, benign, contrast or task.
        out: folder of the stage outputs; default: environment variable DRIRL_OUT, then ``out``.
        split: default: environment variable DRIRL_SPLIT, then ``test``.

    Raises:
        DrirlError: the file is missing or malformed (with the line), or holds no such prompt.
    """
    path = Path(out or os.environ.get("DRIRL_OUT") or "out") / "data" / "prompts.jsonl"
    split = split or os.environ.get("DRIRL_SPLIT") or "test"
    chosen = [p for p in read_jsonl(path, Prompt) if p.kind == kind and p.split == split]
    if not chosen:
        raise DrirlError(
            f"{path}: no prompt of kind '{kind}' in split '{split}'; leave its task out of evaluate.tasks"
        )
    return [
        row(
            p.prompt_id,
            p.text,
            kind=p.kind,
            category=p.category,
            level=p.level,
            cluster=str(p.cluster_id) if p.cluster_id >= 0 else "",
            novelty=p.novelty,
            label=p.intent,
            reference=p.reference,
            checker=p.checker,
        )
        for p in chosen
    ]


def data_file(relative: str, root: str | None = None, hub: Hub = None) -> Path:
    """Return the path of one real data file; see :func:`data_files`."""
    found = data_files(relative, root, hub)
    if len(found) > 1:
        raise DrirlError(f"{relative}: expected one file, found {len(found)}, the first {found[0]}")
    return found[0]


def data_files(relative: str, root: str | None = None, hub: Hub = None) -> list[Path]:
    """Return the real data files that ``relative`` (a path, or a pattern with ``*``) names, sorted.

    Args:
        relative: ``folder/file`` below ``root``; the folder is the name of the benchmark's data.
        root: folder of data files; default: environment variable DRIRL_DATA.
        hub: dataset repositories by folder, ``owner/name@revision`` or ``owner/name@revision:file``, where
            the revision is a full commit and the file defaults to that of ``relative``. An entry goes
            before ``root``. Default: environment variable DRIRL_HUB, the same mapping as JSON. Only files
            are fetched, and no code of a repository runs.

    Raises:
        DrirlError: no folder is configured, nothing is there, or a repository is unpinned or unreachable.
    """
    folder, _, name = relative.partition("/")
    spec = _hub_table(hub).get(folder)
    if spec is not None:
        return _hub_files(spec, folder, name)
    root = root or os.environ.get("DRIRL_DATA") or ""
    if not root or "${" in root:
        raise DrirlError(
            f"{relative} is needed: set DRIRL_DATA (or data.root in params.yaml) to the folder that holds it"
        )
    found = sorted(path for path in Path(root).glob(relative) if path.is_file())
    if not found:
        path = Path(root) / relative
        raise DrirlError(f"{path}: no such file; DRIRL_DATA (or data.root) should hold {relative}")
    return found


def _hub_table(hub: Hub) -> dict[str, str]:
    table: Any = hub
    if table is None:
        try:
            table = json.loads(os.environ.get("DRIRL_HUB") or "{}")
        except json.JSONDecodeError as error:
            raise DrirlError(f"DRIRL_HUB: not valid JSON: {error.msg}") from None
    if not isinstance(table, Mapping) or not all(isinstance(spec, str) for spec in table.values()):
        raise DrirlError('DRIRL_HUB: expected {"folder": "owner/name@revision"}')
    return dict(table)


def _hub_files(spec: str, folder: str, name: str) -> list[Path]:
    """Fetch (or find in the local cache) the files of one pinned dataset repository."""
    match = _HUB.fullmatch(spec)
    if match is None:
        raise DrirlError(
            f"hub entry '{folder}': expected owner/name@revision with a full commit of 40 hex digits, "
            f"found '{spec}'"
        )
    from huggingface_hub import snapshot_download

    pattern = match["file"] or name
    try:
        snapshot = snapshot_download(
            match["repo"], repo_type="dataset", revision=match["revision"], allow_patterns=[pattern]
        )
    except (OSError, ValueError) as error:  # the errors of the hub are these
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DrirlError(f"hub entry '{folder}': cannot get {spec}: {reason}") from None
    found = sorted(path for path in Path(snapshot).glob(pattern) if path.is_file())
    if not found:
        raise DrirlError(f"hub entry '{folder}': {spec} has no file '{pattern}'")
    return found


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Read a table as ``(line or row number, cells)`` by the end of its name: csv, jsonl or parquet.

    Raises:
        DrirlError: another kind of file; otherwise as the reader of that kind.
    """
    readers: dict[str, Callable[[Path, Sequence[str]], Iterable[tuple[int, dict[str, Any]]]]] = {
        ".csv": read_csv_rows,
        ".jsonl": read_json_lines,
        ".parquet": read_parquet_rows,
    }
    if path.suffix not in readers:
        raise DrirlError(f"{path}: expected a name that ends with {', '.join(readers)}")
    return list(readers[path.suffix](path, columns))


def read_parquet_rows(
    path: Path, columns: Sequence[str], keep: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row number, cells)`` of a parquet file batch by batch; ``columns`` may not be empty.

    Args:
        keep: columns to read, those that are there; None reads all.

    Raises:
        DrirlError: not parquet, a column missing, a cell empty, or no rows.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            found = ", ".join(file.schema_arrow.names)
            raise DrirlError(f"{path}: column '{missing[0]}' is missing; found {found}")
        names = [name for name in file.schema_arrow.names if keep is None or name in keep]
        for batch in file.iter_batches(batch_size=1024, columns=names):
            for cells in batch.to_pylist():
                number += 1
                for name in columns:
                    if cells[name] is None or (isinstance(cells[name], str) and not cells[name].strip()):
                        raise DrirlError(f"{path}: row {number}: column '{name}' is empty")
                yield number, cells
    except (pyarrow.ArrowException, OSError) as error:
        raise DrirlError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None
    if not number:
        raise DrirlError(f"{path}: no rows")


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        DrirlError: not UTF-8 or not valid JSON (cut off, for one); with the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None
    except json.JSONDecodeError as error:
        raise DrirlError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None


def read_csv_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header as ``(line number, cells)``; quoted cells may hold line breaks.

    Raises:
        DrirlError: not UTF-8, a column missing, a row with too few or too many cells, an empty needed cell.
    """
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "nothing"
                raise DrirlError(f"{path}:1: column '{missing[0]}' is missing; found {found}")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if None in cells:
                    raise DrirlError(f"{where}: more cells than the {len(reader.fieldnames or [])} columns")
                if None in cells.values():
                    raise DrirlError(f"{where}: fewer cells than the {len(reader.fieldnames or [])} columns")
                empty = [name for name in columns if not cells[name].strip()]
                if empty:
                    raise DrirlError(f"{where}: column '{empty[0]}' is empty")
                rows.append((reader.line_num, cells))
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None
    except csv.Error as error:
        raise DrirlError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
    if not rows:
        raise DrirlError(f"{path}: no rows below the header")
    return rows


def read_json_lines(path: Path, fields: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Read JSON lines as ``(line number, object)``; each needs the text ``fields``.

    Raises:
        DrirlError: not UTF-8, not a JSON object, or a field missing, empty or not text; with the line.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        # not splitlines(), which also cuts at U+2028 inside a text
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DrirlError(f"{path}:{number}: not valid JSON: {error.msg}") from None
            for name in fields:
                cell = value.get(name) if isinstance(value, dict) else None
                if not isinstance(cell, str) or not cell.strip():
                    raise DrirlError(f"{path}:{number}: expected an object with the text '{name}'")
            rows.append((number, value))
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None
    if not rows:
        raise DrirlError(f"{path}: no rows")
    return rows


def choose(
    rows: Iterable[Row],
    task: str,
    *,
    subset: int | str | Mapping[str, int] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Row]:
    """Return a fixed subset: the first ``k`` rows in the order of a seeded hash of their id, in file order.

    The choice depends on ids and seed alone, so a smaller subset lies within a larger one.

    Args:
        rows: all items of the task; ids must differ.
        task: name of the task, looked up in ``subset``.
        subset: k, or k by task name; default: environment variable DRIRL_SUBSET, then all.
        limit: a further upper bound for quick runs.

    Raises:
        DrirlError: two items with one id, or a k that is not a positive number.
    """
    rows = list(rows)
    seen: set[str] = set()
    for item in rows:
        if item["item_id"] in seen:
            raise DrirlError(f"{task}: two items have the id '{item['item_id']}'")
        seen.add(item["item_id"])
    if subset is None:
        subset = os.environ.get("DRIRL_SUBSET") or None
    wanted = subset.get(task) if isinstance(subset, Mapping) else subset
    bounds = [bound for bound in (wanted, limit) if bound is not None]
    if not bounds:
        return rows
    try:
        size = min(int(bound) for bound in bounds)
    except ValueError:
        raise DrirlError(f"{task}: a subset is a number of items, found {wanted!r}") from None
    if size < 1:
        raise DrirlError(f"{task}: a subset needs at least one item, found {size}")
    if size >= len(rows):
        return rows

    def order(item: Row) -> str:
        return hashlib.sha256(f"{seed}:{item['item_id']}".encode()).hexdigest()

    kept = {item["item_id"] for item in sorted(rows, key=order)[:size]}
    return [item for item in rows if item["item_id"] in kept]


def as_dataset(rows: list[Row]) -> dict[str, Any]:
    """Return what lm-eval's ``custom_dataset`` has to give: the split ``test``."""
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}


def text_id(text: str) -> str:
    """Return an id for an item whose file has none."""
    return prompt_id(text)


def score_refusal(completion: str, metric: str) -> dict[str, float]:
    """Score one completion as refused (1) or not (0) under the name ``metric``, by its reply alone."""
    _, answer = split_draft(completion)
    return {metric: float(is_refusal(answer)), "degenerate_text": float(degenerate(answer) != "")}


def score_correct(item: Mapping[str, Any], completion: str, metric: str) -> dict[str, float]:
    """Score one completion as correct (1) or not (0) by the item's checker, by its reply alone."""
    from drirl.data.check import check_answer

    _, answer = split_draft(completion)
    correct = check_answer(item["checker"], item["reference"], answer, where=f"item {item['item_id']}")
    return {metric: float(correct), "degenerate_text": float(degenerate(answer) != "")}


def score_choice(results: Sequence[Any], gold: int, metric: str) -> dict[str, float]:
    """Score a choice by log-likelihood: 1 when choice ``gold`` is more likely than every other one.

    A tie counts as wrong, so that the order of the choices cannot help.

    Args:
        results: per choice, log-likelihood in nats (or a pair that begins with it), as lm-eval gives them.
        gold: index of the right choice.
        metric: name of the score; its value is NaN when a log-likelihood is NaN.
    """
    values = _log_likelihoods(results)
    if any(math.isnan(value) for value in values):
        return {metric: math.nan}
    return {metric: float(all(values[gold] > value for i, value in enumerate(values) if i != gold))}


def score_mass(results: Sequence[Any], gold: Sequence[int], metric: str) -> dict[str, float]:
    """Return the share of probability on the choices ``gold``, probabilities normalised over the choices.

    MC2 of TruthfulQA (arXiv 2109.07958); computed relative to the likeliest choice, so long choices
    do not underflow. NaN when a log-likelihood is NaN or all are minus infinity.
    """
    values = _log_likelihoods(results)
    top = max(values)
    if any(math.isnan(value) for value in values) or top == -math.inf:
        return {metric: math.nan}
    mass = [math.exp(value - top) for value in values]
    return {metric: math.fsum(mass[i] for i in gold) / math.fsum(mass)}


def _log_likelihoods(results: Sequence[Any]) -> list[float]:
    return [float(r[0]) if isinstance(r, Sequence) else float(r) for r in results]
