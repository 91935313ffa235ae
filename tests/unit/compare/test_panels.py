"""Figures: what their csv files hold, and that their bytes depend on the numbers alone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from drirl.compare import panels
from drirl.compare.collect import collect
from drirl.compare.cost import Cost
from drirl.compare.curves import read_curves
from drirl.compare.published import load_published
from drirl.compare.stats import Bootstrap
from drirl.compare.tables import Analysis

from .conftest import ROOT, synthetic

METHODS = ("base", "dpo", "dr_irl")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One made-up experiment."""
    folder = tmp_path_factory.mktemp("panels")
    synthetic(folder, ("tiny-llama",), METHODS, (0, 1), intents=2)
    return folder


@pytest.fixture(scope="module")
def analysis(out: Path) -> Analysis:
    """Its tables."""
    records = collect(out, ["tiny-llama"], METHODS, (0, 1))
    return Analysis(records, Bootstrap(draws=100), load_published(ROOT / "reports" / "published.csv", {}))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("draw", [panels.draw_levels, panels.draw_overrefusal, panels.draw_gain])
def test_same_numbers_same_bytes(draw: Callable[..., list[Path]], analysis: Analysis, tmp_path: Path) -> None:
    first, second = draw(analysis, tmp_path / "a"), draw(analysis, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.suffix for path in first] == [".png", ".csv"]
    assert min(Image.open(first[0]).size) > 300


def test_levels_and_overrefusal_hold_the_table_rows(analysis: Analysis, tmp_path: Path) -> None:
    panels.draw_levels(analysis, tmp_path)
    found = rows(tmp_path / "levels.csv")
    assert len(found) == 3 * 2 * 3  # methods, benchmarks, levels
    line = next(r for r in found if (r["method"], r["metric"]) == ("dpo", "refusal_rate[level=disguised]"))
    row = analysis.row("tiny-llama", "dpo", "drirl_tiny_harmful", "refusal_rate[level=disguised]")
    assert row is not None
    assert float(line["value"]) == pytest.approx(row.value, abs=1e-6)
    panels.draw_overrefusal(analysis, tmp_path)
    assert {r["benchmark"] for r in rows(tmp_path / "overrefusal.csv")} == {
        "drirl_tiny_benign",
        "drirl_tiny_contrast",
    }


def test_gain_is_the_paired_difference_from_the_base(analysis: Analysis, tmp_path: Path) -> None:
    panels.draw_gain(analysis, tmp_path)
    found = {r["method"]: r for r in rows(tmp_path / "gain.csv")}
    assert set(found) == {"dpo", "dr_irl"}
    gap = analysis.difference(
        "tiny-llama", "dr_irl", "base", "drirl_tiny_harmful", "refusal_rate[level=disguised]"
    )
    assert gap is not None
    assert gap.estimate is not None
    assert float(found["dr_irl"]["gain"]) == pytest.approx(gap.estimate.value, abs=1e-6)
    assert found["dr_irl"]["thousand_tokens"] == "90.05"  # 90 000 and 90 100 generated, none trained on


def test_cost_against_gain_is_written_only_if_measured(analysis: Analysis, tmp_path: Path) -> None:
    assert panels.draw_cost_gain(analysis, [], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    costs = [
        Cost("align", "tiny-llama/dpo", {"cpu_s": 99.0}),
        Cost("align", "tiny-llama/dpo/seed0", {"cpu_s": 10.0}),
        Cost("align", "tiny-llama/dpo/seed1", {"cpu_s": 20.0}),
        Cost("evaluate", "tiny-llama/dpo/seed0", {"cpu_s": 5.0}),
    ]
    panels.draw_cost_gain(analysis, costs, tmp_path)
    assert [(r["method"], r["cpu_s"]) for r in rows(tmp_path / "cost_gain.csv")] == [("dpo", "15")]


def test_alpha_and_rewards(out: Path, tmp_path: Path) -> None:
    curves = read_curves(out, ["tiny-llama"], METHODS)
    (first,), (second,) = (panels.draw_alpha(curves.alpha, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    cell = {"n": 100, "accuracy": 0.975, "low": 0.94, "high": 1.0}
    lost = {"n": 0, "accuracy": None, "low": None, "high": None}
    report = {
        "iterations": [{"groups": {}}, {"groups": {"2": {"cells": {"updated": cell, "sample": lost}}}}],
        "static": {"groups": {"benign": {"cells": {"updated": cell}}}},
    }
    panels.draw_rewards({"tiny-llama": report}, tmp_path)
    found = [list(r.values()) for r in rows(tmp_path / "reward_accuracy.csv")]
    assert found == [
        ["tiny-llama", "category", "Crimes & Illegal Activities", "updated", "0.975", "0.94", "1", "100"],
        ["tiny-llama", "category", "Crimes & Illegal Activities", "sample", "", "", "", "0"],
        ["tiny-llama", "static", "benign", "updated", "0.975", "0.94", "1", "100"],
    ]


def test_nothing_to_draw_says_so(tmp_path: Path) -> None:
    panels.draw_alpha([], tmp_path)
    panels.draw_rewards({}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "alpha.png",
        "reward_accuracy.png",
        "reward_accuracy.csv",
    }
