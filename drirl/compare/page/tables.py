"""The tables of the page: each cell knows the policy, benchmark and metric whose records are behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drirl.compare.columns import Column, headline_columns, parts_columns, short_columns
from drirl.compare.gaps import missing_scores
from drirl.compare.names import CATEGORIES, MEANS, POOLED, TRAINING
from drirl.compare.stats import Estimate
from drirl.compare.tables import Analysis, Difference, Row
from drirl.compare.texts import best, p_text, standing

__all__ = ["Cell", "Heading", "Line", "Table", "details", "headline"]

_LEVELS = ("direct", "paraphrased", "disguised")


@dataclass(frozen=True)
class Heading:
    """A column: what is measured, and which way is better (↑ or ↓)."""

    title: str
    arrow: str
    benchmark: str
    metric: str
    n: str = ""

    @property
    def traced(self) -> bool:
        """Whether there are per-prompt records behind this column."""
        return self.benchmark != TRAINING and self.benchmark not in MEANS


@dataclass(frozen=True)
class Cell:
    """``value`` orders the rows; an empty ``text`` is a missing cell.

    Attributes:
        told: shown in bold.
        mark: ▲ significantly better than the reference, ▼ worse, else empty.
        note: a further line, such as a p-value.
    """

    text: str = ""
    interval: str = ""
    value: float | None = None
    told: bool = False
    mark: str = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One policy."""

    model: str
    method: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of policies by measures.

    Attributes:
        reference: the method that was subtracted, if any.
        notes: sentences to stand below it.
    """

    name: str
    caption: str
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    reference: str = ""
    notes: tuple[str, ...] = ()


def headline(analysis: Analysis, reference: str, level: float) -> Table:
    """Return the headline table; a difference counts if its corrected p-value is below ``level``."""
    columns = headline_columns(analysis)
    plain = _table(analysis, "headline", "", columns, bounds=0)
    tops = {
        (model, place): best(analysis, model, *column[1:], level, reference)
        for model in analysis.records.models
        for place, column in enumerate(columns)
    }
    known = reference in analysis.records.methods
    lines = []
    for line in plain.lines:
        cells = []
        for place, cell in enumerate(line.cells):
            gap = analysis.tested(line.model, line.method, reference, *columns[place][1:]) if known else None
            cells.append(
                replace(cell, told=tops[line.model, place] == line.method, mark=standing(gap, level))
            )
        lines.append(replace(line, cells=tuple(cells)))
    caption = "Shares in percent with intervals; select a number to see its records."
    if known:
        caption += (
            f" ▲ better, ▼ worse than {reference}; bold: better than every other method (p below {level:g} "
            "after Holm's correction)."
        )
    # The report's notes follow the table; they speak of its short form.
    short = short_columns(analysis)
    rest = [column for column in columns if column not in short]
    notes = tuple(missing_scores(analysis, rest, plain=True))
    return replace(plain, caption=caption, lines=tuple(lines), notes=notes)


def details(analysis: Analysis, reference: str, level: float) -> list[Table]:
    """Return the tables below it: differences, difficulty levels, categories, mean reward."""
    tables = []
    if reference in analysis.records.methods:
        tables.append(_differences(analysis, reference, level))
    for benchmark, metric in analysis.records.keys():
        if metric in POOLED:
            continue
        about = f"{benchmark}, {metric.replace('_', ' ')}"
        for field, names in (("level", _LEVELS), ("category", CATEGORIES)):
            columns = [
                (name, benchmark, f"{metric}[{field}={name}]")
                for name in names
                if any(
                    (row.benchmark, row.metric) == (benchmark, f"{metric}[{field}={name}]")
                    for row in analysis.rows
                )
            ]
            if len(columns) > 1:
                word = "difficulty" if field == "level" else field
                tables.append(_table(analysis, f"{field}-{len(tables)}", f"By {word}: {about}", columns))
    if tasks := parts_columns(analysis):
        tables.append(_table(analysis, "parts", "Tasks whose mean is a column of the headline table", tasks))
    columns = [(name, name, metric) for name, metric in analysis.records.keys() if metric == "mean_reward"]
    if columns:
        caption = "Mean reward: score under the category rewards of the same base model; no measure of safety"
        tables.append(_table(analysis, "reward", caption, columns))
    return tables


def _table(analysis: Analysis, name: str, caption: str, columns: Sequence[Column], bounds: int = 1) -> Table:
    """Return a table of values; ``bounds`` are the digits of the ends of intervals in percent."""
    lines = tuple(
        Line(
            model,
            method,
            tuple(
                _cell(
                    analysis.row(model, method, benchmark, metric),
                    analysis.is_rate(benchmark, metric),
                    bounds,
                )
                for _, benchmark, metric in columns
            ),
        )
        for model in analysis.records.models
        for method in analysis.records.methods
    )
    headings = tuple(_heading(analysis, column) for column in columns)
    return Table(name, caption, headings, lines, notes=tuple(missing_scores(analysis, columns, plain=True)))


def _differences(analysis: Analysis, reference: str, level: float) -> Table:
    columns = [
        column
        for column in headline_columns(analysis)
        if column[1] != TRAINING and analysis.is_rate(column[1], column[2])
    ]
    lines = tuple(
        Line(
            model,
            method,
            tuple(
                _gap(analysis.tested(model, method, reference, benchmark, metric), level)
                for _, benchmark, metric in columns
            ),
        )
        for model in analysis.records.models
        for method in analysis.records.methods
        if method != reference
    )
    caption = (
        f"Differences from {reference} in points, on the same prompts; p after Holm's correction over the "
        f"methods, bold below {level:g}"
    )
    headings = tuple(_heading(analysis, column) for column in columns)
    return Table("differences", caption, headings, lines, reference)


def _heading(analysis: Analysis, column: Column) -> Heading:
    title, benchmark, metric = column
    rows = [row for row in analysis.rows if (row.benchmark, row.metric) == (benchmark, metric)]
    arrow = "" if not rows else "↑" if rows[0].higher_is_better else "↓"
    sizes = sorted({row.n for row in rows if row.n is not None})
    n = "" if not sizes else f"n={sizes[0]}" if len(sizes) == 1 else f"n={sizes[0]}–{sizes[-1]}"
    return Heading(title, arrow, benchmark, metric, n)


def _cell(row: Row | None, rate: bool, bounds: int) -> Cell:
    if row is None or row.value is None:
        return Cell()
    if row.benchmark == TRAINING:
        return Cell(f"{row.value:,.0f}".replace(",", "\u202f"), "", row.value)
    if rate:
        return Cell(_number(100 * row.value, 1), _range(row.low, row.high, 100, bounds), row.value)
    return Cell(_number(row.value, 2), _range(row.low, row.high, 1, 2), row.value)


def _gap(difference: Difference | None, level: float) -> Cell:
    estimate: Estimate | None = difference.estimate if difference else None
    if difference is None or estimate is None:
        return Cell()
    return Cell(
        _number(100 * estimate.value, 1, "+"),
        _range(estimate.low, estimate.high, 100, 1, "+"),
        estimate.value,
        told=difference.significant(level),
        note="" if difference.p_holm is None else f"p {p_text(difference.p_holm)}",
    )


def _range(low: float | None, high: float | None, scale: float, digits: int, sign: str = "") -> str:
    if low is None or high is None:
        return ""
    return f"[{_number(scale * low, digits, sign)}, {_number(scale * high, digits, sign)}]"


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")
