"""Figures of the comparison, byte-identical for the same numbers. Each has its numbers in a csv beside it.

Colours are those of Okabe and Ito, told apart with colour-blind eyes; methods also differ in marker, so that
a black-and-white print can be read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drirl.compare.columns import Column
from drirl.compare.names import CATEGORIES, UNTRAINED
from drirl.compare.tables import Analysis, Row, number, write_csv
from drirl.records import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_categories", "draw_tradeoff"]

_COLOURS = ("#7f7f7f", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#000000", "#b8a900")
_MARKERS = ("X", "o", "s", "^", "v", "D", "*", "P", "h", "<", ">", "p")
_STYLE: Any = {
    **{name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")},
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}

SAFETY: tuple[Column, ...] = (
    ("Refusal of disguised\nharmful prompts (%)", "drirl_tiny_harmful", "refusal_rate[level=disguised]"),
    ("Refusal of harmful prompts (%)", "drirl_tiny_harmful", "refusal_rate"),
    ("Refusal of unsafe prompts, XSTest (%)", "xstest_unsafe", "refusal_rate"),
)
AGAINST: tuple[tuple[Column, ...], ...] = (
    (
        ("Helpfulness, accuracy (%)", "drirl_tiny_help", "accuracy"),
        ("GSM8K, exact match (%)", "drirl_gsm8k", "exact_match"),
    ),
    (
        ("False refusal of safe prompts, XSTest (%)", "xstest_safe", "false_refusal_rate"),
        ("False refusal of contrast\nprompts (%)", "drirl_tiny_contrast", "false_refusal_rate"),
        ("False refusal of benign prompts (%)", "drirl_tiny_benign", "false_refusal_rate"),
    ),
)


def draw_tradeoff(analysis: Analysis, reports: Path, *, notice: str = "") -> list[Path]:
    """Draw refusal of harmful prompts against helpfulness and against false refusal; return the files.

    The first of ``SAFETY`` and of each of ``AGAINST`` that was measured is drawn; an empty figure says so if
    there is none.
    """
    safety = _first(analysis, SAFETY)
    against = [column for column in (_first(analysis, options) for options in AGAINST) if column is not None]
    models = _models(analysis)
    if safety is None or not against or not models:
        return _nothing(reports / "tradeoff.png", "refusal and what it costs were not measured")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(1.2 + 3.5 * len(models), 0.9 + 3.1 * len(against)), layout="constrained")
        grid = figure.subplots(len(against), len(models), squeeze=False, sharey=True, sharex="row")
        bottom, top, cut = _limits(analysis, models, safety)
        for line, column in zip(grid, against, strict=True):
            reverse = not _direction(analysis, column)
            left, right, _ = _limits(analysis, models, column, whole=True)
            for axes, model in zip(line, models, strict=True):
                for index, method in enumerate(analysis.records.methods):
                    across = analysis.row(model, method, *column[1:])
                    up = analysis.row(model, method, *safety[1:])
                    if across is None or up is None or across.value is None or up.value is None:
                        continue
                    if cut and 100 * up.value < bottom:
                        _outside(axes, across, up, index, bottom)
                    else:
                        _point(axes, across, up, index)
                axes.set_xlabel(f"{column[0]}{', axis reversed' if reverse else ''}")
            line[0].set_xlim((right, left) if reverse else (left, right))
            line[0].set_ylabel(safety[0])
        for axes, model in zip(grid[0], models, strict=True):
            axes.set_title(model)
        grid[0][0].set_ylim(bottom, top)
        title = f"Best is top right; bars: {_level(analysis)} % intervals"
        _legend(figure, analysis, f"{title}{'; ↓ lies below the axis' if cut else ''}{notice}")
        _save(figure, reports / "tradeoff.png")
    rows = [
        row
        for column in (safety, *against)
        for row in analysis.rows
        if (row.benchmark, row.metric) == column[1:] and row.model in models
    ]
    _numbers(reports / "tradeoff.csv", rows)
    return [reports / "tradeoff.png", reports / "tradeoff.csv"]


def draw_categories(analysis: Analysis, reports: Path, *, notice: str = "") -> list[Path]:
    """Draw refusal of harmful prompts by category, one panel per model; return the files."""
    base = next((c for c in SAFETY if _by_category(analysis, c[1], c[2].partition("[")[0])), None)
    models = _models(analysis)
    if base is None or not models:
        return _nothing(reports / "categories.png", "refusal by category was not measured")
    benchmark, metric = base[1], base[2].partition("[")[0]
    rows = _by_category(analysis, benchmark, metric)
    names = [name for name in CATEGORIES if any(row.metric.endswith(f"={name}]") for row in rows)]
    methods = analysis.records.methods
    step = 0.8 / max(1, len(methods))
    with mpl.rc_context(_STYLE):
        height = 1.2 + len(names) * (0.25 + 0.095 * len(methods))
        figure = Figure(figsize=(2.4 + 3.2 * len(models), height), layout="constrained")
        grid = figure.subplots(1, len(models), squeeze=False, sharey=True, sharex=True)
        for axes, model in zip(grid[0], models, strict=True):
            for place, name in enumerate(names):
                if place % 2:
                    axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
                for index, method in enumerate(methods):
                    row = analysis.row(model, method, benchmark, f"{metric}[category={name}]")
                    if row is None or row.value is None:
                        continue
                    height_at = place + (index - (len(methods) - 1) / 2) * step
                    low, high = _whiskers(row)
                    axes.errorbar(
                        100 * row.value,
                        height_at,
                        xerr=[[low], [high]],
                        elinewidth=0.8,
                        **_look(index, 4.5),
                    )
            axes.set_title(model)
            axes.set_xlabel("Refusal of harmful prompts (%)")
            axes.set_xlim(-2, 102)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
        _legend(figure, analysis, f"Bars: {_level(analysis)} % intervals{notice}")
        _save(figure, reports / "categories.png")
    _numbers(reports / "categories.csv", rows)
    return [reports / "categories.png", reports / "categories.csv"]


def _level(analysis: Analysis) -> str:
    return f"{100 * analysis.bootstrap.confidence:g}"


def _first(analysis: Analysis, options: Sequence[Column]) -> Column | None:
    known = {(row.benchmark, row.metric) for row in analysis.rows if row.value is not None}
    return next((column for column in options if column[1:] in known), None)


def _by_category(analysis: Analysis, benchmark: str, metric: str) -> list[Row]:
    return [
        row
        for row in analysis.rows
        if row.benchmark == benchmark and row.metric.startswith(f"{metric}[category=")
    ]


def _models(analysis: Analysis) -> list[str]:
    return [
        model
        for model in analysis.records.models
        if any((model, method) in analysis.records.cells for method in analysis.records.methods)
    ]


def _look(index: int, size: float) -> dict[str, Any]:
    marker = _MARKERS[index % len(_MARKERS)]
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": marker,
        "markersize": size * (1.45 if marker == "*" else 1.0),
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "linestyle": "none",
    }


def _whiskers(row: Row) -> tuple[float, float]:
    value = row.value or 0.0
    low = value if row.low is None else row.low
    high = value if row.high is None else row.high
    return 100 * (value - low), 100 * (high - value)


def _point(axes: Axes, across: Row, up: Row, index: int) -> None:
    """Draw a policy; whiskers go below all markers so that none is hidden by them."""
    x, y = 100 * (across.value or 0.0), 100 * (up.value or 0.0)
    left, right = _whiskers(across)
    below, above = _whiskers(up)
    line: dict[str, Any] = {"color": _look(index, 0)["color"], "linewidth": 0.9, "zorder": 2}
    axes.plot([x - left, x + right], [y, y], **line)
    axes.plot([x, x], [y - below, y + above], **line)
    axes.plot([x], [y], zorder=3 + index, **_look(index, 8))


def _outside(axes: Axes, across: Row, up: Row, index: int, bottom: float) -> None:
    """Mark a policy that lies below the axis, with its value."""
    x = 100 * (across.value or 0.0)
    left, right = _whiskers(across)
    axes.plot([x - left, x + right], [bottom, bottom], color=_look(index, 0)["color"], clip_on=False)
    axes.plot([x], [bottom], zorder=3 + index, clip_on=False, **_look(index, 8))
    text = f"{up.method} {100 * (up.value or 0.0):.0f} ↓"
    axes.annotate(
        text, (x, bottom), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color="#444444"
    )


def _direction(analysis: Analysis, column: Column) -> bool:
    """Return whether higher is better."""
    return next(row.higher_is_better for row in analysis.rows if (row.benchmark, row.metric) == column[1:])


def _limits(
    analysis: Analysis, models: Sequence[str], column: Column, *, whole: bool = False
) -> tuple[float, float, bool]:
    """Return the ends of an axis, and whether untrained policies below it were left out.

    A base far below would press the policies that are compared into a corner; ``whole`` keeps it in.
    """
    rows = [row for row in analysis.rows if (row.benchmark, row.metric) == column[1:] and row.model in models]
    known = [row for row in rows if row.value is not None]
    trained = [row for row in known if row.method not in UNTRAINED] or known
    low = min(100 * (row.value or 0.0) - _whiskers(row)[0] for row in trained)
    high = max(100 * (row.value or 0.0) + _whiskers(row)[1] for row in trained)
    cut = not whole and any(100 * (row.value or 0.0) < low - (high - low) / 2 for row in known)
    if not cut:
        low = min(low, *(100 * (row.value or 0.0) - _whiskers(row)[0] for row in known))
        high = max(high, *(100 * (row.value or 0.0) + _whiskers(row)[1] for row in known))
    margin = 0.04 * (high - low) + 0.5
    return low - margin, high + margin, cut


def _legend(figure: Figure, analysis: Analysis, title: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=method, **_look(index, 8))
        for index, method in enumerate(analysis.records.methods)
    ]
    columns = min(len(handles), 4)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=title)


def _numbers(path: Path, rows: Sequence[Row]) -> None:
    columns = ("model", "method", "benchmark", "metric", "value", "ci_low", "ci_high")
    write_csv(
        path,
        columns,
        [
            [
                row.model,
                row.method,
                row.benchmark,
                row.metric,
                number(row.value),
                number(row.low),
                number(row.high),
            ]
            for row in rows
        ],
    )


def _nothing(path: Path, text: str) -> list[Path]:
    """Write a figure that says why it is empty: a stage has to leave all its outputs."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5, 1))
        figure.text(0.5, 0.5, f"Nothing to draw: {text}.", ha="center", va="center")
        _save(figure, path)
    _numbers(path.with_suffix(".csv"), [])
    return [path, path.with_suffix(".csv")]


_LETTERS_PER_INCH = 12


def _save(figure: Figure, path: Path) -> None:
    """Save as PNG without the time or the version of the library in it; legend titles fit its width."""
    FigureCanvasAgg(figure)
    for legend in figure.legends:
        title = legend.get_title()
        title.set_text(textwrap.fill(title.get_text(), int(_LETTERS_PER_INCH * figure.get_figwidth())))
        title.set_multialignment("center")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
