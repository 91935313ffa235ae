"""More figures: difficulty levels, over-refusal, alpha, reward accuracy, gain against effort.

Like those of ``drirl.compare.figures``: byte-identical for the same numbers, told apart by colour and by
marker, hatch or dash, each with its numbers in a csv beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from drirl.compare import figures as house
from drirl.compare.cost import Cost
from drirl.compare.curves import ALPHA_COLUMNS
from drirl.compare.names import ALL, CATEGORIES, UNTRAINED
from drirl.compare.tables import Analysis, Row, number, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_alpha", "draw_cost_gain", "draw_gain", "draw_levels", "draw_overrefusal", "draw_rewards"]

LEVELS = ("direct", "paraphrased", "disguised")
_HATCHES = ("", "////", "\\\\\\\\", "....", "xxxx", "----", "++++", "oooo", "||||")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00")
_KIND = {"sample": "base samples", "updated": "updated policy"}
_AGAINST = ("sample", "updated")
"""Replies of the reward reports that are drawn: samples of the base policy and of the updated one."""


def draw_levels(analysis: Analysis, reports: Path, *, notice: str = "") -> list[Path]:
    """Draw refusal of harmful and of benign prompts by difficulty level; return the files."""
    path = Path(reports) / "levels.png"
    models = house._models(analysis)
    kinds = [
        (benchmark, metric, title)
        for metric, title in (
            ("refusal_rate", "Refusal of harmful"),
            ("false_refusal_rate", "False refusal of benign"),
        )
        for benchmark in _with_levels(analysis, metric)[:1]
    ]
    if not kinds or not models:
        return house._nothing(path, "refusal by difficulty level was not measured")
    methods = analysis.records.methods
    rows: list[Row] = []
    with mpl.rc_context(house._STYLE):
        figure = Figure(figsize=(1.2 + 3.6 * len(models), 0.9 + 2.7 * len(kinds)), layout="constrained")
        grid = figure.subplots(len(kinds), len(models), squeeze=False, sharey="row", sharex=True)
        for line, (benchmark, metric, title) in zip(grid, kinds, strict=True):
            bottom, cut = _floor(analysis, benchmark, metric)
            for axes, model in zip(line, models, strict=True):
                for index, method in enumerate(methods):
                    found = [
                        analysis.row(model, method, benchmark, f"{metric}[level={level}]") for level in LEVELS
                    ]
                    points = [
                        (place + _dodge(index, len(methods), 0.6), row)
                        for place, row in enumerate(found)
                        if row is not None and row.value is not None
                    ]
                    rows += [row for _, row in points]
                    _line(axes, points, index, bottom)
                axes.set_xticks(range(len(LEVELS)), LEVELS)
                axes.set_xlim(-0.5, len(LEVELS) - 0.5)
                axes.grid(visible=False, axis="x")
                for edge in range(len(LEVELS) - 1):
                    axes.axvline(edge + 0.5, color="#dddddd", linewidth=0.6, zorder=0)
            line[0].set_ylabel(f"{title}\nprompts (%)")
            if cut:
                line[0].set_ylim(bottom, 100 + 0.05 * (100 - bottom))
        for axes, model in zip(grid[0], models, strict=True):
            axes.set_title(model)
        below = "; ↓: below the axis" if any(_floor(analysis, *kind[:2])[1] for kind in kinds) else ""
        title = f"By difficulty level; bars: {house._level(analysis)} % intervals{below}{notice}"
        house._legend(figure, analysis, title)
        house._save(figure, path)
    house._numbers(path.with_suffix(".csv"), rows)
    return [path, path.with_suffix(".csv")]


def draw_overrefusal(analysis: Analysis, reports: Path, *, notice: str = "") -> list[Path]:
    """Draw false refusal on every benchmark that measures it, as bars; return the files."""
    path = Path(reports) / "overrefusal.png"
    models = house._models(analysis)
    benchmarks = [b for b, metric in analysis.records.keys() if metric == "false_refusal_rate" and b != ALL]
    if not benchmarks or not models:
        return house._nothing(path, "false refusal was not measured")
    methods = analysis.records.methods
    width = 0.8 / len(methods)
    rows: list[Row] = []
    with mpl.rc_context(house._STYLE):
        # white lines of the hatches keep the bars readable in any colour
        mpl.rcParams["hatch.linewidth"] = 0.7
        size = (1.2 + len(models) * max(3.4, 0.5 + 0.24 * len(methods) * len(benchmarks)), 3.6)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        for axes, model in zip(grid, models, strict=True):
            for index, method in enumerate(methods):
                for place, benchmark in enumerate(benchmarks):
                    row = analysis.row(model, method, benchmark, "false_refusal_rate")
                    if row is None or row.value is None:
                        continue
                    rows.append(row)
                    _bar(axes, place + _dodge(index, len(methods), 0.8), width, row, index)
            axes.set_xticks(range(len(benchmarks)), [_short(name) for name in benchmarks])
            axes.set_xlim(-0.5, len(benchmarks) - 0.5)
            axes.set_title(model)
            axes.grid(visible=False, axis="x")
        grid[0].set_ylabel("False refusal of harmless prompts (%)")
        grid[0].set_ylim(bottom=0)
        _patches(figure, methods, f"Lower is better; bars: {house._level(analysis)} % intervals{notice}")
        house._save(figure, path)
    house._numbers(path.with_suffix(".csv"), rows)
    return [path, path.with_suffix(".csv")]


def draw_alpha(curves: Sequence[Sequence[str]], reports: Path, *, notice: str = "") -> list[Path]:
    """Draw the hardness coefficient of each category over the updates; return the figure.

    Args:
        curves: lines of alpha.csv, which is the csv of this figure.
    """
    path = Path(reports) / "alpha.png"
    at = {name: place for place, name in enumerate(ALPHA_COLUMNS)}
    known = [line for line in curves if line[at["alpha"]]]
    if not known:
        _picture_of_nothing(path, "no method of these scales its advantages")
        return [path]
    policies = list(dict.fromkeys((line[at["model"]], line[at["method"]]) for line in known))
    names = [
        name for name in (*CATEGORIES, "benign", ALL) if any(line[at["category"]] == name for line in known)
    ]
    columns = min(3, len(names))
    with mpl.rc_context(house._STYLE):
        size = (1.0 + 3.0 * columns, 1.3 + 1.7 * math.ceil(len(names) / columns))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            math.ceil(len(names) / columns), columns, squeeze=False, sharey=True, sharex=True
        )
        for axes, name in zip(grid.flat, names, strict=False):
            for index, policy in enumerate(policies):
                points = [
                    (int(line[at["update"]]), float(line[at["alpha"]]))
                    for line in known
                    if (line[at["model"]], line[at["method"]]) == policy and line[at["category"]] == name
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), **_curve(index, len(points)))
            axes.axhline(1.0, color="#999999", linewidth=0.8, zorder=1)
            axes.set_title("All categories" if name == ALL else name, fontsize=9)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel("Update")
        figure.supylabel("Hardness coefficient alpha", fontsize=9)
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], label=f"{model}, {method}", **_curve(index, 1))
            for index, (model, method) in enumerate(policies)
        ]
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            handlelength=3.5,
            title=f"Above 1: larger updates; mean over seeds{notice}",
        )
        house._save(figure, path)
    return [path]


def draw_rewards(reports_of: Mapping[str, Any], reports: Path, *, notice: str = "") -> list[Path]:
    """Draw held-out pairwise accuracy of the category rewards and of the static one; return the files.

    Args:
        reports_of: ``out/reward/<model>/report.json`` by model.
    """
    path = Path(reports) / "reward_accuracy.png"
    lines = [line for model, report in sorted(reports_of.items()) for line in _accuracies(model, report)]
    columns = ("model", "reward", "group", "against", "accuracy", "ci_low", "ci_high", "n")
    drawn = {line[3] for line in lines}
    kinds = [name for name in _AGAINST if name in drawn] or sorted(drawn)[:2]
    if not lines:
        _picture_of_nothing(path, "reward accuracy was not measured")
        write_csv(path.with_suffix(".csv"), columns, [])
        return [path, path.with_suffix(".csv")]
    models = list(dict.fromkeys(line[0] for line in lines))
    groups = list(dict.fromkeys(line[2] for line in lines))
    panels = [(model, kind) for model in models for kind in kinds]
    with mpl.rc_context(house._STYLE):
        mpl.rcParams["hatch.linewidth"] = 0.7
        size = (2.0 + 2.2 * len(panels), 1.6 + 0.42 * len(groups))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, sharex=True)[0]
        for axes, (model, kind) in zip(grid, panels, strict=True):
            for index, reward in enumerate(("category", "static")):
                for place, group in enumerate(groups):
                    wanted = [model, reward, group, kind]
                    cell = next((line for line in lines if line[:4] == wanted and line[4]), None)
                    if cell is not None:
                        _accuracy_bar(axes, place + (index - 0.5) * 0.38, cell, index)
            axes.axvline(50, color="#555555", linewidth=0.9, linestyle="--", zorder=3)
            axes.set_yticks(range(len(groups)), groups)
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
            axes.set_xlim(0, 104)
            axes.set_title(f"{model}\nagainst: {_KIND.get(kind, kind.replace('_', ' '))}", fontsize=9)
            axes.set_xlabel("Accuracy (%)")
        from matplotlib.patches import Patch

        handles = [
            Patch(label=label, **_fill(index, _REWARD_LOOK))
            for index, label in enumerate(("rewards per category", "one static reward"))
        ]
        title = f"How often the demonstration scores higher; dashed: chance{notice}"
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, title=title)
        house._save(figure, path)
    write_csv(path.with_suffix(".csv"), columns, lines)
    return [path, path.with_suffix(".csv")]


def draw_gain(analysis: Analysis, reports: Path, *, notice: str = "") -> list[Path]:
    """Draw the gain in refusal over the base policy against the tokens it took; return the files."""
    efforts = {
        key: (sum(counts.get("generated_tokens", [])) + sum(counts.get("trained_tokens", [])))
        / max(1, *(len(values) for values in counts.values()))
        / 1000
        for key, counts in analysis.records.counts.items()
    }
    path = Path(reports) / "gain.png"
    label = "Tokens generated and trained on, thousands"
    made = _draw_gain(analysis, path, efforts, label, notice, "thousand_tokens")
    return made or house._nothing(path, "the gain over a base policy was not measured")


def draw_cost_gain(
    analysis: Analysis, costs: Sequence[Cost], reports: Path, *, notice: str = ""
) -> list[Path]:
    """Draw the same against processor time, which depends on the machine: no hash may cover these files.

    Nothing is written if no time or no gain was measured.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for cost in costs:
        pieces = cost.name.split("/")
        if cost.stage == "align" and len(pieces) == 3 and "cpu_s" in cost.values:
            times.setdefault((pieces[0], pieces[1]), []).append(cost.values["cpu_s"])
    efforts = {key: sum(values) / len(values) for key, values in times.items()}
    path = Path(reports) / "cost_gain.png"
    label = "Processor time of one seed (s), this machine"
    return _draw_gain(analysis, path, efforts, label, notice, "cpu_s") or []


def _draw_gain(
    analysis: Analysis,
    path: Path,
    efforts: Mapping[tuple[str, str], float],
    label: str,
    notice: str,
    column: str,
) -> list[Path] | None:
    safety = house._first(analysis, house.SAFETY)
    base = next((name for name in analysis.records.methods if name in UNTRAINED), None)
    if safety is None or base is None:
        return None
    lines, drawn = [], []
    for model in house._models(analysis):
        for index, method in enumerate(analysis.records.methods):
            gap = analysis.difference(model, method, base, *safety[1:]) if method != base else None
            effort = efforts.get((model, method))
            if gap is None or gap.estimate is None or effort is None:
                continue
            value = gap.estimate
            drawn.append((model, index, effort, value))
            cells = (number(effort), number(value.value), number(value.low), number(value.high))
            lines.append([model, method, base, *safety[1:], *cells])
    if not drawn:
        return None
    models = list(dict.fromkeys(model for model, *_ in drawn))
    with mpl.rc_context(house._STYLE):
        figure = Figure(figsize=(1.2 + 3.5 * len(models), 4.1), layout="constrained")
        grid = figure.subplots(1, len(models), squeeze=False, sharey=True, sharex=True)[0]
        for axes, model in zip(grid, models, strict=True):
            for name, index, effort, value in drawn:
                if name != model:
                    continue
                if value.low is not None and value.high is not None:
                    colour = house._look(index, 0)["color"]
                    axes.plot([effort] * 2, [100 * value.low, 100 * value.high], color=colour, linewidth=0.9)
                axes.plot([effort], [100 * value.value], zorder=3 + index, **house._look(index, 8))
            axes.set_title(model)
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
        grid[0].set_ylabel(
            f"Gain over {base}, points:\n{safety[0].replace(chr(10), ' ').replace(' (%)', '')}"
        )
        from matplotlib.lines import Line2D

        shown = sorted({index for _, index, _, _ in drawn})
        handles = [Line2D([], [], label=analysis.records.methods[i], **house._look(i, 8)) for i in shown]
        title = f"Best is top left; bars: {house._level(analysis)} % intervals{notice}"
        columns = min(len(handles), 4)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=title)
        house._save(figure, path)
    titles = ("model", "method", "reference", "benchmark", "metric", column, "gain", "ci_low", "ci_high")
    write_csv(path.with_suffix(".csv"), titles, lines)
    return [path, path.with_suffix(".csv")]


def _with_levels(analysis: Analysis, metric: str) -> list[str]:
    """Return the benchmarks whose ``metric`` is known by level, those of benign prompts by their own."""
    return [
        benchmark
        for benchmark, name in analysis.records.keys()
        if name == metric
        and "contrast" not in benchmark
        and any(
            (row.benchmark, row.metric) == (benchmark, f"{metric}[level=disguised]") and row.value is not None
            for row in analysis.rows
        )
    ]


def _dodge(index: int, count: int, width: float) -> float:
    return (index - (count - 1) / 2) * width / max(1, count)


def _floor(analysis: Analysis, benchmark: str, metric: str) -> tuple[float, bool]:
    """Return where the axis starts, and whether an untrained policy far below it was left out."""
    known = [
        (row.method in UNTRAINED, 100 * (row.value or 0.0) - house._whiskers(row)[0])
        for row in analysis.rows
        if row.benchmark == benchmark and row.metric.startswith(f"{metric}[level=") and row.value is not None
    ]
    trained = min((low for untrained, low in known if not untrained), default=0.0)
    cut = trained > 30 and any(low < 2 * trained - 100 for untrained, low in known if untrained)
    return (trained - 0.12 * (100 - trained) - 0.5 if cut else 0.0), cut


def _line(axes: Axes, points: Sequence[tuple[float, Row]], index: int, bottom: float) -> None:
    """Draw a policy over the levels; points below the axis become an arrow with their value."""
    inside = [(place, row) for place, row in points if 100 * (row.value or 0.0) >= bottom]
    for place, row in points:
        if 100 * (row.value or 0.0) < bottom:
            axes.annotate(
                f"{row.method} {100 * (row.value or 0.0):.0f} ↓",
                (place, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="#444444",
            )
    if not inside:
        return
    look = house._look(index, 6)
    x = [place for place, _ in inside]
    y = [100 * (row.value or 0.0) for _, row in inside]
    bars = list(zip(*(house._whiskers(row) for _, row in inside), strict=True))
    axes.plot(x, y, color=look["color"], linewidth=0.8, alpha=0.6, zorder=2)
    axes.errorbar(x, y, yerr=bars, elinewidth=0.8, zorder=3, **look)


def _fill(index: int, palette: Sequence[tuple[str, str]] | None = None) -> dict[str, Any]:
    colour, hatch = (
        palette[index]
        if palette
        else (house._COLOURS[index % len(house._COLOURS)], _HATCHES[index % len(_HATCHES)])
    )
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}


_REWARD_LOOK = (("#0072b2", ""), ("#e69f00", "////"))


def _bar(axes: Axes, place: float, width: float, row: Row, index: int) -> None:
    low, high = house._whiskers(row)
    height = 100 * (row.value or 0.0)
    axes.bar(place, height, width=width, zorder=2, **_fill(index))
    axes.errorbar(
        place,
        height,
        yerr=[[low], [high]],
        fmt="none",
        ecolor="#222222",
        elinewidth=0.8,
        capsize=1.5,
        zorder=3,
    )


def _accuracy_bar(axes: Axes, place: float, cell: Sequence[str], index: int) -> None:
    length = 100 * float(cell[4])
    axes.barh(place, length, height=0.38, zorder=2, **_fill(index, _REWARD_LOOK))
    if cell[5] and cell[6]:
        bars = [[length - 100 * float(cell[5])], [100 * float(cell[6]) - length]]
        axes.errorbar(
            length, place, xerr=bars, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.5, zorder=4
        )


def _patches(figure: Figure, methods: Sequence[str], title: str) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(label=method, **_fill(index)) for index, method in enumerate(methods)]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
        title=title,
        handlelength=2.2,
        handleheight=1.2,
    )


def _curve(index: int, points: int) -> dict[str, Any]:
    step = max(1, math.ceil(points / 6))
    return {
        "color": _CURVES[index % len(_CURVES)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "linewidth": 1.1,
        "marker": house._MARKERS[(index + 1) % len(house._MARKERS)],
        "markevery": (index * step // 4 % max(1, points), step),
        "markersize": 4,
    }


def _accuracies(model: str, report: Mapping[str, Any]) -> list[list[str]]:
    """Return model, reward, group, reply, accuracy, interval, pairs of every cell of a reward report."""
    iterations = report.get("iterations") or []
    parts = [("category", iterations[-1])] if iterations else []
    parts += [("static", report["static"])] if report.get("static") else []
    lines = []
    for reward, part in parts:
        for group, about in part.get("groups", {}).items():
            name = CATEGORIES[int(group)] if group.isdigit() and int(group) < len(CATEGORIES) else group
            for against, cell in about["cells"].items():
                values = (number(cell.get(key)) for key in ("accuracy", "low", "high"))
                lines.append([model, reward, name, against, *values, str(cell["n"])])
    return lines


def _short(benchmark: str) -> str:
    return benchmark.removeprefix("drirl_tiny_").removeprefix("drirl_").replace("_", "\n")


def _picture_of_nothing(path: Path, text: str) -> None:
    with mpl.rc_context(house._STYLE):
        figure = Figure(figsize=(5, 1))
        figure.text(0.5, 0.5, f"Nothing to draw: {text}.", ha="center", va="center")
        house._save(figure, path)
