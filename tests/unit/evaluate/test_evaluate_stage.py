"""The stage: policies found, records written whole, any model folder scored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from drirl.align.settings import AlignSettings, Shared
from drirl.config import Params, RunSettings
from drirl.data.settings import DataSettings
from drirl.errors import DrirlError
from drirl.evaluate import stage
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import EvalItem, RunRecord, read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _inside_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "project_root", lambda: ROOT)  # params.yaml is not part of these tests


def params(out: Path, **evaluate: object) -> Params:
    values = {"tasks": ["drirl_tiny_help"], "max_new_tokens": 4, "mean_reward": False} | evaluate
    return Params.model_construct(
        run=RunSettings(profile="test", models=["toy"], methods=["base", "sft"], seeds=[0, 4], out=out),
        data=DataSettings.model_construct(root=""),
        align=AlignSettings.model_construct(
            shared=Shared.model_construct(updates=3), methods={"sft": {"lr": 0.1}}
        ),
        evaluate=EvaluateSettings(**values),
    )


@pytest.mark.slow
def test_a_cell_scores_its_seeds_side_by_side(restless_policy: Path, tiny_policy: Path, out: Path) -> None:
    cell = out / "align" / "toy" / "sft"
    shutil.copytree(restless_policy, cell / "seed0" / "policy")
    shutil.copytree(tiny_policy, cell / "seed4" / "policy")
    stage.run(params(out), "toy", "sft")
    folder = out / "evaluate" / "toy" / "sft"
    items, runs = read_jsonl(folder / "items.jsonl", EvalItem), read_jsonl(folder / "runs.jsonl", RunRecord)
    assert [(run.seed, run.metric) for run in runs] == [
        (seed, metric) for seed in (0, 4) for metric in ("accuracy", "degenerate_rate")
    ]
    assert len({run.policy_hash for run in runs}) == 2
    assert len(items) == 8
    summary = read_json(folder / "summary.json")["drirl_tiny_help"]
    broken = [run.value for run in runs if run.metric == "degenerate_rate"]
    assert summary["degenerate_rate"] == pytest.approx(sum(broken) / 2)
    assert runs[0].config["method"] == {"lr": 0.1}
    cost = read_json(out / "cost" / "evaluate" / "toy__sft__seed4.json")
    assert cost["generated_tokens"] == 2 * 4
    assert cost["wall_s"] > 0
    text = (folder / "items.jsonl").read_text() + (folder / "runs.jsonl").read_text()
    assert str(out) not in text
    before = (folder / "items.jsonl").read_bytes()
    stage.run(params(out), "toy", "sft")
    assert (folder / "items.jsonl").read_bytes() == before


def test_what_is_missing_is_named(out: Path) -> None:
    with pytest.raises(DrirlError, match=r"sft/seed0/policy: no policy there"):
        stage.run(params(out), "toy", "sft")
    with pytest.raises(DrirlError, match="no base policy there"):
        stage.run(params(out), "toy", "base")
    with pytest.raises(DrirlError, match="no category rewards there"):
        stage.run(params(out, mean_reward=True), "toy", "sft")
    assert not (out / "evaluate").exists()


def test_any_folder_is_scored(restless_policy: Path, out: Path, tmp_path: Path) -> None:
    where = tmp_path / "records"
    found = stage.evaluate_paths(
        params(out), models=[str(restless_policy)], tasks=["drirl_tiny_benign"], output=where
    )
    assert list(found) == [where]
    (run, _) = read_jsonl(where / "runs.jsonl", RunRecord)
    assert (run.model, run.method, run.benchmark) == (restless_policy.name, "external", "drirl_tiny_benign")
    assert run.config["evaluate"]["tasks"] == ["drirl_tiny_benign"]
    assert set(read_json(where / "summary.json")) == {"drirl_tiny_benign"}
    assert not (out / "cost").exists()


@pytest.mark.slow
def test_several_policies_in_one_process_have_the_records_of_each_alone(
    restless_policy: Path, tiny_policy: Path, out: Path, tmp_path: Path
) -> None:
    models = [str(restless_policy), str(tiny_policy)]
    tasks = ["drirl_tiny_benign", "drirl_tiny_help"]
    names = stage.names_of(models)
    where = tmp_path / "records"
    folders = list(stage.evaluate_paths(params(out, cache=False), models=models, tasks=tasks, output=where))
    assert folders == [where / name for name in names]
    for model, folder in zip(models, folders):
        alone = tmp_path / "alone"
        list(stage.evaluate_paths(params(out, cache=False), models=[model], tasks=tasks, output=alone))
        for name in ("items.jsonl", "runs.jsonl", "summary.json"):
            assert (folder / name).read_bytes() == (alone / name).read_bytes()


def test_a_bad_model_keeps_what_was_scored_before_it(
    restless_policy: Path, out: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    models, where = [str(restless_policy), str(bad)], tmp_path / "records"
    with pytest.raises(DrirlError, match="bad' is not a folder or hub id of a"):
        list(stage.evaluate_paths(params(out), models=models, tasks=["drirl_tiny_help"], output=where))
    assert [path.name for path in where.iterdir()] == [restless_policy.name]
    assert read_jsonl(where / restless_policy.name / "runs.jsonl", RunRecord)


def test_policies_are_named_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/seed0/policy", "a/seed1/policy", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    paths = [str(folder) for folder in folders]
    assert stage.names_of(paths[:1]) == ["policy"]
    assert stage.names_of(paths[:2]) == ["seed0-policy", "seed1-policy"]
    assert stage.names_of([paths[2], "owner/model@v1"]) == ["b", "model"]
    with pytest.raises(DrirlError, match="is given twice"):
        stage.names_of([paths[0], paths[0]])
    with pytest.raises(DrirlError, match="two revisions of one model"):
        stage.names_of(["owner/model@v1", "owner/model@v2"])


def test_known_scores_keep_the_bytes_and_the_cost_of_a_cell(restless_policy: Path, out: Path) -> None:
    import json

    shutil.copytree(restless_policy, out / "align" / "toy" / "sft" / "seed0" / "policy")
    values = params(out)
    values = values.model_copy(update={"run": values.run.model_copy(update={"seeds": [0]})})
    stage.run(values, "toy", "sft")
    folder, cost = out / "evaluate" / "toy" / "sft", out / "cost" / "evaluate" / "toy__sft__seed0.json"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    tokens = read_json(cost)["generated_tokens"]
    (entry,) = (out / "cache" / "scores").rglob("*.jsonl")
    about, _, body = entry.read_text().partition("\n")
    changed = json.loads(about) | {"cost": {"wall_s": 1000.0, "cpu_s": 900.0, "peak_rss_bytes": 1e12}}
    entry.write_text(json.dumps(changed) + "\n" + body)
    stage.run(values, "toy", "sft")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    again = read_json(cost)
    assert (again["known_tasks"], again["peak_rss_bytes"]) == (1, 10**12)
    assert again["generated_tokens"] == tokens > 0
    assert again["wall_s"] > 1000
    assert again["cpu_s"] > 900


def test_a_folder_that_is_no_model_is_one_line_and_leaves_nothing(out: Path, tmp_path: Path) -> None:
    (tmp_path / "not-a-model").mkdir()
    with pytest.raises(DrirlError, match="is not a folder or hub id of a") as error:
        list(
            stage.evaluate_paths(
                params(out),
                models=[str(tmp_path / "not-a-model")],
                tasks=["drirl_tiny_help"],
                output=tmp_path / "r",
            )
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


def test_the_summary_is_the_mean_over_seeds() -> None:
    def record(seed: int, value: float | None) -> RunRecord:
        return RunRecord("r", "m", "b", seed, "t", "x", True, value, None, 1, "j", "1", {}, "", "")

    assert stage.summarise([record(0, 0.25), record(1, 0.75), record(2, None)]) == {"t": {"x": 0.5}}
