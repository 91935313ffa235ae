"""Pages from small records: what is there is shown with its interval, what is missing is missing."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from drirl.compare.columns import SHOWN
from drirl.compare.stats import Estimate
from drirl.errors import DrirlError
from drirl.experiments.gather import gather
from drirl.experiments.measures import MEASURES
from drirl.experiments.page import conclude, folder_of, write_page
from drirl.experiments.plan import Plan
from drirl.experiments.replication import _agreement, load_claims, write_replication
from drirl.records import EvalItem, RunRecord, read_jsonl, write_json, write_jsonl

MODELS = ("tiny-llama", "tiny-qwen2")


def _fill(plan: Plan, write_cell: Callable[..., None], rates: dict[str, float], models=MODELS) -> None:
    for name, rate in rates.items():
        arm = plan.resolve(name)
        for model in models:
            write_cell(arm.out, model, arm.method, rate)


def test_a_page_shows_scores_differences_and_an_answer(plan: Plan, write_cell: Callable[..., None]) -> None:
    _fill(plan, write_cell, {"dr_irl": 0.95, "weighted_sum": 0.4})
    files = write_page(plan, "table3")
    text = files[0].read_text()
    assert files[0] == plan.params.compare.reports / "tables" / "table3.md"
    assert "# Table 3" in text
    assert "**Question.**" in text
    assert "missing" not in text
    for model in MODELS:
        # The product is better on disguised prompts. Helpfulness is equal, but not known to be: not all hold.
        assert f"{model}: **cannot tell at this n" in text
    found = gather(plan, "table3")
    first = next(j for j in conclude(found) if j.model == "tiny-llama")
    assert first.verdict.outcome == "yes"
    assert first.estimate is not None
    assert first.estimate.seeds == 3
    assert (plan.params.compare.reports / "tables" / "table3.png").is_file()


def test_a_missing_arm_shows_as_missing_never_as_zero(plan: Plan, write_cell: Callable[..., None]) -> None:
    _fill(plan, write_cell, {"dr_irl": 0.95})
    _fill(plan, write_cell, {"weighted_sum": 0.4}, models=MODELS[:1])
    text = write_page(plan, "table3")[0].read_text()
    line = next(row for row in text.splitlines() if row.startswith("| tiny-qwen2 | weighted sum"))
    assert set(line.split("|")[3:-1]) == {" missing "}
    assert "weighted sum on tiny-qwen2: not run yet" in text
    assert "tiny-qwen2: **not known, arms are missing**" in text
    with (plan.params.compare.reports / "tables" / "table3.csv").open(newline="") as handle:
        gaps = [
            r for r in csv.DictReader(handle) if (r["model"], r["method"]) == ("tiny-qwen2", "weighted sum")
        ]
    assert gaps
    assert all(row["value"] == row["ci_low"] == row["n"] == "" for row in gaps)


def test_equal_arms_give_no_yes(plan: Plan, write_cell: Callable[..., None]) -> None:
    names = ["mask_0", "mask_10", "dr_irl", "mask_40", "gaussian", "batch_means"]
    _fill(plan, write_cell, dict.fromkeys(names, 0.6), models=MODELS[:1])
    judged = conclude(gather(plan, "q05"))
    assert len(judged) == 5
    assert {j.verdict.outcome for j in judged} == {"unclear"}
    text = write_page(plan, "q05")[0].read_text()
    assert "cannot tell at this n**: it would take" in text or "cannot tell at this n: it would take" in text
    assert "Bonferroni" in text


def test_differences_sought_in_many_places_are_wider(plan: Plan, write_cell: Callable[..., None]) -> None:
    names = ["mask_0", "mask_10", "dr_irl", "mask_40", "gaussian", "batch_means"]
    _fill(plan, write_cell, dict.fromkeys(names, 0.6), models=MODELS[:1])
    found = gather(plan, "q05")
    wide = conclude(found)[0]
    assert found.analysis is not None
    plain = found.analysis.difference(
        "tiny-llama", "mask 0 %", "mask 20 %", "drirl_tiny_harmful", "refusal_rate[level=disguised]"
    )
    assert wide.estimate is not None
    assert plain is not None
    assert plain.estimate is not None
    assert wide.estimate.low < plain.estimate.low < plain.estimate.high < wide.estimate.high  # type: ignore[operator]


def test_nothing_run_and_not_available(plan: Plan) -> None:
    assert "Not run" in write_page(plan, "table3")[0].read_text()
    lacking = plan.experiment("q11").model_copy(update={"needs": "human-written pairs"})
    without = replace(plan, experiments={**plan.experiments, "q11": lacking})
    text = write_page(without, "q11")[0].read_text()
    assert "Not available: needs human-written pairs" in text
    assert not any(experiment.needs for experiment in plan.experiments.values())
    with pytest.raises(DrirlError, match="unknown experiment 'q15'"):
        write_page(plan, "q15")


def test_every_page_renders_without_any_record(plan: Plan) -> None:
    for name in plan.experiments:
        files = write_page(plan, name)
        assert files[0].parent.name == folder_of(name)
        assert "**Answer.**" in files[0].read_text()


def test_uneven_seeds_are_refused(plan: Plan, write_cell: Callable[..., None]) -> None:
    arm = plan.resolve("weighted_sum")
    write_cell(arm.out, "tiny-llama", "dr_irl", 0.5, seeds=(0,))
    with pytest.raises(DrirlError, match=r"seeds \[0\], expected \[0, 1, 2\]"):
        write_page(plan, "table3")


def test_table8_reads_the_reward_report(plan: Plan) -> None:
    cell = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 50, "gap_mean": 1.0, "gap_sd": 0.5}
    low = {**cell, "accuracy": 0.5, "low": 0.4}
    groups = {str(j): {"cells": {"sample": low if j == 5 else cell}, "auc": 0.9} for j in range(7)}
    for model in MODELS:
        path = plan.params.run.out / "reward" / model / "report.json"
        write_json(path, {"iterations": [{"groups": groups}], "static": {"groups": {}}})
    text = write_page(plan, "table8")[0].read_text()
    assert "90.0 (80.0–95.0; 50)" in text
    assert "tiny-llama: **no**, not above chance: Privacy & Property" in text


def test_replication_lists_every_claim(plan: Plan, write_cell: Callable[..., None]) -> None:
    _fill(plan, write_cell, {"dr_irl": 0.95, "grpo": 0.4, "grpo_irl": 0.95, "base": 0.05})
    text = write_replication(plan).read_text()
    claims = load_claims(plan)
    assert len(claims) > 20
    assert all(claim.claim in text for claim in claims)
    line = next(row for row in text.splitlines() if row.startswith("| DR-IRL is safer than GRPO | Table 1"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2] == "+12.6"  # 0.9361 - 0.8105
    assert cells[6:8] == ["yes", "yes"]
    lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row[:1] == "|"]
    published = {(cells[0], cells[3]): cells[2] for cells in lines}
    assert published["DR-IRL is safer than GRPO", "tiny-qwen2"] == "+36.4"  # 0.8798 - 0.5155, of Qwen-2
    assert published["DR-IRL is more helpful than GRPO (GSM8K)", "tiny-llama"] == "+5.7"  # 0.881 - 0.8237
    assert published["DR-IRL is more helpful than GRPO (GSM8K)", "tiny-qwen2"] == "+6.8"  # 0.897 - 0.8287
    other = published["DR-IRL is safer than DPO", "tiny-qwen2"]
    assert other == "direction only (Llama-3.1-8B-Instruct: +43.1)"
    assert published["DR-IRL resists AutoDAN better than STAIR", "tiny-llama"] == "more than +30.0"
    assert published["Without hardness DR-IRL is less safe", "tiny-llama"] == "about −4.0"
    line = next(row for row in text.splitlines() if row.startswith("| The product is better"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2] == "direction only"
    assert cells[4] == cells[6] == cells[7] == "missing"
    line = next(row for row in text.splitlines() if row.startswith("| Chain of Draft needs"))
    assert "−1127.0 tokens" in line  # 162 - 1289
    rows = [c for c in lines if len(c) == 9 and c[0] != "Claim" and not c[0].startswith("---")]
    said = re.search(r"(\d+) of (\d+) rows point .*?, (\d+) of them significantly; (\d+) are missing", text)
    assert said is not None
    assert [int(number) for number in said.groups()] == [
        sum(c[6] == "yes" for c in rows),
        len(rows),
        sum(c[7] == "yes" for c in rows),
        sum(c[6] == "missing" for c in rows),
    ]


def test_a_claim_of_keeping_something_allows_for_the_margin() -> None:
    small = Estimate(-0.01, -0.015, -0.005, n=9, clusters=9, seeds=3)
    assert _agreement(small, "not_lower", 0.02) == ("yes", "yes")
    assert _agreement(small, "higher", 0.02) == ("no", "against")
    assert _agreement(replace(small, low=-0.05), "not_lower", 0.02) == ("yes", "no")
    assert _agreement(replace(small, value=-0.05, low=-0.09, high=-0.03), "not_lower", 0.02) == (
        "no",
        "against",
    )
    assert _agreement(None, "not_lower", 0.02) == ("missing", "missing")


def test_seeds_are_those_of_the_arms(plan: Plan, write_cell: Callable[..., None]) -> None:
    names = {"best_1_base": 0.1, "best_4_base": 0.2, "best_16_base": 0.3}
    for name, rate in names.items():
        write_cell(plan.resolve(name).out, "tiny-llama", "base", rate, seeds=(0,))
    _fill(plan, write_cell, {"best_1_dr_irl": 0.9, "best_4_dr_irl": 0.9, "best_16_dr_irl": 0.9}, MODELS[:1])
    text = write_page(plan, "q08")[0].read_text()
    assert "3 training seeds per arm; 1 of base, N = 1, base, N = 16, base, N = 4;" in text
    judged = conclude(gather(plan, "q08"))
    assert {j.seeds for j in judged} == {(1, 3)}
    assert " / 1 and 3 |" in text


def test_a_page_of_arms_keeps_further_numbers_in_a_second_csv(
    plan: Plan, write_cell: Callable[..., None]
) -> None:
    _fill(plan, write_cell, {"dr_irl": 0.9, "grpo_irl": 0.8}, MODELS[:1])
    for k, seconds in enumerate((30.0, 40.0, 50.0)):
        path = plan.params.run.out / "cost" / "align" / f"tiny-llama__dr_irl__seed{k}.json"
        write_json(path, {"stage": "align", "name": f"tiny-llama/dr_irl/seed{k}", "cpu_s": seconds})
    files = write_page(plan, "q13")
    folder = plan.params.compare.reports / "questions"
    assert folder / "q13_more.csv" in files
    with (folder / "q13_more.csv").open(newline="") as handle:
        rows = {(r["name"], r["measure"]): r for r in csv.DictReader(handle)}
    row = rows["align dr_irl, one seed", "cpu_s"]
    assert (float(row["value"]), row["n"]) == (40.0, "3")
    assert rows["align grpo_irl, one seed", "cpu_s"]["value"] == ""  # missing, not 0
    assert "`q13.csv`, `q13_more.csv`." in files[0].read_text()
    assert (folder / "q13_cost.png").is_file()


def test_a_page_names_the_base_policies_behind_it(plan: Plan, write_cell: Callable[..., None]) -> None:
    _fill(plan, write_cell, {"dr_irl": 0.9, "weighted_sum": 0.8}, models=MODELS[:1])
    assert "Base policies" not in write_page(plan, "table3")[0].read_text()
    _fill(plan, write_cell, {"base": 0.1}, models=MODELS[:1])
    path = plan.params.run.out / "evaluate" / MODELS[0] / "base" / "runs.jsonl"
    write_jsonl(path, [replace(run, policy_hash="0a1b") for run in read_jsonl(path, RunRecord)])
    text = write_page(plan, "table3")[0].read_text()
    assert text.endswith("Base policies, by a hash of their files: tiny-llama `0a1b`.\n")


def test_rewards_are_listed_where_the_page_has_them(plan: Plan, write_cell: Callable[..., None]) -> None:
    """Table 2 is made without the adapters of question 3: it must not call them missing."""
    _fill(plan, write_cell, {"dr_irl": 0.9, "single_on": 0.8})
    tables = {name: write_page(plan, name)[0].read_text() for name in ("table2", "q03", "q13")}
    shown = {
        name: {v for v in ("single", "adapters", "separate") if f"| {v} |" in t} for name, t in tables.items()
    }
    everything = {"single", "adapters", "separate"}
    assert shown == {"table2": {"single"}, "q03": everything, "q13": everything}


def test_more_false_refusals_are_worse_on_a_page(plan: Plan, write_cell: Callable[..., None]) -> None:
    write_cell(plan.resolve("best_16_base").out, "tiny-llama", "base", 0.9, seeds=(0,))
    write_cell(plan.resolve("best_1_dr_irl").out, "tiny-llama", "dr_irl", 0.9)
    path = plan.resolve("best_16_base").out / "evaluate" / "tiny-llama" / "base" / "items.jsonl"
    items = read_jsonl(path, EvalItem)
    write_jsonl(path, [replace(i, value=1.0) if i.metric == "false_refusal_rate" else i for i in items])
    judged = {j.contrast.metric: j for j in conclude(gather(plan, "q08"))}
    found = judged["false_refusal_contrast"]
    assert found.estimate is not None
    assert found.estimate.value > 0.5
    assert (found.higher_is_better, found.verdict.outcome, found.verdict.opposite) == (False, "no", True)


def test_a_claim_of_less_is_read_the_other_way_round() -> None:
    less = Estimate(-0.03, -0.05, 0.01, n=9, clusters=9, seeds=3)
    assert _agreement(less, "lower", 0.02) == ("yes", "no")
    assert _agreement(replace(less, high=-0.01), "lower", 0.02) == ("yes", "yes")
    assert _agreement(replace(less, value=0.03, low=0.01, high=0.05), "lower", 0.02) == ("no", "against")


def test_measures_are_the_headline_columns_of_their_name() -> None:
    shown = {title: (benchmark, metric) for title, benchmark, metric in SHOWN}
    found = {m.title: m.options[0] for m in MEASURES.values() if m.title in shown}
    assert len(found) == 7
    assert found == {title: shown[title] for title in found}
