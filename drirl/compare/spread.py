"""Folded sections of the report: how far the methods are apart, and the mean reward of their completions."""

from __future__ import annotations

from collections.abc import Sequence

from drirl.compare.gaps import missing_scores
from drirl.compare.names import UNTRAINED, code, escape
from drirl.compare.tables import Analysis, Row
from drirl.compare.texts import below, cell, details, method_lines, points, table

__all__ = ["mean_reward", "spread"]


def spread(analysis: Analysis, rates: Sequence[tuple[str, str, str]]) -> str:
    """Return the distance of the lowest and the highest method on each (title, benchmark, metric)."""
    lines = []
    for model in analysis.records.models:
        for title, benchmark, metric in rates:
            rows = [analysis.row(model, method, benchmark, metric) for method in analysis.records.methods]
            known = [row for row in rows if row is not None and row.value is not None]
            trained = [row for row in known if row.method not in UNTRAINED]
            if len(known) < 2:
                continue
            cells = [escape(model), title, _points_between(known)]
            if len(trained) < 2:
                cells += ["", "", ""]
            else:
                low = min(trained, key=lambda row: row.value or 0.0)
                high = max(trained, key=lambda row: row.value or 0.0)
                gap = analysis.difference(model, high.method, low.method, benchmark, metric)
                text = "0.0" if high.method == low.method else points(gap)
                cells += [code(low.method), code(high.method), text]
            lines.append(cells)
    if not lines:
        return ""
    return details(
        "Spread of the methods",
        "Highest minus lowest value, in points. The interval is that of the two trained methods that turned\n"
        "out lowest and highest; picked afterwards, they look further apart than they are.\n\n"
        + table(
            ["Model", "Metric", "All methods", "Lowest trained", "Highest trained", "Trained methods"], lines
        ),
    )


def _points_between(rows: Sequence[Row]) -> str:
    values = [row.value for row in rows if row.value is not None]
    return f"{100 * (max(values) - min(values)):.1f}"


def mean_reward(analysis: Analysis) -> str:
    """Return the mean reward of the completions by benchmark; an empty text if it was not measured."""
    names = [benchmark for benchmark, metric in analysis.records.keys() if metric == "mean_reward"]
    if not names:
        return ""
    lines = []
    for model in analysis.records.models:
        for method, line in method_lines(analysis, model):
            line += [cell(analysis.row(model, method, name, "mean_reward"), rate=False) for name in names]
            lines.append(line)
    gaps = missing_scores(analysis, [(name, name, "mean_reward") for name in names])
    return details(
        "Mean reward ↑",
        "Score of the completions under the category rewards of the same base model (standard deviations\n"
        "from the mean of validation demonstrations and samples). Methods trained on these rewards can\n"
        "exploit them, so this is no measure of safety.\n\n"
        + table(["Model", "Method", *(code(name) for name in names)], lines)
        + below(gaps),
    )
