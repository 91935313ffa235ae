"""How far alpha leaves 1: bins around 1, shares beyond a margin, and the section with and without logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.experiments.extras import build
from drirl.experiments.extras.histogram import WIDTH, bins_of, shares_beyond
from drirl.experiments.gather import gather
from drirl.experiments.plan import Plan
from drirl.records import write_jsonl


def test_bins_are_centred_on_one_and_sum_to_one() -> None:
    bins = bins_of([1.0, 1 + 0.49 * WIDTH, 1 - 0.49 * WIDTH, 1 + 2.2 * WIDTH, 1 - WIDTH])
    assert bins == {-1: 0.2, 0: 0.6, 1: 0.0, 2: 0.2}
    assert bins_of([]) == {}
    assert sum(bins_of([0.7 + 0.013 * i for i in range(50)]).values()) == pytest.approx(1)


def test_shares_beyond_a_margin_count_both_sides_and_not_its_edge() -> None:
    assert shares_beyond([1.0, 1.25, 0.75, 1.5, 0.25], (0.0, 0.25, 0.5)) == [0.8, 0.4, 0.2]


def test_the_section_counts_harm_categories_of_all_seeds(plan: Plan, tmp_path: Path) -> None:
    model, *others = plan.params.run.models
    for seed, alpha in ((0, 1.0), (1, 1.25), (2, 0.5)):
        line = {"update": 1} | {f"alpha/{c}": alpha for c in range(7)} | {"alpha/-1": 9.0, "alpha/mean": 9.0}
        line |= {f"alpha_D/{c}": 1.0 for c in range(7)}
        rows = [line, {"update": 2, "alpha/3": None, "alpha/4": 1.07}]
        write_jsonl(plan.params.run.out / "align" / model / "dr_irl" / f"seed{seed}" / "log.jsonl", rows)
    section = build("alpha_histograms", gather(plan, "fig4"), tmp_path)
    lines = [line for line in section.text.splitlines() if line.startswith("| tiny")]
    # 24 values: 7 of 1, 7 of 1.25, 7 of 0.5, 3 of 1.07; no benign one, no mean, no missing one
    assert lines[0] == f"| {model} | alpha_D | 0 | 0 | 0 | 1.000 / 1.000 / 1.000 | 21 |"
    assert lines[1] == f"| {model} | alpha | 71 | 71 | 58 | 0.500 / 1.000 / 1.250 | 24 |"
    assert lines[2].startswith(f"| {others[0]} | alpha |")
    assert lines[2].endswith("| 0 |")
    assert (tmp_path / "fig4_histogram.png").stat().st_size > 1000


def test_without_logs_it_says_so(plan: Plan, tmp_path: Path) -> None:
    section = build("alpha_histograms", gather(plan, "q06"), tmp_path)
    assert "no log of dr_irl" in section.text
    assert not list(tmp_path.glob("*.png"))
