from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.align import stage
from drirl.config import Params, project_root, validate
from drirl.errors import DrirlError
from drirl.records import read_json, write_json, write_jsonl

from .conftest import SMALL, make_rows

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def params(tiny_policy: Path, banks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The shipped params.yaml with everything small, and the outputs of the stages before ``align``."""
    import shutil

    monkeypatch.chdir(ROOT)
    values = yaml.safe_load((ROOT / "profiles" / "tiny.yaml").read_text())
    values["run"].update(out=str(tmp_path / "out"), models=["tiny-llama"], seeds=[0, 1], device="cpu")
    values["align"]["shared"].update(SMALL.model_dump(mode="json"))
    rows = make_rows()
    write_jsonl(tmp_path / "out" / "data" / "prompts.jsonl", [prompt for prompt, _ in rows])
    write_jsonl(tmp_path / "out" / "data" / "demos.jsonl", [demo for _, demo in rows])
    shutil.copytree(tiny_policy, tmp_path / "out" / "base" / "tiny-llama")
    shutil.copytree(banks, tmp_path / "out" / "reward" / "tiny-llama")
    assert project_root() == ROOT
    return validate(values)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Train the seeds in this process, for speed; the list says which seeds were trained."""
    trained: list[int] = []

    def run(function: Callable[[Any], Any], items: list[Any], **_: Any) -> None:
        for item in items:
            trained.append(item.seed)
            function(item)

    monkeypatch.setattr(stage, "map_processes", run)
    return trained


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_cell_leaves_a_folder_per_seed_and_is_kept_when_nothing_changed(
    params: Params, here: list[int]
) -> None:
    cell = params.run.out / "align" / "tiny-llama" / "sft"
    stage.run(params, model="tiny-llama", method="sft")
    assert sorted(p.name for p in cell.iterdir()) == ["seed0", "seed1"]
    record = read_json(cell / "seed1" / "run.json")
    assert (record["method"], record["seed"], record["updates"]) == ("sft", 1, 2)
    assert record["config"]["lr"] == params.align.methods["sft"]["lr"]
    assert record["trained_tokens"] > 0
    first = files(cell)
    text = b"".join(first.values())
    assert str(params.run.out).encode() not in text
    stage.run(params, model="tiny-llama", method="sft")
    assert here == [0, 1]
    assert files(cell) == first
    assert (params.run.out / "cost" / "align" / "tiny-llama__sft.json").is_file()
    assert (params.run.out / "cost" / "align" / "tiny-llama__sft__seed0.json").is_file()


def test_what_a_seed_depends_on_retrains_it_and_nothing_else_does(params: Params, here: list[int]) -> None:
    def go(method: str = "sft", **shared: Any) -> list[int]:
        here.clear()
        changed = params.align.shared.model_copy(update=shared)
        one = params.model_copy(update={"align": params.align.model_copy(update={"shared": changed})})
        stage.run(one, model="tiny-llama", method=method)
        return list(here)

    assert go() == [0, 1]
    assert go(updates=3) == [0, 1]
    assert go(updates=3) == []
    bank = params.run.out / "reward" / "tiny-llama" / "static" / "bank.json"
    write_json(bank, {**read_json(bank), "info": {"changed": True}})
    assert go(updates=3) == []  # SFT uses no reward
    demos = params.run.out / "data" / "demos.jsonl"
    demos.write_text(demos.read_text().replace("Sure.", "Yes."))
    assert go(updates=3) == [0, 1]


def test_the_llm_that_splits_is_part_of_a_seed(params: Params, tmp_path: Path) -> None:
    llm = tmp_path / "splitter"
    llm.mkdir()
    (llm / "config.json").write_text("{}")
    values = {"hardness": {"splitter": "llm", "generator": {"kind": "transformers", "model": str(llm)}}}

    def hashes() -> list[str]:
        jobs = stage.jobs_of(params, model="tiny-llama", method="dr_irl", values=values)
        return [job.config_hash for job in jobs]

    before = hashes()
    assert hashes() == before
    (llm / "config.json").write_text("{ }")
    assert not set(hashes()) & set(before)


def test_leftovers_and_foreign_seeds_are_removed(params: Params, here: list[int]) -> None:
    cell = params.run.out / "align" / "tiny-llama" / "base"
    for name in (".seed0.half", "seed7"):
        (cell / name).mkdir(parents=True)
        (cell / name / "run.json").write_text("{}")
    (cell / "stray.txt").write_text("x")
    stage.run(params, model="tiny-llama", method="base")
    assert sorted(os.listdir(cell)) == ["seed0", "seed1"]
    assert sorted(os.listdir(cell / "seed0")) == ["policy", "run.json"]
    kept = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert kept <= set(os.listdir(cell / "seed0" / "policy"))


def test_an_interrupted_seed_leaves_the_old_one_or_nothing(
    params: Params, here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drirl.align.interface.Inputs.save", stop)
    with pytest.raises(KeyboardInterrupt):
        stage.run(params, model="tiny-llama", method="sft")
    assert os.listdir(params.run.out / "align" / "tiny-llama" / "sft") == []


def test_a_hub_policy_is_pointed_to(params: Params, here: list[int]) -> None:
    folder = params.run.out / "base" / "tiny-llama"
    write_json(folder / "policy.json", {"path": "some/model", "revision": "abc"})
    stage.run(params, model="tiny-llama", method="base")
    pointer = params.run.out / "align" / "tiny-llama" / "base" / "seed0" / "policy" / "policy.json"
    assert read_json(pointer) == {"path": "some/model", "revision": "abc"}
    assert not list(pointer.parent.glob("*.safetensors"))


def test_missing_inputs_are_named(params: Params, here: list[int]) -> None:
    demos = params.run.out / "data" / "demos.jsonl"
    lines = demos.read_text().splitlines()
    demos.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(DrirlError, match="no demonstration for prompt h00"):
        stage.run(params, model="tiny-llama", method="sft")
    demos.unlink()
    with pytest.raises(DrirlError, match=r"demos\.jsonl: no such file"):
        stage.run(params, model="tiny-llama", method="sft")


@pytest.mark.slow
def test_seeds_in_processes_give_the_same_bytes_as_here(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real fork server: same outputs as the in-process run, and the caller never imports torch."""
    stage.run(params, model="tiny-llama", method="grpo_irl")
    cell = params.run.out / "align" / "tiny-llama" / "grpo_irl"
    apart = files(cell)
    for name in ("seed0", "seed1"):
        (cell / name / "run.json").unlink()
    monkeypatch.setattr(stage, "map_processes", lambda f, items, **_: [f(item) for item in items])
    stage.run(params, model="tiny-llama", method="grpo_irl")
    assert files(cell) == apart


def test_a_seed_gets_its_own_number_and_the_rewards_by_their_names(
    params: Params, here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def point(inputs: Any) -> None:
        seen.append(inputs)
        (inputs.out / "policy").mkdir()

    monkeypatch.setattr("drirl.align.interface.Inputs.point", point)
    stage.run(params, model="tiny-llama", method="base")
    rewards = params.run.out / "reward" / "tiny-llama"
    assert [inputs.seed for inputs in seen] == [0, 1]
    assert {inputs.reward_path for inputs in seen} == {rewards / "irl"}
    assert {inputs.static_reward_path for inputs in seen} == {rewards / "static"}
    assert all(inputs.shared == params.align.shared for inputs in seen)
