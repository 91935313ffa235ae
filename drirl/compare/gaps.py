"""What a table rests on less than it seems: missing scores, and prompts cut to fit the context."""

from __future__ import annotations

from collections.abc import Sequence

from drirl.compare.names import ALL, MEANS, code, escape
from drirl.compare.tables import Analysis
from drirl.compare.texts import span

__all__ = ["cut_prompts", "missing_scores"]


def missing_scores(
    analysis: Analysis, columns: Sequence[tuple[str, str, str]], *, plain: bool = False
) -> list[str]:
    """Return a sentence for each (title, benchmark, metric) with missing scores: whose, how many of how many.

    A score is missing if its record has none, or if there is no record of a prompt that another policy was
    asked. Empty if none is missing; a cell without any record shows as missing itself.

    Args:
        plain: without Markdown.
    """
    lines = []
    for title, benchmark, metric in columns:
        rows = [row for row in analysis.rows if (row.benchmark, row.metric) == (benchmark, metric)]
        cells = [
            f"{_name(row.model, row.method, plain)} {row.absent} of {row.scores}"
            for row in rows
            if row.absent
        ]
        if cells:
            lines.append(f"Scores missing, {title if plain else escape(title)}: {'; '.join(cells)}.")
    return lines


def cut_prompts(analysis: Analysis) -> list[str]:
    """Return a sentence for each model with prompts that lost their beginning; usually none."""
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for (model, method), cell in analysis.records.cells.items():
        for (benchmark, _), scores in cell.items():
            if benchmark != ALL and benchmark not in MEANS:
                methods = found.setdefault((model, benchmark), {})
                methods[method] = max(methods.get(method, (0, 0)), (scores.cut, len(scores.items)))
    lines: dict[str, list[str]] = {}
    for (model, benchmark), methods in found.items():
        if any(cut for cut, _ in methods.values()):
            cut = span(sorted({cut for cut, _ in methods.values()}))
            prompts = span(sorted({prompts for _, prompts in methods.values()}))
            lines.setdefault(model, []).append(f"{code(benchmark)} {cut} of {prompts}")
    return [
        f"Prompts cut to fit the context (`evaluate.overlong: truncate`), {escape(model)}: "
        f"{'; '.join(cells)}."
        for model, cells in lines.items()
    ]


def _name(model: str, method: str, plain: bool) -> str:
    return f"{model} {method}" if plain else f"{escape(model)} {code(method)}"
