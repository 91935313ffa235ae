"""Exports from records alone: lm-eval's own keys, a model card that reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from lm_eval.result_schema import EvalResults

from drirl.errors import DrirlError
from drirl.evaluate.export import export_records, lm_eval_results, model_card, read_policies
from drirl.records import RunRecord, write_jsonl

CONFIG: dict[str, Any] = {
    "profile": "tiny",
    "meaningful": True,
    "dtype": "float32",
    "evaluate": {"split": "test", "batch_size": 64, "limit": None},
    "shared": {"updates": 50, "lora": None},
    "method": {"lr": 0.001, "hardness": {"mask": "quantile"}},
}


def run(method: str = "dr_irl", metric: str = "refusal_rate", **values: Any) -> RunRecord:
    base: dict[str, Any] = {
        "run_id": f"toy/{method}/seed1",
        "method": method,
        "model": "toy",
        "seed": 1,
        "benchmark": "drirl_tiny_harmful",
        "metric": metric,
        "higher_is_better": metric != "degenerate_rate",
        "value": 0.75,
        "stderr": 0.25,
        "n": 4,
        "judge": "refusal-rules/1",
        "task_version": "1.0",
        "decode": {"temperature": 0.0, "max_new_tokens": 56},
        "policy_hash": "abcd",
        "template_hash": "0123",
        "config": CONFIG,
        "versions": {"lm-eval": "0.4.13", "transformers": "5.23.0"},
    }
    return RunRecord(**(base | values))


RUNS = [
    run(),
    run(metric="degenerate_rate", value=0.0, stderr=0.0, judge="degenerate-rules/1"),
    run(metric="acc", benchmark="choice", decode={"scored": "loglikelihood"}, value=None, stderr=None, n=0),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluate"
    write_jsonl(folder / "toy" / "dr_irl" / "runs.jsonl", RUNS)
    write_jsonl(folder / "toy" / "base" / "runs.jsonl", [run("base", seed=0, run_id="toy/base/seed0")])
    return folder


def test_every_policy_is_exported_and_the_bytes_repeat(source: Path, tmp_path: Path) -> None:
    for target in ("a", "b"):
        export_records(source, tmp_path / target, formats=["lm-eval", "model-card"])
    files = sorted(p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*.*"))
    assert files == [
        "lm-eval/toy/base/seed0/results_abcd.json",
        "lm-eval/toy/dr_irl/seed1/results_abcd.json",
        "model-card/toy/dr_irl/seed1/README.md",  # the untrained base has no card
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_results_have_the_keys_of_lm_eval_and_the_values_of_the_records(source: Path) -> None:
    results = lm_eval_results(read_policies(source)["toy", "dr_irl", 1])
    known = set(EvalResults.__annotations__)
    assert set(results) <= known
    assert known - set(results) <= {"groups", "samples"}
    assert results["results"]["drirl_tiny_harmful"] == {
        "name": "drirl_tiny_harmful",
        "alias": "drirl_tiny_harmful",
        "sample_len": 4,
        "refusal_rate,none": 0.75,
        "refusal_rate_stderr,none": 0.25,
        "degenerate_rate,none": 0.0,
        "degenerate_rate_stderr,none": 0.0,
    }
    assert results["results"]["choice"]["acc,none"] == "N/A"  # missing, not 0
    assert results["higher_is_better"]["drirl_tiny_harmful"] == {
        "refusal_rate": True,
        "degenerate_rate": False,
    }
    assert results["n-samples"]["drirl_tiny_harmful"] == {"original": 4, "effective": 4}
    assert results["versions"] == {"choice": 1.0, "drirl_tiny_harmful": 1.0}
    assert results["configs"]["choice"]["output_type"] == "multiple_choice"
    assert results["configs"]["drirl_tiny_harmful"]["generation_kwargs"]["max_gen_toks"] == 56
    json.dumps(results, allow_nan=False)


def test_the_card_reads_back_as_metadata_and_table() -> None:
    text = model_card(RUNS)
    card = ModelCard(text)
    assert card.data.library_name == "transformers"
    found = {(r.dataset_type, r.metric_type): r for r in card.data.eval_results}
    assert set(found) == {("drirl_tiny_harmful", "refusal_rate"), ("drirl_tiny_harmful", "degenerate_rate")}
    refusal = found["drirl_tiny_harmful", "refusal_rate"]
    assert (refusal.metric_value, refusal.metric_args) == (0.75, {"n": 4, "judge": "refusal-rules/1"})
    assert (refusal.dataset_split, refusal.dataset_revision) == ("test", "1.0")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| drirl_tiny_harmful | 1.0 | refusal_rate | higher | 0.7500 | 0.2500 | 4 | refusal-rules/1 |",
        "| drirl_tiny_harmful | 1.0 | degenerate_rate | lower | 0.0000 | 0.0000 | 4 | degenerate-rules/1 |",
        "| choice | 1.0 | acc | higher | missing | missing | 0 | refusal-rules/1 |",
    ]
    assert "- `hardness.mask`: `quantile`" in text
    assert "wiring check" not in text
    assert "wiring check" in model_card([run(config=CONFIG | {"meaningful": False})])


def test_hostile_names_stay_in_their_cells() -> None:
    text = model_card([run(judge="a|b<script>`x`\n# y")])
    assert "<script>" not in text.partition("---\n\n")[2]
    (row,) = [line for line in text.splitlines() if line.startswith("| drirl_tiny")]
    assert row.endswith("| a\\|b&lt;script>'x' # y |")
    assert ModelCard(text).data.eval_results[0].metric_args["judge"] == "a|b<script>`x`\n# y"


def test_nothing_to_export_is_one_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match="no run records there; run 'dvc repro' or 'drirl evaluate'"):
        export_records(tmp_path / "empty", tmp_path / "x", formats=["lm-eval"])
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "runs.jsonl").write_text("")
    with pytest.raises(DrirlError, match="no run records there"):
        export_records(tmp_path / "hollow", tmp_path / "x", formats=["lm-eval"])
    with pytest.raises(DrirlError, match="no policy there that was trained"):
        export_records(source, tmp_path / "x", formats=["model-card"], methods=["base"])
    with pytest.raises(
        DrirlError, match="unknown format 'lm_eval'; known: lm-eval, model-card; did you mean"
    ):
        export_records(source, tmp_path / "x", formats=["lm_eval"])
    with pytest.raises(DrirlError, match=r"--methods: no records of 'dr_ril'.*did you mean 'dr_irl'"):
        export_records(source, tmp_path / "x", formats=["lm-eval"], methods=["dr_ril"])
    assert not (tmp_path / "x").exists()


def test_records_of_another_version_or_not_utf8_are_named(source: Path, tmp_path: Path) -> None:
    path = source / "toy" / "dr_irl" / "runs.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(DrirlError, match=r"runs\.jsonl:1: schema version 7, this drirl reads 1; rerun"):
        export_records(source, tmp_path / "x", formats=["lm-eval"])
    path.write_bytes(b"\xff" + text.encode())
    with pytest.raises(DrirlError, match=r"runs\.jsonl: not UTF-8 text"):
        export_records(source, tmp_path / "x", formats=["lm-eval"])
    path.write_text(text[:200])
    with pytest.raises(DrirlError, match=r"runs\.jsonl:1: not valid JSON"):
        export_records(source, tmp_path / "x", formats=["lm-eval"])
    assert not (tmp_path / "x").exists()


def test_one_policy_in_two_folders_is_refused(source: Path) -> None:
    write_jsonl(source / "again" / "runs.jsonl", RUNS)
    with pytest.raises(DrirlError, match="records of toy/dr_irl/seed1 are also in"):
        read_policies(source)
