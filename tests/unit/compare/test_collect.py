"""Records into matrices: what is read, what is refused, what is shown as missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drirl.compare.collect import collect, mean_of_seeds
from drirl.compare.columns import headline_columns, parts_columns
from drirl.compare.names import MEANS
from drirl.compare.published import Published
from drirl.compare.scores import parse_metric, slices
from drirl.compare.stats import Bootstrap
from drirl.compare.tables import Analysis
from drirl.compare.trace import records_behind
from drirl.errors import DrirlError
from drirl.records import EvalItem, read_jsonl, write_jsonl

from .conftest import ROOT, item, write_cell


def write(out: Path, method: str = "dpo", seeds: tuple[int, ...] = (0, 1), model: str = "tiny") -> None:
    items = [
        item(method=method, model=model, seed=seed, item_id=f"p{n}", value=float(n > 0), cluster=f"{n // 2}")
        for seed in seeds
        for n in range(4)
    ]
    write_cell(out, model, method, items)


def test_values_are_prompts_by_seeds(tmp_path: Path) -> None:
    items = [
        item(method="dpo", seed=1, item_id="b", value=1.0, cluster="x", level="direct", category=2),
        item(method="dpo", seed=0, item_id="b", value=0.0, cluster="x", level="direct", category=2),
        item(method="dpo", seed=0, item_id="a", value=None),
        item(method="dpo", seed=1, item_id="a", value=0.5),
    ]
    write_cell(tmp_path, "tiny", "dpo", items)
    records = collect(tmp_path, ["tiny"], ["dpo"], [0, 1])
    scores = records.cells["tiny", "dpo"]["drirl_tiny_harmful", "refusal_rate"]
    assert [one.item_id for one in scores.items] == ["a", "b"]
    assert scores.seeds == (0, 1)
    np.testing.assert_array_equal(scores.values, [[np.nan, 0.5], [0.0, 1.0]])
    assert scores.clusters == ("drirl_tiny_harmful/a", "harmful/x")
    assert scores.higher_is_better


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_missing(tmp_path: Path, value: float) -> None:
    items = [item(method="dpo", item_id="a", value=value), item(method="dpo", item_id="b", value=0.5)]
    write_cell(tmp_path, "tiny", "dpo", items)
    key = ("drirl_tiny_harmful", "refusal_rate")
    scores = collect(tmp_path, ["tiny"], ["dpo"], [0]).cells["tiny", "dpo"][key]
    np.testing.assert_array_equal(scores.values, [[np.nan], [0.5]])
    assert [one.value for one in records_behind(tmp_path, "tiny", "dpo", *key)] == [None, 0.5]


def test_mean_of_seeds_by_hand() -> None:
    def of(*seeds: list[float | None]) -> float | None:
        return mean_of_seeds(item(seed=k, value=v) for k, values in enumerate(seeds) for v in values)

    assert of([1.0, 0.0], [1.0, None]) == 0.75  # 1/2 and 1
    assert of([1.0], [None]) is None
    assert of() is None


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            {"task_version": "1.0"},
            {"task_version": "1.1"},
            "scored on task version '1.0' in tiny/dpo, task version '1.1' in tiny/ppo; such scores do not "
            "compare: rerun the stage evaluate",
        ),
        (
            {"decode": {"max_new_tokens": 48, "temperature": 0.0}},
            {"decode": {"temperature": 0.0, "max_new_tokens": 64}},
            'decoded with \'{"max_new_tokens": 48, "temperature": 0.0}\' in tiny/dpo, with '
            '\'{"max_new_tokens": 64, "temperature": 0.0}\' in tiny/ppo',
        ),
    ],
)
def test_other_tasks_and_decoding_do_not_compare(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    write_cell(tmp_path, "tiny", "dpo", [item(method="dpo")], **one)
    write_cell(tmp_path, "tiny", "ppo", [item(method="ppo")], **other)
    with pytest.raises(DrirlError, match=re.escape(f"drirl_tiny_harmful, refusal_rate: {message}")):
        collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0])
    assert collect(tmp_path, ["tiny"], ["ppo"], [0]).cells
    write_cell(tmp_path, "tiny", "ppo", [item(method="ppo")], **one)
    assert len(collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0]).cells) == 2


def test_seeds_of_two_task_versions_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "evaluate" / "tiny" / "dpo" / "runs.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, json.dumps({**json.loads(second), "task_version": "2"})]) + "\n")
    with pytest.raises(DrirlError, match=r"runs\.jsonl: seeds of .* were scored on task versions 1 and 2"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1])


def test_a_missing_cell_is_listed_not_invented(tmp_path: Path) -> None:
    write(tmp_path)
    records = collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0, 1])
    assert records.missing == [("tiny", "ppo")]
    assert records.get("tiny", "ppo", "drirl_tiny_harmful", "refusal_rate") is None


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match="no records of the asked models and methods; run 'dvc repro'"):
        collect(tmp_path, ["tiny"], ["dpo"], [0])


def test_uneven_seeds_are_refused_unless_asked(tmp_path: Path) -> None:
    write(tmp_path, seeds=(0, 1))
    with pytest.raises(DrirlError, match=r"seeds \[0, 1\], expected \[0, 1, 2\]"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1, 2])
    records = collect(tmp_path, ["tiny"], ["dpo"], [0, 1, 2], allow_uneven=True)
    assert records.cells["tiny", "dpo"]["drirl_tiny_harmful", "refusal_rate"].seeds == (0, 1)


def test_a_metric_that_lacks_a_seed_is_refused(tmp_path: Path) -> None:
    items = [item(method="dpo", seed=seed, item_id="a") for seed in (0, 1)]
    items.append(item(method="dpo", seed=0, item_id="a", metric="degenerate_rate", value=0.0))
    write_cell(tmp_path, "tiny", "dpo", items)
    with pytest.raises(DrirlError, match="degenerate_rate lacks seed 1"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1])


def test_base_has_one_seed(tmp_path: Path) -> None:
    write(tmp_path, method="base", seeds=(0,))
    assert not collect(tmp_path, ["tiny"], ["base"], [0, 1, 2]).missing
    write(tmp_path, method="dpo", seeds=(0,))
    with pytest.raises(DrirlError, match="expected"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1, 2])


def test_a_record_twice(tmp_path: Path) -> None:
    write_cell(tmp_path, "tiny", "dpo", [item(method="dpo"), item(method="dpo")])
    with pytest.raises(DrirlError, match=r"item 'p0'.*is there twice"):
        collect(tmp_path, ["tiny"], ["dpo"], [0])


def test_a_record_of_another_cell(tmp_path: Path) -> None:
    write_cell(tmp_path, "tiny", "dpo", [item(method="ppo")])
    with pytest.raises(DrirlError, match="a record of tiny/ppo in the folder of tiny/dpo"):
        collect(tmp_path, ["tiny"], ["dpo"], [0])


def test_malformed_records_name_file_and_line(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "evaluate" / "tiny" / "dpo" / "items.jsonl"
    path.write_text(path.read_text() + '{"run_id": 3}\n')
    with pytest.raises(DrirlError, match=r"items\.jsonl:9: "):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1])


def test_an_empty_file_is_no_result(tmp_path: Path) -> None:
    write_cell(tmp_path, "tiny", "dpo", [])
    with pytest.raises(DrirlError, match="no records in it"):
        collect(tmp_path, ["tiny"], ["dpo"], [0])


def test_benchmarks_can_be_chosen_and_unknown_ones_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DrirlError, match="did you mean 'drirl_tiny_harmful'"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1], benchmarks=["drirl_tiny_harmfull"])
    records = collect(tmp_path, ["tiny"], ["dpo"], [0, 1], benchmarks=["drirl_tiny_harmful"])
    assert records.keys() == [("drirl_tiny_harmful", "refusal_rate")]


def test_degenerate_replies_are_pooled_over_benchmarks(tmp_path: Path) -> None:
    items = [
        item(method="dpo", item_id="a", metric="degenerate_rate", value=1.0, cluster="1"),
        item(
            method="dpo",
            item_id="a",
            metric="degenerate_rate",
            value=0.0,
            cluster="1",
            benchmark="drirl_tiny_help",
            kind="task",
        ),
    ]
    write_cell(tmp_path, "tiny", "dpo", items)
    scores = collect(tmp_path, ["tiny"], ["dpo"], [0]).cells["tiny", "dpo"]["all", "degenerate_rate"]
    assert scores.values.tolist() == [[1.0], [0.0]]
    assert scores.clusters == ("harmful/1", "task/1")


def test_slices_by_level_and_category(tmp_path: Path) -> None:
    items = [
        item(method="dpo", item_id="a", level="disguised", category=0, value=1.0),
        item(method="dpo", item_id="b", level="direct", category=0, value=0.0),
        item(method="dpo", item_id="c", level="direct", category=6, value=0.0),
    ]
    write_cell(tmp_path, "tiny", "dpo", items)
    records = collect(tmp_path, ["tiny"], ["dpo"], [0])
    whole = records.cells["tiny", "dpo"]["drirl_tiny_harmful", "refusal_rate"]
    assert [(part.metric, len(part.items)) for part in slices(whole)] == [
        ("refusal_rate[level=direct]", 2),
        ("refusal_rate[level=disguised]", 1),
        ("refusal_rate[category=Insult]", 2),
        ("refusal_rate[category=Ethics & Morality]", 1),
    ]
    part = records.get("tiny", "dpo", "drirl_tiny_harmful", "refusal_rate[category=Ethics & Morality]")
    assert part is not None
    assert part.items[0].item_id == "c"


def test_parse_metric() -> None:
    assert parse_metric("accuracy") == ("accuracy", None, "")
    assert parse_metric("refusal_rate[level=direct]") == ("refusal_rate", "level", "direct")
    with pytest.raises(DrirlError, match="expected a name"):
        parse_metric("refusal_rate[colour=red]")


def test_trace_returns_the_records_of_one_row(tmp_path: Path) -> None:
    items = [
        item(method="dpo", item_id="b", level="direct", value=1.0, seed=1),
        item(method="dpo", item_id="b", level="direct", value=0.0, seed=0),
        item(method="dpo", item_id="a", level="disguised", value=0.0, seed=0),
    ]
    write_cell(tmp_path, "tiny", "dpo", items)
    found = records_behind(tmp_path, "tiny", "dpo", "drirl_tiny_harmful", "refusal_rate[level=direct]")
    assert [(one.item_id, one.seed) for one in found] == [("b", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("method", "benchmark", "metric", "message"),
    [
        ("ppo", "drirl_tiny_harmful", "refusal_rate", "no records of tiny/ppo"),
        ("dpo", "drirl_tiny_harmfull", "refusal_rate", "did you mean 'drirl_tiny_harmful'"),
        ("dpo", "drirl_tiny_harmful", "refusal", "did you mean 'refusal_rate'"),
        ("dpo", "drirl_tiny_harmful", "refusal_rate[level=disguise]", "no level 'disguise'"),
        ("dpo", "training", "updates", "have no prompts"),
    ],
)
def test_trace_of_what_is_not_there(
    tmp_path: Path, method: str, benchmark: str, metric: str, message: str
) -> None:
    write(tmp_path)
    with pytest.raises(DrirlError, match=message):
        records_behind(tmp_path, "tiny", method, benchmark, metric)


AGAIN = "refusal_rate@refusal-prefix/1"


def judge_again(out: Path, method: str, values: list[float | None], seeds: tuple[int, ...] = (0, 1)) -> None:
    """Lay out another judge's verdicts on the replies of :func:`write`, as ``drirl judge run`` does."""
    items = [
        item(method=method, seed=seed, item_id=f"p{n}", value=value, cluster=f"{n // 2}")
        for seed in seeds
        for n, value in enumerate(values)
    ]
    write_cell(out / "scratch", "tiny", method, items, judge="refusal-prefix/1", metric=AGAIN)
    source = out / "scratch" / "evaluate" / "tiny" / method
    target = out / "judge" / "refusal-prefix-1" / "tiny" / method
    write_jsonl(target / "items.jsonl", [replace(i, metric=AGAIN, judge="refusal-prefix/1") for i in items])
    write_jsonl(target / "runs.jsonl", read_jsonl(source / "runs.jsonl"))


def test_other_judges_are_columns_of_their_own(tmp_path: Path) -> None:
    for method in ("dpo", "ppo"):
        write(tmp_path, method)
    judge_again(tmp_path, "dpo", [0.0, 0.0, 1.0, None])
    key = ("drirl_tiny_harmful", AGAIN)
    assert key not in collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0, 1]).keys()
    records = collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0, 1], judges=["refusal-prefix-1"])
    scores = records.cells["tiny", "dpo"][key]
    assert (scores.judge, scores.higher_is_better) == ("refusal-prefix/1", True)
    assert np.nanmean(scores.values) == pytest.approx(1 / 3)
    assert records.cells["tiny", "dpo"]["drirl_tiny_harmful", "refusal_rate"].values.mean() == 0.75
    assert records.get("tiny", "ppo", *key) is None  # not judged: missing
    analysis = Analysis(records, Bootstrap(draws=50), Published({}, {}))
    assert ("drirl_tiny_harmful, refusal rate@refusal-prefix/1", *key) in headline_columns(analysis)
    chance = analysis.improvement("tiny", "dpo", "ppo")
    assert chance is not None
    assert chance.n == 1  # the replies count once
    behind = records_behind(tmp_path, "tiny", "dpo", *key)
    assert [one.value for one in behind] == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, None, None]


def test_an_unknown_judge_and_uneven_seeds_of_one_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DrirlError, match="none has been run"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1], judges=["refusal-prefix-1"])
    judge_again(tmp_path, "dpo", [1.0], seeds=(0,))
    with pytest.raises(DrirlError, match="did you mean 'refusal-prefix-1'"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1], judges=["refusal-prefx-1"])
    with pytest.raises(DrirlError, match="judge/refusal-prefix-1/tiny/dpo: seeds"):
        collect(tmp_path, ["tiny"], ["dpo"], [0, 1], judges=["refusal-prefix-1"])


def _hhh(sizes: dict[str, int], right: Callable[[str, int], float | None], method: str) -> list[EvalItem]:
    return [
        item(
            benchmark=f"drirl_hhh_{name}",
            item_id=f"p{k}",
            value=right(name, k),
            metric="accuracy",
            method=method,
        )
        for name, size in sizes.items()
        for k in range(size)
    ]


def _analysis(out: Path, *methods: str) -> Analysis:
    records = collect(out, ["tiny"], methods, [0], allow_uneven=True)
    return Analysis(records, Bootstrap(draws=400), Published({}, {}))


SIZES = {"harmless": 20, "helpful": 180, "honest": 180, "other": 180}


def test_a_group_is_scored_by_the_mean_over_its_tasks(tmp_path: Path) -> None:
    """Paper section 8: AdvGLUE and HHH are means over tasks, whatever their sizes."""
    right = lambda name, k: 1.0 if name == "harmless" else float(k % 4 == 0)  # noqa: E731
    items = _hhh(SIZES, right, "base")
    write_cell(tmp_path, "tiny", "base", items)
    analysis = _analysis(tmp_path, "base")
    row = analysis.row("tiny", "base", "drirl_hhh", "accuracy")
    assert row is not None
    assert row.value == pytest.approx((1 + 3 * 0.25) / 4)  # of all prompts: 155 of 560
    assert row.n == 560
    # Wilson's interval of 560 prompts; 1.96 standard errors of the four means are 0.024
    assert 0.39 < float(row.low or 0) < 0.4375 < float(row.high or 1) < 0.49
    titles = [title for title, _, _ in headline_columns(analysis)]
    assert "HHH" in titles
    assert not [title for title in titles if title.startswith("drirl_hhh_")]
    assert [benchmark for _, benchmark, _ in parts_columns(analysis)] == sorted(MEANS["drirl_hhh"][1])
    assert len(records_behind(tmp_path, "tiny", "base", "drirl_hhh", "accuracy")) == 560
    only = collect(tmp_path, ["tiny"], ["base"], [0], benchmarks=["drirl_hhh"])
    assert ("drirl_hhh", "accuracy") in only.cells["tiny", "base"]

    write_cell(tmp_path, "tiny", "base", [i for i in items if i.benchmark != "drirl_hhh_other"])
    assert (
        _analysis(tmp_path, "base").row("tiny", "base", "drirl_hhh", "accuracy") is None
    )  # a part is missing


def test_a_mean_over_tasks_that_are_all_right_is_as_sure_as_one_over_prompts(tmp_path: Path) -> None:
    write_cell(tmp_path, "tiny", "base", _hhh(SIZES, lambda name, k: 1.0, "base"))
    row = _analysis(tmp_path, "base").row("tiny", "base", "drirl_hhh", "accuracy")
    assert row is not None
    assert (row.value, row.high) == (1.0, 1.0)
    assert float(row.low or 0) > 0.99


def test_prompts_that_one_policy_lacks_make_no_difference_of_means(tmp_path: Path) -> None:
    write_cell(tmp_path, "tiny", "sft", _hhh(SIZES, lambda name, k: float(k % 2), "sft"))
    gaps = lambda name, k: None if name == "harmless" and k < 10 else float(k % 2)  # noqa: E731
    write_cell(tmp_path, "tiny", "dpo", _hhh(SIZES, gaps, "dpo"))
    gap = _analysis(tmp_path, "sft", "dpo").tested("tiny", "sft", "dpo", "drirl_hhh", "accuracy")
    assert gap is not None
    assert gap.estimate is not None
    assert gap.estimate.value == pytest.approx(0.0, abs=1e-12)
    assert gap.p_permutation == 1.0
    assert gap.p_mcnemar is None


def test_a_seed_without_a_task_has_no_mean_over_tasks(tmp_path: Path) -> None:
    scored = _hhh(SIZES, lambda name, k: 1.0, "sft")
    again = [replace(i, seed=1, value=None if i.benchmark == "drirl_hhh_other" else i.value) for i in scored]
    write_cell(tmp_path, "tiny", "sft", scored + again)
    row = _analysis(tmp_path, "sft").row("tiny", "sft", "drirl_hhh", "accuracy")
    assert row is not None
    assert row.value is None


def test_groups_are_those_that_lm_eval_averages_so() -> None:
    found = {}
    for path in (ROOT / "benchmarks").rglob("_group.yaml"):
        group = yaml.safe_load(path.read_text())
        for how in group.get("aggregate_metric_list", []):
            if how["aggregation"] == "mean" and how["weight_by_size"] is False:
                found[group["group"]] = (how["metric"], tuple(group["task"]))
    assert found == MEANS
