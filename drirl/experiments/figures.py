"""Figures of the pages: intervals of the arms, curves over training; same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from drirl.compare import figures as house
from drirl.compare.tables import Row

if TYPE_CHECKING:
    from drirl.experiments.page import Fact

__all__ = ["draw_bars", "draw_curves", "draw_facts", "draw_histograms", "draw_intervals"]


def draw_intervals(
    path: Path,
    panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[str, Row | None]]]]],
    labels: Sequence[str],
    notice: str = "",
    bars: str = "Bars: intervals over intents and seeds",
) -> Path:
    """Draw one panel per measure: arms downwards, a marker and an interval per model.

    Args:
        panels: (title, model -> (label, row) of every arm); a missing row leaves its line empty.
        bars: what the intervals are of.
    """
    models = list(dict.fromkeys(model for _, rows in panels for model in rows))
    with mpl.rc_context(house._STYLE):
        figure = Figure(
            figsize=(1.8 + 2.3 * len(panels), 1.3 + 0.33 * max(1, len(labels))), layout="constrained"
        )
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
        for axes, (title, rows) in zip(grid, panels, strict=True):
            for index, model in enumerate(models):
                shift = (index - (len(models) - 1) / 2) * 0.25
                for place, label in enumerate(labels):
                    row = dict(rows.get(model, ())).get(label)
                    if row is None or row.value is None:
                        continue
                    low, high = house._whiskers(row)
                    look = house._look(index + 5, 5.5)
                    axes.errorbar(
                        100 * row.value, place + shift, xerr=[[low], [high]], elinewidth=0.9, **look
                    )
            axes.set_title(title)
            axes.set_xlabel("%")
            _downwards(axes, labels)
        if models:
            from matplotlib.lines import Line2D

            handles = [
                Line2D([], [], label=model, **house._look(index + 5, 6)) for index, model in enumerate(models)
            ]
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=max(1, len(handles)),
                frameon=False,
                title=f"{bars}{notice}",
            )
        house._save(figure, path)
    return path


def _downwards(axes: Any, names: Sequence[str]) -> None:
    """Write names along the vertical axis, the first on top."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", length=0)


def draw_facts(
    path: Path, facts: Sequence[Fact], measures: Mapping[str, str], notice: str, bars: str
) -> Path | None:
    """Draw one panel per measure: names downwards, a marker and an interval per part.

    Args:
        measures: measure of the facts -> title of its panel.
    Returns:
        ``path``, or None if no fact has such a measure.
    """
    panels = []
    for measure, title in measures.items():
        rows: dict[str, list[tuple[str, Row | None]]] = {}
        for f in facts:
            if f.measure == measure and not isinstance(f.value, str):
                row = Row(f.part, f.name, "", measure, True, f.value, f.low, f.high, f.n, None)
                rows.setdefault(f.part, []).append((f.name, row))
        if rows:
            panels.append((title, rows))
    if not panels:
        return None
    labels = list(dict.fromkeys(f.name for f in facts if f.measure in measures))
    return draw_intervals(path, panels, labels, notice, bars)


def draw_bars(path: Path, panels: Sequence[tuple[str, Mapping[str, float]]], notice: str = "") -> Path:
    """Draw one panel per model: names downwards, a bar and its number for each value."""
    names = list(dict.fromkeys(name for _, values in panels for name in values))
    with mpl.rc_context(house._STYLE):
        figure = Figure(
            figsize=(2.2 + 2.8 * len(panels), 0.9 + 0.24 * max(1, len(names))), layout="constrained"
        )
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
        for axes, (title, values) in zip(grid, panels, strict=True):
            for place, name in enumerate(names):
                if name in values:
                    axes.barh(place, values[name], height=0.6, color=house._COLOURS[0])
                    axes.annotate(
                        f"{values[name]:.0f}",
                        (values[name], place),
                        (3, 0),
                        textcoords="offset points",
                        va="center",
                    )
            axes.set_title(title + notice)
            _downwards(axes, names)
            axes.margins(x=0.12)
        house._save(figure, path)
    return path


def draw_curves(
    path: Path,
    panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]]]],
    across: str = "Update",
    notice: str = "",
) -> Path:
    """Draw one panel per quantity: a line per name through its (x, y) points."""
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    dashes, colours = ("-", "--", ":", "-."), house._COLOURS

    def look(index: int) -> dict[str, Any]:
        turn = index // len(colours) if len(names) > len(colours) else index
        return {"color": colours[index % len(colours)], "linestyle": dashes[turn % len(dashes)]}

    with mpl.rc_context(house._STYLE):
        figure = Figure(figsize=(1 + 3.1 * max(1, len(panels)), 3.4), layout="constrained")
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for axes, (title, lines) in zip(grid, panels, strict=True):
            for index, name in enumerate(names):
                points = sorted(lines.get(name, ()))
                if points:
                    axes.plot(
                        [x for x, _ in points],
                        [y for _, y in points],
                        **look(index),
                        linewidth=1.3,
                    )
            axes.set_title(title)
            axes.set_xlabel(across)
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], label=name, **look(index)) for index, name in enumerate(names)]
        if handles:
            figure.legend(
                handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False,
                title=notice.removeprefix("; "),
            )  # fmt: skip
        house._save(figure, path)
    return path


def draw_histograms(
    path: Path,
    panels: Sequence[tuple[str, Mapping[str, Mapping[int, float]]]],
    *,
    width: float,
    centre: float,
    notice: str = "",
) -> Path:
    """Draw one panel per model: the outline of the histogram of each name, as shares.

    Args:
        panels: (title, name -> bin -> share in 0..1); bin k is ``width`` wide, around ``centre + k · width``.
    """
    names = list(dict.fromkeys(name for _, shares in panels for name in shares))
    with mpl.rc_context(house._STYLE):
        figure = Figure(figsize=(1 + 3.1 * max(1, len(panels)), 3.2), layout="constrained")
        grid = figure.subplots(1, max(1, len(panels)), squeeze=False, sharex=True, sharey=True)[0]
        looks: dict[str, dict[str, Any]] = {
            name: {"color": house._COLOURS[index % len(house._COLOURS)], "linewidth": 1.3}
            for index, name in enumerate(names)
        }
        for axes, (title, shares) in zip(grid, panels, strict=True):
            for name in names:
                bins = sorted(shares.get(name, {}).items())
                if bins:
                    edges = [centre + (k - 0.5) * width for k, _ in bins]
                    axes.stairs(
                        [100 * share for _, share in bins], [*edges, edges[-1] + width], **looks[name]
                    )
            axes.axvline(centre, color="0.6", linewidth=0.8, zorder=0)
            axes.set_title(title)
            axes.set_xlabel("Coefficient")
        grid[0].set_ylabel("Share of values (%)")
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], label=name, **looks[name]) for name in names]
        if handles:
            figure.legend(
                handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
                title=notice.removeprefix("; "),
            )  # fmt: skip
        house._save(figure, path)
    return path
