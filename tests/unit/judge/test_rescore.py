"""Saved completions scored by another judge: columns, directions, counts, what is done is not done again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_world import JudgeServer, gullible

from drirl.errors import DrirlError
from drirl.judge.registry import find_judge
from drirl.judge.rescore import cells, judge_cell, replies, rescore
from drirl.judge.settings import JudgeSettings
from drirl.records import EvalItem, RunRecord, read_json, read_jsonl, write_jsonl

SETTINGS = JudgeSettings()
REPLIES = [
    "wants: x #### I can't help with that.",
    "risk: none #### Take a pan.",
    "I must decline #### Sure. Take it.",
    "Unfortunately the shop is closed.",
]


def _write(out: Path, model: str, method: str, seeds: tuple[int, ...] = (0, 1)) -> Path:
    items, runs = [], []
    for seed in seeds:
        run_id = f"{model}/{method}/seed{seed}"
        for benchmark, metric, up in (("bad", "refusal_rate", True), ("good", "false_refusal_rate", False)):
            for name, higher in ((metric, up), ("degenerate_rate", False)):
                for k, reply in enumerate(REPLIES):
                    items.append(
                        EvalItem(
                            run_id, method, model, seed, benchmark, f"{benchmark}{k}", f"Question {k}?",
                            reply, name, 0.0, "x/1", cluster=str(k), finished=k != 3,
                        )
                    )  # fmt: skip
                runs.append(
                    RunRecord(
                        run_id, method, model, seed, benchmark, name, higher, 0.0, 0.0, 4, "x/1", "1.0",
                        {"temperature": 0.0}, f"hash{seed}", "template",
                    )
                )  # fmt: skip
    folder = out / "evaluate" / model / method
    write_jsonl(folder / "items.jsonl", items)
    write_jsonl(folder / "runs.jsonl", runs)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for model in ("m1", "m2"):
        for method in ("base", "grpo"):
            _write(tmp_path, model, method)
    return tmp_path


def _cells(out: Path, model: str | None = "m1", method: str | None = "base") -> list:
    return cells(out, ["m2", "m1"], ["grpo", "base"], model=model, method=method)


def test_cells_come_in_the_order_of_params(out: Path) -> None:
    found = [(c.model, c.method) for c in _cells(out, None, None)]
    assert found == [("m2", "grpo"), ("m2", "base"), ("m1", "grpo"), ("m1", "base")]
    with pytest.raises(DrirlError, match=r"no saved completions of 'grop'; .*did you mean 'grpo'"):
        _cells(out, None, "grop")
    with pytest.raises(DrirlError, match="run 'dvc repro'"):
        _cells(out / "nothing")


def test_a_string_matcher_in_columns_of_its_own(out: Path) -> None:
    items, runs, counts = judge_cell(find_judge("refusal-prefix", SETTINGS), _cells(out)[0])
    assert {i.metric for i in items} == {
        "refusal_rate@refusal-prefix/1",
        "false_refusal_rate@refusal-prefix/1",
    }
    assert {i.judge for i in items} == {"refusal-prefix/1"}
    assert [i.value for i in items[:4]] == [1.0, 0.0, 0.0, 1.0]  # replies, not drafts
    assert items[0].response == REPLIES[0]
    assert [(r.benchmark, r.metric, r.higher_is_better, r.value, r.n) for r in runs[:2]] == [
        ("bad", "refusal_rate@refusal-prefix/1", True, 0.5, 4),
        ("good", "false_refusal_rate@refusal-prefix/1", False, 0.5, 4),
    ]
    assert runs[0].stderr == pytest.approx((4 * 0.25 / 3 / 4) ** 0.5)
    assert (runs[0].policy_hash, runs[2].policy_hash) == ("hash0", "hash1")
    assert runs[0].config["judge"]["malformed"] == 0
    assert counts.replies == 16


def test_three_classes_have_a_second_column(out: Path) -> None:
    items, runs, _ = judge_cell(find_judge("refusal-classes", SETTINGS), _cells(out)[0], ["good"])
    assert [(r.metric, r.higher_is_better) for r in runs[:2]] == [
        ("false_refusal_rate@refusal-classes/1", False),
        ("partial_refusal_rate@refusal-classes/1", False),
    ]
    assert items[0].raw == {"verdict": "full_refusal"}
    assert {i.benchmark for i in items} == {"good"}


def test_broken_replies_are_read_on_every_benchmark(out: Path) -> None:
    items, runs, _ = judge_cell(find_judge("degenerate-rules", SETTINGS), _cells(out)[0])
    assert [i.raw["verdict"] for i in items[:4]] == ["sound", "sound", "sound", "cut_off"]
    assert {r.metric for r in runs} == {"degenerate_rate@degenerate-rules/1"}
    assert all(not r.higher_is_better for r in runs)


def test_a_harm_judge_reads_only_where_refusing_is_right(out: Path) -> None:
    assert len(replies(_cells(out)[0], "harm")) == 8
    with pytest.raises(
        DrirlError, match="of kind 'harm' has nothing to read in benchmark 'good'; known: bad"
    ):
        replies(_cells(out)[0], "harm", ["good"])


def test_written_once_and_again_only_when_something_changed(out: Path) -> None:
    judge = find_judge("refusal-keywords", SETTINGS)
    before = {p: p.read_bytes() for p in (out / "evaluate").rglob("*.jsonl")}
    first = list(rescore(judge, _cells(out, method=None), out))
    assert [counts is not None for _, counts in first] == [True, True]
    folder = out / "judge" / "refusal-keywords-1" / "m1" / "base"
    records = read_jsonl(folder / "items.jsonl", EvalItem)
    assert len(records) == 16
    assert read_json(folder / "summary.json")["counts"]["replies"] == 16
    written = (folder / "items.jsonl").read_bytes(), (folder / "runs.jsonl").read_bytes()
    assert [counts for _, counts in rescore(judge, _cells(out, method=None), out)] == [None, None]
    list(rescore(judge, _cells(out), out, force=True))
    assert written == ((folder / "items.jsonl").read_bytes(), (folder / "runs.jsonl").read_bytes())
    assert before == {p: p.read_bytes() for p in (out / "evaluate").rglob("*.jsonl")}
    _write(out, "m1", "base", seeds=(0,))
    assert [counts is not None for _, counts in rescore(judge, _cells(out, method=None), out)] == [
        False,
        True,
    ]
    (folder / "summary.json").write_text("{")  # unreadable: done again, not trusted
    assert next(iter(rescore(judge, _cells(out), out)))[1] is not None


def test_malformed_verdicts_are_counted_and_missing_not_zero(
    out: Path, serve: Callable[..., JudgeServer], shared: Callable[..., JudgeSettings]
) -> None:
    server = serve(lambda text, _: "nonsense" if "Question 1" in text else gullible(text))
    judge = find_judge("asked", shared(url=server.url))
    ((_, counts),) = rescore(judge, _cells(out), out, benchmarks=["bad"])
    assert counts is not None
    assert (counts.replies, counts.malformed, counts.without) == (8, 2, 2)
    folder = out / "judge" / "asked" / "m1" / "base"
    items = read_jsonl(folder / "items.jsonl", EvalItem)
    refusal = [i for i in items if i.metric.startswith("refusal_rate@asked/refusal3-1-")]
    assert [i.value for i in refusal[:4]] == [1.0, None, 0.0, 0.0]
    assert refusal[1].raw["verdict"] == "malformed"
    run = read_jsonl(folder / "runs.jsonl", RunRecord)[0]
    assert (run.value, run.n) == (pytest.approx(1 / 3), 3)
    assert run.config["judge"]["malformed"] == 1
    assert json.loads((folder / "summary.json").read_text())["cache_key"] == judge.cache_key


def test_cells_before_a_failure_stay(
    out: Path, serve: Callable[..., JudgeServer], shared: Callable[..., JudgeSettings]
) -> None:
    server = serve()
    judge = find_judge("asked", shared(url=server.url, retries=0))
    steps = iter(rescore(judge, _cells(out, method=None), out))
    next(steps)
    server.answer = lambda *_: (500, {"error": "down"})
    items = [dataclasses.replace(i, prompt=f"Other {i.prompt}") for i in _cells(out)[0].read()[0]]
    write_jsonl(out / "evaluate" / "m1" / "base" / "items.jsonl", items)
    with pytest.raises(DrirlError, match="the replies so far are kept"):
        next(steps)
    assert (out / "judge" / "asked" / "m1" / "grpo" / "items.jsonl").is_file()
    assert not (out / "judge" / "asked" / "m1" / "base").exists()


def test_records_that_cannot_be_read(out: Path) -> None:
    folder = out / "evaluate" / "m1" / "base"
    judge = find_judge("refusal-rules", SETTINGS)
    lines = (folder / "items.jsonl").read_text().splitlines()
    for text, match in (
        ("", "no record in it"),
        (lines[0] + "\n" + lines[1][:50], r"items\.jsonl:2: not valid JSON"),
        (lines[0].replace('"schema_version": 1', '"schema_version": 99'), "schema version 99"),
    ):
        (folder / "items.jsonl").write_text(text)
        with pytest.raises(DrirlError, match=match):
            judge_cell(judge, _cells(out)[0])
