"""Every committed page of a table, figure or question answers, with intervals, n, figure and numbers."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for folder in ("tables", "questions") for p in (ROOT / "reports" / folder).glob("*.md"))
NO_INTERVAL = {"table6"}
"""Pages of settings alone."""
NO_FIGURE = {"table6", "table7"}

pytestmark = pytest.mark.skipif(
    subprocess.run(
        ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "reports"], check=False
    ).returncode
    == 1,
    reason="reports/ holds a run of your own",
)


def test_there_is_a_page_for_each() -> None:
    names = {page.stem for page in PAGES}
    assert {f"q{k:02}" for k in range(1, 15)} <= names
    assert {f"table{k}" for k in range(1, 9)} | {"table4b", "fig3", "fig4", "fig5"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_answers_with_interval_n_figure_and_numbers(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    question, answer = (re.search(rf"\*\*{word}\.\*\* (.+)", text) for word in ("Question", "Answer"))
    assert question is not None
    assert answer is not None
    assert len(answer[1]) > 3
    assert "not available" not in answer[1].lower()
    if page.stem not in NO_INTERVAL:
        assert re.search(r"[(\[][−+-]?\d+(\.\d+)? ?(–|to|,) ?[−+-]?\d+(\.\d+)?", text), "no interval"
        assert re.search(r"\bn\b|[Pp]rompts|[Pp]airs", text), "no n"
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert images or page.stem in NO_FIGURE
    for image in images:
        assert (page.parent / image).stat().st_size > 5_000
    with page.with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert any(row["value"] for row in rows)
