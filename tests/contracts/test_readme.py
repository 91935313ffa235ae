"""Every number in the tables of README.md is the one in reports/, rounded; own runs rewrite reports/."""

from __future__ import annotations

import csv
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"Llama type": "tiny-llama", "Qwen2 type": "tiny-qwen2"}
COLUMNS = {
    "refusal, direct": ("drirl_tiny_harmful", "refusal_rate[level=direct]"),
    "refusal, disguised": ("drirl_tiny_harmful", "refusal_rate[level=disguised]"),
    "false refusal, benign": ("drirl_tiny_benign", "false_refusal_rate"),
    "false refusal, contrast": ("drirl_tiny_contrast", "false_refusal_rate"),
    "helpfulness": ("drirl_tiny_help", "accuracy"),
}


def _own_run() -> bool:
    """Tell whether reports/ holds another run than the committed one."""
    git = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "reports"]
    return subprocess.run(git, check=False).returncode == 1


pytestmark = pytest.mark.skipif(_own_run(), reason="reports/ holds a run of your own")


def _tables() -> list[tuple[str, str, dict[str, str]]]:
    """(model, method, cell by column heading) of every row."""
    found, model, head = [], "", []
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        heading = cells[0].partition(",")[0]
        if heading in MODELS:
            model, head = MODELS[heading], cells[1:]
        elif not line.startswith("|"):
            model = ""
        elif model and (method := re.match(r"`(\w+)`", cells[0])):
            found.append((model, method[1], dict(zip(head, cells[1:], strict=True))))
    return found


def _read(name: str) -> list[dict[str, str]]:
    with (ROOT / "reports" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", MODELS.values())
def test_numbers_of_the_readme_are_those_of_the_report(model: str) -> None:
    rows = [(method, cells) for of, method, cells in _tables() if of == model]
    values = {(r["model"], r["method"], r["benchmark"], r["metric"]): r for r in _read("comparison.csv")}
    assert [method for method, _ in rows] == list(dict.fromkeys(m for of, m, *_ in values if of == model))
    for method, cells in rows:
        for heading, (benchmark, metric) in COLUMNS.items():
            row = values[model, method, benchmark, metric]
            value, low, high = (f"{100 * float(row[k]):.0f}" for k in ("value", "ci_low", "ci_high"))
            assert cells[heading] == f"{value} [{low}, {high}]", (model, method, heading)


def test_seconds_of_the_readme_are_those_of_the_report() -> None:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in _read("cost.csv"):
        if row["stage"] == "align" and row["name"].count("/") == 2:
            model, method, _ = row["name"].split("/")
            seconds[model, method].append(float(row["cpu_s"]))
    for model, method, cells in _tables():
        known = seconds[model, method]
        assert cells["CPU s"] == f"{sum(known) / len(known):.0f}", (model, method)


def test_the_count_of_claims_is_that_of_the_summary() -> None:
    summary = (ROOT / "reports" / "replication.md").read_text(encoding="utf-8")
    counted = re.search(r"(\d+) of (\d+) rows point .*?, (\d+) of them significantly", summary)
    assert counted is not None
    same, total, significant = counted.groups()
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{same} of {total} point the paper's way, {significant} of them significantly" in text
