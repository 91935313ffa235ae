"""``drirl compare runA runB``: two result folders prompt by prompt, and what flipped between them.

The test is McNemar's, exact: of the prompts whose score changed, are as many higher as lower? With several
seeds a prompt counts once: a score of 0 or 1 by what more than half of the seeds say (an even split is left
out), another by its mean. The test takes the policies as they are and prompts as independent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl.compare.collect import Group, mean_of_seeds, one_judge, read_groups
from drirl.compare.names import CATEGORIES, POOLED, category_name, code, escape
from drirl.compare.scores import SLICED_BY, has
from drirl.compare.significance import mcnemar_of_counts
from drirl.compare.tables import number, write_csv
from drirl.errors import DrirlError, nearest
from drirl.records import SCHEMA_VERSION, EvalItem, RunRecord, read_jsonl

__all__ = [
    "COLUMNS",
    "FLIPS",
    "Diff",
    "Flip",
    "Line",
    "command",
    "compare_folders",
    "render_diff",
    "write_diff",
]

COLUMNS = (
    "model",
    "method",
    "benchmark",
    "metric",
    "prompts",
    "seeds",
    "before",
    "after",
    "difference",
    "went_up",
    "went_down",
    "p",
)
FLIPS = (
    "model",
    "method",
    "benchmark",
    "metric",
    "seed",
    "item_id",
    "category",
    "level",
    "before",
    "after",
    "same_completion",
)
_SHOWN = 20

Cell = tuple[str, str]
"""(model, method)."""


@dataclass(frozen=True)
class Line:
    """One metric, whole or of a slice, on the prompts that both folders have.

    Attributes:
        prompts: prompts scored in both.
        seeds: seeds that both have.
        before, after: mean over these prompts and seeds, of the first and of the second folder.
        up, down: prompts whose score rose or fell, seeds taken together.
        p: of the exact test, two-sided; 1 if no prompt changed.
    """

    model: str
    method: str
    benchmark: str
    metric: str
    prompts: int
    seeds: int
    before: float
    after: float
    up: int
    down: int
    p: float

    @property
    def sliced(self) -> bool:
        """Whether this is a part of a metric, such as one category."""
        return self.metric.endswith("]")

    def cells(self) -> list[str]:
        """Return the texts of one line of diff.csv."""
        head = [self.model, self.method, self.benchmark, self.metric, str(self.prompts), str(self.seeds)]
        means = [number(self.before), number(self.after), number(self.after - self.before)]
        return [*head, *means, str(self.up), str(self.down), f"{self.p:.6g}"]


@dataclass(frozen=True)
class Flip:
    """One record whose score went from 0 to 1 or back."""

    model: str
    method: str
    before: EvalItem
    after: EvalItem

    def cells(self) -> list[str]:
        """Return the texts of one line of flips.csv; prompts and completions stay in the records."""
        one = self.before
        return [
            self.model,
            self.method,
            one.benchmark,
            one.metric,
            str(one.seed),
            one.item_id,
            category_name(one.category),
            one.level,
            number(one.value),
            number(self.after.value),
            "true" if one.response == self.after.response else "false",
        ]


@dataclass
class Diff:
    """What two folders differ in; ``missing`` and ``unlike`` are sentences."""

    names: tuple[str, str]
    lines: list[Line] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)


def compare_folders(
    first: Path,
    second: Path,
    *,
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
) -> Diff:
    """Compare two result folders: an ``out`` folder, ``out/evaluate/<model>/<method>``, or one that
    ``drirl evaluate`` wrote.

    Two folders of one policy each are compared whatever the policies are called; otherwise the same model
    and method are. What only one folder has is listed as missing.

    Args:
        models, methods, benchmarks: use these only.
    Raises:
        DrirlError: no records, another schema version, a record twice, two judges in one score, nothing in
            common, a name that neither has.
    """
    sides = [_cells(Path(folder)) for folder in (first, second)]
    for option, place, wanted in (("--models", 0, models), ("--methods", 1, methods)):
        known = {cell[place] for side in sides for cell in side}
        for name in wanted or []:
            if name not in known:
                raise DrirlError(f"{option}: no records of '{name}' in either folder; {nearest(name, known)}")
        if wanted:
            sides = [{c: path for c, path in side.items() if c[place] in wanted} for side in sides]
    diff = Diff((str(first), str(second)))
    if all(len(side) == 1 for side in sides):
        pairs = [(next(iter(sides[0])), next(iter(sides[1])))]
    else:
        pairs = [(cell, cell) for cell in sides[0] if cell in sides[1]]
        for side, other, folder in ((sides[0], sides[1], first), (sides[1], sides[0], second)):
            diff.missing += [f"{'/'.join(cell)}: only in {folder}" for cell in side if cell not in other]
    if not pairs:
        lists = [", ".join("/".join(cell) for cell in side) or "none" for side in sides]
        raise DrirlError(
            f"no policy is in both folders: {first} has {lists[0]}; {second} has {lists[1]}. "
            "Give two folders of one policy each, or two with the same names"
        )
    seen: set[str] = set()
    for mine, theirs in pairs:
        seen |= _compare(diff, mine, theirs, sides[0][mine], sides[1][theirs], benchmarks)
    for name in benchmarks or []:
        if name not in seen:
            raise DrirlError(f"--benchmarks: no records of '{name}' in either; {nearest(name, seen)}")
    if not diff.lines:
        raise DrirlError(
            f"{first} and {second} have no scored prompt in common: "
            + ("; ".join(diff.missing[:5]) or "their benchmarks or prompts differ")
        )
    return diff


def command(
    runs: Sequence[Path],
    *,
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
    output: Path | None = None,
) -> None:
    """Print the differences of two folders as Markdown; with ``output`` also write the csv files there.

    Raises:
        DrirlError: not two folders, or as :func:`compare_folders`.
    """
    if len(runs) != 2:
        raise DrirlError(
            f"expected two result folders, found {len(runs)}; none makes the reports of this project"
        )
    diff = compare_folders(*runs, models=models, methods=methods, benchmarks=benchmarks)
    files = write_diff(diff, output) if output is not None else []
    print(render_diff(diff), end="")
    for file in files:
        print(f"written: {file}", file=sys.stderr)


def write_diff(diff: Diff, folder: Path) -> list[Path]:
    """Write ``diff.csv`` and ``flips.csv``; return the files."""
    folder = Path(folder)
    write_csv(folder / "diff.csv", COLUMNS, (line.cells() for line in diff.lines))
    write_csv(folder / "flips.csv", FLIPS, (flip.cells() for flip in diff.flips))
    return [folder / "diff.csv", folder / "flips.csv"]


def render_diff(diff: Diff, shown: int = _SHOWN) -> str:
    """Return the differences as Markdown: whole metrics, then the slices that changed, then what flipped."""
    titles = ["Model", "Method", "Benchmark", "Metric", "Prompts", "Before", "After", "Up", "Down", "p"]
    whole = [_words(line) for line in diff.lines if not line.sliced]
    parts = [
        f"# {escape(diff.names[0])} against {escape(diff.names[1])}",
        "Means over the prompts and seeds that both have. Up and Down: prompts whose score rose or fell. p: "
        "exact McNemar test (docs/statistics.md), not corrected for the number of rows.",
        _table(titles, whole),
    ]
    changed = [line for line in diff.lines if line.sliced and line.up + line.down]
    sliced = [_words(line) for line in changed if line.metric.partition("[")[0] not in POOLED]
    if sliced:
        parts += ["## Where", _table(titles, sliced)]
    parts.append("## What flipped")
    if diff.flips:
        lines = [
            [code(cell) if place == 5 else escape(cell) for place, cell in enumerate(flip.cells())]
            for flip in diff.flips[:shown]
        ]
        parts.append(_table([name.replace("_", " ") for name in FLIPS], lines))
        if len(diff.flips) > shown:
            parts.append(f"{len(diff.flips) - shown} more; all of them: `--output FOLDER`.")
    else:
        parts.append("Nothing.")
    for title, notes in (("## Not measured alike", diff.unlike), ("## Missing", diff.missing)):
        if notes:
            parts.append(title + "\n\n" + "\n".join(f"- {escape(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _cells(folder: Path) -> dict[Cell, Path]:
    """Return the folders with an items.jsonl at or below ``folder``, by what their first record names."""
    if not folder.is_dir():
        raise DrirlError(f"{folder}: no such folder; give two folders with results")
    for pattern in ("items.jsonl", "evaluate/*/*/items.jsonl", "*/*/items.jsonl", "*/items.jsonl"):
        files = sorted(folder.glob(pattern))
        if files:
            break
    else:
        raise DrirlError(
            f"{folder}: no items.jsonl in it; expected an out folder, out/evaluate/<model>/<method>, or a "
            "folder that 'drirl evaluate' wrote"
        )
    found: dict[Cell, Path] = {}
    for file in files:
        cell = _name(file)
        if cell in found:
            raise DrirlError(
                f"{file}: records of {'/'.join(cell)}, which {found[cell]} has too; give one of them"
            )
        found[cell] = file.parent
    return found


def _name(file: Path) -> Cell:
    """Return model and method of a file of records, from its first line."""
    with file.open(encoding="utf-8", errors="replace") as handle:
        line = handle.readline()
    if not line.strip():
        raise DrirlError(f"{file}: no records in it; evaluate this policy again")
    try:
        value = json.loads(line)
        version = value.get("schema_version", SCHEMA_VERSION)
        cell = (str(value["model"]), str(value["method"]))
    except (json.JSONDecodeError, AttributeError, KeyError):
        raise DrirlError(
            f"{file}:1: not a record of drirl; expected a line of JSON with model, method"
        ) from None
    if version != SCHEMA_VERSION:
        raise DrirlError(
            f"{file}: schema version {version}, this drirl reads {SCHEMA_VERSION}: evaluate this policy "
            "again, or compare with the drirl that wrote it"
        )
    return cell


def _compare(
    diff: Diff, mine: Cell, theirs: Cell, first: Path, second: Path, benchmarks: Sequence[str] | None
) -> set[str]:
    """Add what two policies differ in; return the names of the benchmarks that either has."""
    sides = [read_groups(folder / "items.jsonl") for folder in (first, second)]
    seen = {key[0] for side in sides for key in side}
    model, method = (a if a == b else f"{a} / {b}" for a, b in zip(mine, theirs, strict=True))
    label = f"{model}/{method}"
    diff.unlike += [f"{label}: {note}" for note in _unlike(first / "runs.jsonl", second / "runs.jsonl")]
    for key in sorted({key for side in sides for key in side}):
        if benchmarks and key[0] not in benchmarks:
            continue
        name = f"{label}: {key[0]}, {key[1]}"
        if key not in sides[0] or key not in sides[1]:
            diff.missing.append(f"{name}: only in {diff.names[0 if key in sides[0] else 1]}")
            continue
        judges = [
            one_judge(folder / "items.jsonl", key, side[key])
            for folder, side in zip((first, second), sides, strict=True)
        ]
        pairs = _pairs(sides[0][key], sides[1][key])
        seeds = [sorted({seed for _, seed in side[key]}) for side in sides]
        for side, own, where in zip(sides, seeds, diff.names, strict=True):
            shared = set(seeds[0]) & set(seeds[1]) or set(own)  # further seeds are said below
            total = sum(seed in shared for _, seed in side[key])
            if total > len(pairs):
                diff.missing.append(
                    f"{name}: {total - len(pairs)} of {total} records (prompts by seeds) of {where} have no "
                    "scored partner"
                )
        if pairs and seeds[0] != seeds[1]:
            diff.missing.append(f"{name}: seeds {seeds[0]} against {seeds[1]}; those in both are compared")
        if judges[0] != judges[1]:
            diff.unlike.append(f"{name}: judged by {judges[0]} against {judges[1]}")
        if not pairs:
            continue
        diff.lines.append(_line(model, method, key, key[1], pairs))
        for by, wanted in _slices([before for before, _ in pairs]):
            part = [pair for pair in pairs if has(pair[0], by, wanted)]
            diff.lines.append(_line(model, method, key, f"{key[1]}[{by}={wanted}]", part))
        if all(item.value in (0, 1) for pair in pairs for item in pair):
            diff.flips += [Flip(model, method, *pair) for pair in pairs if pair[0].value != pair[1].value]
    return seen


Pairs = Sequence[tuple[EvalItem, EvalItem]]


def _pairs(first: Group, second: Group) -> list[tuple[EvalItem, EvalItem]]:
    """Return the records of the same prompt and seed that both have a score for, by prompt and seed.

    A side with one seed and another with one other seed are two single policies: they are paired.
    """
    seeds = [{seed for _, seed in group} for group in (first, second)]
    if not seeds[0] & seeds[1] and len(seeds[0]) == len(seeds[1]) == 1:
        seed = next(iter(seeds[0]))
        second = {(item_id, seed): item for (item_id, _), item in second.items()}
    return [
        (first[key], second[key])
        for key in sorted(first)
        if key in second and first[key].value is not None and second[key].value is not None
    ]


def _line(model: str, method: str, key: tuple[str, str], metric: str, pairs: Pairs) -> Line:
    binary = all(item.value in (0, 1) for pair in pairs for item in pair)
    sides: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    for pair in pairs:
        for side, one in zip(sides, pair, strict=True):
            side.setdefault(pair[0].item_id, []).append(one.value or 0.0)
    up = down = 0
    for name, values in sides[0].items():
        before, after = sum(values) / len(values), sum(sides[1][name]) / len(values)
        if binary and 0.5 in (before, after):
            continue
        change = (after > 0.5) - (before > 0.5) if binary else after - before
        up, down = up + (change > 1e-12), down + (change < -1e-12)
    means = [mean_of_seeds(side) for side in zip(*pairs, strict=True)]
    assert means[0] is not None
    assert means[1] is not None
    return Line(
        model,
        method,
        key[0],
        metric,
        len(sides[0]),
        len({before.seed for before, _ in pairs}),
        means[0],
        means[1],
        up,
        down,
        mcnemar_of_counts(up, down),
    )


def _slices(items: Sequence[EvalItem]) -> list[tuple[str, str]]:
    """Return (field, value) of every part of at least two: levels, categories, novelties."""
    parts: list[tuple[str, str]] = []
    for by in SLICED_BY:
        if by == "category":
            names = [name for name in CATEGORIES if any(has(item, by, name) for item in items)]
        else:
            names = sorted({getattr(item, by) for item in items} - {""})
        if len(names) > 1:
            parts += [(by, name) for name in names]
    return parts


def _unlike(first: Path, second: Path) -> list[str]:
    """Return how tasks, templates or decoding differ, from the run records where both are there."""
    if not (first.is_file() and second.is_file()):
        return []
    looks: list[dict[str, RunRecord]] = [
        {run.benchmark: run for run in read_jsonl(file, RunRecord)} for file in (first, second)
    ]
    notes = []
    for name in sorted(looks[0].keys() & looks[1].keys()):
        one, other = looks[0][name], looks[1][name]
        for field_ in ("task_version", "template_hash", "decode"):
            values: list[Any] = [getattr(one, field_), getattr(other, field_)]
            if values[0] != values[1]:
                notes.append(f"{name}: {field_.replace('_', ' ')} {values[0]} against {values[1]}")
    return notes


def _words(line: Line) -> list[str]:
    names = [escape(line.model), escape(line.method), code(line.benchmark), code(line.metric)]
    means = [f"{line.before:.3f}", f"{line.after:.3f}"]
    p = "< 0.0001" if line.p < 0.0001 else f"{line.p:.4f}"
    return [*names, str(line.prompts), *means, str(line.up), str(line.down), p.replace("<", "&lt;")]


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join(head + [f"| {' | '.join(line)} |" for line in lines])
