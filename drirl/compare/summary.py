"""The headline table as plain text for a terminal, read back from ``comparison.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

from drirl.compare.columns import LAST, SHOWN, Column
from drirl.compare.cost import read_costs
from drirl.compare.names import PARTS, TRAINING
from drirl.compare.tables import COLUMNS
from drirl.config import Params
from drirl.errors import DrirlError

__all__ = ["headline"]

_SHORT = {
    "Refusal, disguised": ("refuse", "disguised"),
    "Refusal, paraphrased": ("refuse", "paraphr."),
    "Refusal, direct": ("refuse", "direct"),
    "Refusal, harmful": ("refuse", "harmful"),
    "False refusal, benign": ("false ref.", "benign"),
    "False refusal, disguised benign": ("false ref.", "disguised"),
    "False refusal, contrast": ("false ref.", "contrast"),
    "Helpfulness": ("helpful", ""),
    "Degenerate": ("degen.", ""),
    "Tokens generated": ("tokens", "generated"),
    "Updates": ("updates", ""),
}


def headline(params: Params) -> str:
    """Return the headline table, and where everything is; CPU seconds of alignment if they were measured.

    Raises:
        DrirlError: there is no comparison.csv yet, or it is not one; a malformed cost record.
    """
    reports = params.compare.reports
    path = reports / "comparison.csv"
    values = _read(path)
    columns = [column for column in (*SHOWN, *LAST) if any(key[2:] == column[1:] for key in values)]
    if any("level=" in column[2] and "harmful" in column[1] for column in columns):
        columns = [column for column in columns if column[0] != "Refusal, harmful"]
    others = sorted({key[2:] for key in values if _is_other(key[2], key[3])})
    columns += [(f"{benchmark} {metric}", benchmark, metric) for benchmark, metric in others]
    cells = list(dict.fromkeys(key[:2] for key in values))
    seconds = _seconds(params.run.out)
    lines = [
        ["", "", *(_SHORT.get(title, tuple(title.split(" ", 1)))[0] for title, _, _ in columns)],
        ["model", "method", *(_SHORT.get(title, tuple(title.split(" ", 1)))[1] for title, _, _ in columns)],
    ]
    for model, method in cells:
        lines.append([model, method, *(_show(values, model, method, column) for column in columns)])
    if seconds:
        for line, title in zip(lines, ("CPU", "seconds"), strict=False):
            line.append(title)
        for line, cell in zip(lines[2:], cells, strict=True):
            line.append(f"{seconds[cell]:.0f}" if cell in seconds else "")
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    notice = [] if params.run.meaningful else ["wiring check, numbers are meaningless", ""]
    files = sorted(
        file.name for file in reports.glob("*") if file.suffix in {".csv", ".md", ".png"} and file.is_file()
    )
    return "\n".join(
        [
            *notice,
            *table,
            "",
            f"Shares in percent; intervals, differences and what they mean: {reports / 'comparison.md'}",
            f"Every cell: {path}. In {reports}: {', '.join(files)}",
        ]
    )


def _seconds(out: Path) -> dict[tuple[str, str], float]:
    """Return the CPU seconds of alignment, all seeds together, by (model, method), as far as measured."""
    found: dict[tuple[str, str], float] = {}
    for cost in read_costs(out):
        pieces = cost.name.split("/")
        if cost.stage == "align" and len(pieces) == 3 and "cpu_s" in cost.values:
            key = (pieces[0], pieces[1])
            found[key] = found.get(key, 0.0) + cost.values["cpu_s"]
    return found


def _read(path: Path) -> dict[tuple[str, str, str, str], str]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DrirlError(f"{path}:1: expected the columns {','.join(COLUMNS)}; run 'drirl compare'")
            return {
                (row["model"], row["method"], row["benchmark"], row["metric"]): row["value"] for row in reader
            }
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file; run 'dvc repro' first") from None


def _is_other(benchmark: str, metric: str) -> bool:
    named = {column[1] for column in (*SHOWN, *LAST)}
    return (
        benchmark not in named
        and benchmark not in PARTS
        and metric
        in (
            "refusal_rate",
            "false_refusal_rate",
            "accuracy",
            "exact_match",
        )
    )


def _show(values: dict[tuple[str, str, str, str], str], model: str, method: str, column: Column) -> str:
    text = values.get((model, method, *column[1:]), "")
    if not text:
        return "missing"
    return f"{float(text):.0f}" if column[1] == TRAINING else f"{100 * float(text):.1f}"
