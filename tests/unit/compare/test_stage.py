"""The whole stage on made-up records: files, determinism, and every number traced back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drirl.compare.curves import read_curves, write_curves
from drirl.compare.stage import run
from drirl.compare.summary import headline
from drirl.compare.trace import records_behind, trace
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.records import write_json

from .conftest import TRUTH, item, synthetic, write_cell

MODELS = ("tiny-llama", "tiny-qwen2")
METHODS = ("base", "dpo", "grpo_irl", "dr_irl", "dr_irl_constant")
FILES = {
    "alpha.csv",
    "alpha.png",
    "categories.csv",
    "categories.png",
    "comparison.csv",
    "comparison.md",
    "differences.csv",
    "gain.csv",
    "gain.png",
    "index.html",
    "levels.csv",
    "levels.png",
    "metrics.json",
    "overrefusal.csv",
    "overrefusal.png",
    "reward_accuracy.csv",
    "reward_accuracy.png",
    "tradeoff.csv",
    "tradeoff.png",
    "training.csv",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One made-up experiment for the whole file; ``ppo`` of no model is there."""
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic(folder, MODELS, METHODS, (0, 1, 2), intents=2)
    return folder


@pytest.fixture
def params(out: Path, params_for: Callable[..., Params]) -> Params:
    return params_for(out=out, models=list(MODELS), methods=[*METHODS, "ppo"], seeds=[0, 1, 2])


@pytest.fixture(scope="module")
def _done() -> dict[str, Path]:
    return {}


@pytest.fixture
def reports(params: Params, _done: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of all models and methods, made once for this file."""
    if "reports" not in _done:
        folder = tmp_path_factory.mktemp("reports")
        run(params, output=folder)
        _done["reports"] = folder
    return _done["reports"]


def alone(params: Params, out: Path, seeds: list[int]) -> Params:
    """Return the settings for one model and method in a folder of their own."""
    changed = {"out": out, "models": ["tiny-llama"], "methods": ["dpo"], "seeds": seeds}
    return params.model_copy(update={"run": params.run.model_copy(update=changed)})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_two_runs_write_the_same_bytes(params: Params, reports: Path) -> None:
    run(params)
    again = params.compare.reports
    assert {path.name for path in again.iterdir()} == FILES
    for name in sorted(FILES):
        assert (again / name).read_bytes() == (reports / name).read_bytes(), name
    assert b"Software" not in (again / "tradeoff.png").read_bytes()


def test_every_number_is_the_mean_of_the_records_it_leads_back_to(reports: Path, out: Path) -> None:
    checked = 0
    for row in rows(reports / "comparison.csv"):
        if (
            row["model"] != "tiny-llama"
            or row["method"] not in ("dpo", "base")
            or row["benchmark"] == "training"
        ):
            continue
        items = records_behind(out, row["model"], row["method"], row["benchmark"], row["metric"])
        by_seed: dict[int, list[float]] = {}
        for one in items:
            assert one.value is not None
            by_seed.setdefault(one.seed, []).append(one.value)
        means = [sum(values) / len(values) for values in by_seed.values()]
        assert float(row["value"]) == pytest.approx(sum(means) / len(means), abs=1e-6)
        assert int(row["n"]) == len({(one.benchmark, one.item_id) for one in items})
        assert int(row["seeds"]) == len(by_seed) == (1 if row["method"] == "base" else 3)
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
        checked += 1
    assert checked > 15


def test_columns_and_rows_of_the_contract(reports: Path) -> None:
    text = (reports / "comparison.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == (
        "model,method,benchmark,metric,higher_is_better,value,ci_low,ci_high,n,seeds,published,published_source,"
        "deviation,judge,template_hash"
    )
    found = {
        (row["benchmark"], row["metric"]): row["higher_is_better"] for row in rows(reports / "comparison.csv")
    }
    for level in ("direct", "paraphrased", "disguised"):
        assert found["drirl_tiny_harmful", f"refusal_rate[level={level}]"] == "true"
        assert found["drirl_tiny_benign", f"false_refusal_rate[level={level}]"] == "false"
    assert sum(metric.startswith("refusal_rate[category=") for _, metric in found) == 7
    for key in (
        ("drirl_tiny_contrast", "false_refusal_rate"),
        ("drirl_tiny_help", "accuracy"),
        ("all", "degenerate_rate"),
        ("all", "mean_reward"),
        ("training", "updates"),
        ("training", "generated_tokens"),
    ):
        assert key in found


def test_a_missing_method_is_shown_as_missing(reports: Path) -> None:
    gone = [row for row in rows(reports / "comparison.csv") if row["method"] == "ppo"]
    assert gone
    assert {(row["value"], row["ci_low"], row["n"]) for row in gone} == {("", "", "")}
    line = next(
        line
        for line in (reports / "comparison.md").read_text().splitlines()
        if line.startswith("| tiny-llama, baselines | `ppo`")
    )
    assert line.count("missing") == 6
    assert " 0" not in line


def test_no_published_value_beside_a_small_model(reports: Path) -> None:
    assert {row["published"] for row in rows(reports / "comparison.csv")} == {""}


def test_headline_comes_first_and_says_what_can_be_told(reports: Path) -> None:
    text = (reports / "comparison.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[2].startswith("| Model | Method | Refusal, disguised ↑ |")
    assert "meaningless" not in text
    assert "tiny-llama, `dr_irl` minus `grpo_irl`: " in text
    assert "tiny-qwen2, `dr_irl` minus `dr_irl_constant`: " in text
    assert text.count("no difference can be told") + text.count("A difference is seen in") == 4
    assert "No record is kept" in text


def test_a_profile_without_meaning_says_so(params: Params) -> None:
    marked = params.model_copy(update={"run": params.run.model_copy(update={"meaningful": False})})
    run(marked, models=["tiny-llama"], methods=["dpo"])
    text = (params.compare.reports / "comparison.md").read_text(encoding="utf-8")
    assert text.splitlines()[2].startswith("> **Wiring check, numbers are meaningless**")
    assert headline(marked).startswith("wiring check, numbers are meaningless")


def test_looks_at_the_test_split_are_counted(params: Params) -> None:
    params.compare.test_looks.write_text(
        "- {date: 2026-01-02, commit: abc, why: 'frozen | <b>'}\n"
        "- {date: 2026-01-03, commit: d, why: again}\n"
    )
    run(params, models=["tiny-llama"], methods=["dpo"])
    text = (params.compare.reports / "comparison.md").read_text(encoding="utf-8")
    assert "2 times." in text
    assert "| 2026-01-02 | abc | frozen \\| &lt;b&gt; |" in text
    params.compare.test_looks.write_text("- {date: 2026-01-02}\n")
    with pytest.raises(DrirlError, match="entry 1: expected the keys date, commit and why"):
        run(params)


def test_names_are_checked_and_chosen(params: Params, tmp_path: Path) -> None:
    for option, message in (
        ({"reference": "grpo_ir"}, "--reference: unknown name 'grpo_ir'.*did you mean 'grpo_irl'"),
        ({"methods": ["dpoo"]}, "--methods: unknown name 'dpoo'"),
        ({"models": ["tiny"]}, "--models: unknown name 'tiny'"),
        ({"formats": ["htm"]}, "--format: unknown name 'htm'.*did you mean 'html'"),
    ):
        with pytest.raises(DrirlError, match=message):
            run(params, **option)  # type: ignore[arg-type]
    few_of = {"models": ["tiny-qwen2"], "methods": ["dpo", "base"], "formats": ["csv"]}
    run(params, reference="base", output=tmp_path / "few", **few_of)  # type: ignore[arg-type]
    assert {row["method"] for row in rows(tmp_path / "few" / "comparison.csv")} == {"base", "dpo"}
    few = rows(tmp_path / "few" / "differences.csv")
    assert {(row["method"], row["reference"]) for row in few} == {("dpo", "base")}


def test_adding_a_method_leaves_the_others_intervals(params: Params, tmp_path: Path) -> None:
    run(params, methods=["dpo"], formats=["csv"], output=tmp_path / "alone")
    run(params, methods=["base", "dpo"], formats=["csv"], output=tmp_path / "both")
    kept = [
        [row for row in rows(tmp_path / name / "comparison.csv") if row["method"] == "dpo" and row["n"]]
        for name in ("alone", "both")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) > 50


def test_a_method_nobody_has_heard_of_is_in_the_table(
    params_for: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables know methods from run.methods and the records only."""
    monkeypatch.setitem(TRUTH, "throwaway", TRUTH["dpo"])
    methods = ("grpo_irl", "throwaway")
    synthetic(tmp_path / "out", ("tiny-llama",), methods, (0, 1), intents=2)
    params = params_for(models=["tiny-llama"], methods=list(methods), seeds=[0, 1])
    run(params)
    reports = params.compare.reports
    values = {
        r["metric"] for r in rows(reports / "comparison.csv") if r["method"] == "throwaway" and r["value"]
    }
    assert {"refusal_rate", "false_refusal_rate", "accuracy"} <= values
    assert "throwaway" in (reports / "comparison.md").read_text(encoding="utf-8")
    assert any("throwaway" in r.values() for r in rows(reports / "differences.csv"))


def test_a_reference_that_was_not_run(params: Params) -> None:
    other = params.compare.model_copy(update={"reference": "sft"})
    run(params.model_copy(update={"compare": other}), models=["tiny-llama"], methods=["dpo"])
    assert rows(params.compare.reports / "differences.csv") == []
    assert "is not among the methods" in (params.compare.reports / "comparison.md").read_text()


def test_metrics_are_the_headline_values(reports: Path) -> None:
    values = json.loads((reports / "metrics.json").read_text())
    table = {
        (row["model"], row["method"], row["benchmark"], row["metric"]): row["value"]
        for row in rows(reports / "comparison.csv")
    }
    expected = float(table["tiny-llama", "dpo", "drirl_tiny_harmful", "refusal_rate[level=disguised]"])
    assert values["tiny-llama"]["dpo"]["refusal_disguised"] == pytest.approx(expected, abs=1e-4)
    columns = {
        "refusal_paraphrased": ("drirl_tiny_harmful", "refusal_rate[level=paraphrased]"),
        "refusal_direct": ("drirl_tiny_harmful", "refusal_rate[level=direct]"),
        "false_refusal_benign": ("drirl_tiny_benign", "false_refusal_rate"),
        "false_refusal_contrast": ("drirl_tiny_contrast", "false_refusal_rate"),
        "helpfulness": ("drirl_tiny_help", "accuracy"),
    }
    for name, key in columns.items():
        expected = float(table["tiny-llama", "dpo", *key])
        assert values["tiny-llama"]["dpo"][name] == pytest.approx(expected, abs=1e-4)
    assert values["tiny-llama"]["dpo"]["updates"] == 60
    assert "ppo" not in values["tiny-llama"]


def test_summary_prints_the_headline_table(params: Params, reports: Path) -> None:
    with pytest.raises(DrirlError, match=r"comparison\.csv: no such file; run 'dvc repro' first"):
        headline(params)
    there = params.compare.model_copy(update={"reports": reports})
    lines = headline(params.model_copy(update={"compare": there})).splitlines()
    assert lines[1].split()[:3] == ["model", "method", "disguised"]
    ppo = next(line for line in lines if line.startswith("tiny-llama  ppo"))
    assert set(ppo.split()[2:]) == {"missing"}
    assert any("comparison.md" in line for line in lines)


def test_trace_prints_json_lines(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    trace(
        params,
        model="tiny-llama",
        method="dpo",
        benchmark="drirl_tiny_harmful",
        metric="refusal_rate[level=disguised]",
        limit=2,
    )
    shown = capsys.readouterr()
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert [one["level"] for one in found] == ["disguised", "disguised"]
    assert "2 of 42 records shown: 14 prompts, seeds 3, 0 without a score, mean 0." in shown.err


def test_trace_prints_the_mean_of_the_table_where_scores_are_missing(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds [1, 0] and [1, missing]: (1/2 + 1) / 2, not 2/3."""
    out = tmp_path / "gaps"
    scores = {(0, "a"): 1.0, (0, "b"): 0.0, (1, "a"): 1.0, (1, "b"): float("nan")}
    about = {"model": "tiny-llama", "method": "dpo", "benchmark": "drirl_tiny_help", "metric": "accuracy"}
    items = [item(seed=seed, item_id=name, value=value, **about) for (seed, name), value in scores.items()]
    write_cell(out, "tiny-llama", "dpo", items)
    alone_ = alone(params, out, [0, 1])
    run(alone_, formats=["csv"])
    (row,) = rows(params.compare.reports / "comparison.csv")
    trace(alone_, **about)
    shown = capsys.readouterr()
    assert [json.loads(line)["value"] for line in shown.out.splitlines()] == [1.0, 1.0, 0.0, None]
    assert shown.err.endswith("2 prompts, seeds 2, 1 without a score, mean 0.750000\n")
    assert row["value"] == "0.75"


def test_curves_are_means_over_seeds(out: Path, tmp_path: Path) -> None:
    write_curves(read_curves(out, ["tiny-llama"], ["dpo", "dr_irl"]), tmp_path)
    training = rows(tmp_path / "training.csv")
    assert [row["update"] for row in training] == ["1", "2", "3", "4", "5"]
    assert training[0]["reward"] == "1.1"  # 0.1 + seeds 0, 1, 2
    assert training[0]["entropy"] == ""
    alpha = {(row["update"], row["category"]): row for row in rows(tmp_path / "alpha.csv")}
    assert alpha["1", "Crimes & Illegal Activities"]["alpha"] == "0.9"  # 0.8, 0.9, 1.0
    assert alpha["1", "benign"]["alpha"] == "1"
    assert alpha["1", "all"]["alpha"] == "0.95"
    assert alpha["1", "all"]["alpha_D"] == "0.9"


def test_costs_are_reported_apart(params: Params, tmp_path: Path) -> None:
    out = tmp_path / "costed"
    synthetic(out, ("tiny-llama",), ("dpo",), (0, 1), intents=2)
    params = alone(params, out, [0, 1])
    run(params)
    before = {path.name: path.read_bytes() for path in params.compare.reports.iterdir()}
    assert set(before) == FILES
    for name, wall in (
        ("tiny-llama/dpo", 12.0),
        ("tiny-llama/dpo/seed0", 10.0),
        ("tiny-llama/dpo/seed1", 11.0),
    ):
        value = {"stage": "align", "name": name, "wall_s": wall, "cpu_s": 9.0, "updates": 60}
        value["peak_rss_bytes"] = 2**30
        write_json(out / "cost" / "align" / f"{name.replace('/', '__')}.json", value)
    other = {"stage": "rerank", "name": "tiny-llama/dpo/seed0", "wall_s": 3.0}
    write_json(out / "cost" / "rerank" / "tiny-llama__dpo__seed0.json", other)
    run(params)
    after = {path.name: path.read_bytes() for path in params.compare.reports.iterdir()}
    assert set(after) - set(before) == {"cost.csv", "cost.md"}
    assert {name: after[name] for name in before} == before
    line = next(line for line in after["cost.md"].decode().splitlines() if line.startswith("| align"))
    assert line == "| align | 12 | 2 | 21 | 18 | 1 024 | 120 |  |  |"
    before_, _, apart = after["cost.md"].decode().partition("## Measured for experiments")
    assert "rerank" not in before_
    assert "| rerank |  | 1 | 3 |" in apart


def test_reward_reports_are_shown(params: Params, tmp_path: Path) -> None:
    out = tmp_path / "rewarded"
    synthetic(out, ("tiny-llama",), ("dpo",), (0,), intents=2)
    cell = {"n": 100, "accuracy": 0.975, "low": 0.94, "high": 1.0}
    empty = {"n": 0, "accuracy": None, "low": None, "high": None}
    groups = {
        "0": {"cells": {"unsafe_or_broken": cell}},
        "task": {"cells": {"unsafe_or_broken": empty, "wrong": cell}},
    }
    accepted = {"wrong": {"lowest": 0.975, "where": "task/wrong (n=100)", "required": 0.8, "met": True}}
    report = {
        "split": "test",
        "iterations": [{"groups": groups, "acceptance": accepted}],
        "static": {"groups": {}},
    }
    write_json(out / "reward" / "tiny-llama" / "report.json", report)
    run(alone(params, out, [0]))
    text = (params.compare.reports / "comparison.md").read_text(encoding="utf-8")
    assert "| unsafe or broken | 97.5 (Insult, n=100) | missing |" in text
    assert "| wrong | 97.5 (task, n=100) | missing |" in text
    assert "| Against | Insult | task | Pairs |" in text
    assert "| unsafe or broken | 98 [94, 100] | missing | 0–100 |" in text
    assert "bar 80, met" in text


def test_nothing_to_draw_still_leaves_the_figures(params: Params, tmp_path: Path) -> None:
    out = tmp_path / "helpful"
    synthetic(out, ("tiny-llama",), ("dpo",), (0,), intents=2)
    run(alone(params, out, [0]), benchmarks=["drirl_tiny_help"])
    assert {path.name for path in params.compare.reports.iterdir()} == FILES


def test_comparing_needs_no_torch() -> None:
    code = "import sys, drirl.compare.stage, drirl.compare.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
