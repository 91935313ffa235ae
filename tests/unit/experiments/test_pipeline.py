"""The second pipeline is the one that is declared; shared arms are in it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from drirl.config import load_params
from drirl.experiments.pipeline import PIPELINE, build, render, stage_of
from drirl.experiments.plan import Plan, load_plan

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_pipeline_is_up_to_date() -> None:
    plan = load_plan(ROOT, load_params(ROOT / "profiles" / "tiny.yaml"))
    assert (ROOT / PIPELINE).read_text(encoding="utf-8") == render(plan), "run 'drirl experiments pipeline'"


def test_every_experiment_is_a_target(plan: Plan) -> None:
    stages = build(plan)["stages"]
    assert set(plan.experiments) | {"replication"} <= set(stages)


def test_a_shared_arm_is_one_stage_that_both_pages_need(plan: Plan) -> None:
    stages = build(plan)["stages"]
    assert [name for name, stage in stages.items() if "only_d" in stage["cmd"]] == ["arms-fig4-q06"]
    folder = "${run.out}/arms/only_d/evaluate"
    assert folder in stages["fig4"]["deps"]
    assert folder in stages["q06"]["deps"]
    assert folder not in stages["table3"]["deps"]


def test_arms_of_a_stage_are_needed_by_the_same_pages(plan: Plan) -> None:
    stages = build(plan)["stages"]
    assert stages["arms-q07"]["cmd"].split()[3:6] == ["noise_10", "noise_25", "noise_50"]
    assert "${run.out}/arms/data-noise_50/data/prompts.jsonl" in stages["arms-q07"]["deps"]
    for name in plan.own_arms():
        runs = {key: stage["cmd"].split() for key, stage in stages.items()}
        found = [key for key, words in runs.items() if words[2] == "run" and name in words]
        if plan.arm(name).make != "rerank":
            assert found == [stage_of(plan, name)]
            more = ["harm"] if plan.arm(name).harm_known else []
            assert found[0].split("-")[1:] == [*plan.pages_of(name), *more]
    learnt = stages["arms-q12"]["deps"]
    assert "${run.out}/arms/reward-implicit/reward/${run.models[0]}/irl" in learnt
    assert not any(dep.endswith("/static") for dep in learnt)


def test_no_output_is_written_twice(plan: Plan) -> None:
    outs = []
    for stage in build(plan)["stages"].values():
        outs += [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
    assert len(outs) == len(set(outs))


def test_code_that_is_depended_on_exists(plan: Plan) -> None:
    for name, stage in build(plan)["stages"].items():
        for dep in stage["deps"]:
            if "${" not in dep:
                assert (ROOT / dep).exists(), f"{name}: {dep}"


def test_arms_have_the_dependencies_of_the_headline(plan: Plan) -> None:
    headline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    code = {d for s in ("align", "evaluate") for d in headline[s]["deps"] if "${" not in d}
    arm = build(plan)["stages"]["arms-fig4-q06"]
    assert code <= set(arm["deps"])
    wanted = {p for s in ("align", "evaluate") for p in headline[s]["params"] if "${" not in p}
    assert wanted <= {p for p in arm["params"] if isinstance(p, str)}
    reward = build(plan)["stages"]["reward-learning"]
    assert {d for d in headline["reward"]["deps"] if "${" not in d} <= set(reward["deps"])


def test_dvc_reads_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only", PIPELINE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [name.rpartition(":")[2] for name in done.stdout.split()]
    assert "arms-fig4-q06" in names
    assert "arms-q05" in names
    assert {"table1", "fig5", "q14", "replication"} <= set(names)


def test_the_lock_forgets_stages_that_are_gone(plan: Plan, tmp_path: Path) -> None:
    from drirl.experiments.pipeline import _drop_locked

    lock = tmp_path / "dvc.lock"
    kept = "  table1:\n    cmd: a\n    outs:\n    - path: x\n      hash: md5\n      md5: '12e45'\n"
    gone = "  arm-old@tiny-llama:\n    cmd: b\n    params:\n      params.yaml:\n        run.seed: 0\n"
    lock.write_text(f"schema: '2.0'\nstages:\n{gone}{kept}")
    _drop_locked(lock, {"table1"})
    assert lock.read_text() == f"schema: '2.0'\nstages:\n{kept}"
    before = lock.stat().st_mtime_ns
    _drop_locked(lock, {"table1", "table2"})
    assert lock.stat().st_mtime_ns == before
    _drop_locked(tmp_path / "none.lock", set())


def test_the_committed_lock_holds_stages_of_the_pipeline_alone(plan: Plan) -> None:
    lock = yaml.load((ROOT / "experiments" / "dvc.lock").read_text(), Loader=yaml.CSafeLoader)
    assert set(lock["stages"]) <= set(build(plan)["stages"])


def test_rewards_that_begin_as_the_headlines_wait_for_them(plan: Plan) -> None:
    stages = build(plan)["stages"]
    assert "${run.out}/reward" in stages["reward-learning"]["deps"]
    assert "${run.out}/reward" not in stages["reward-sharing"]["deps"]


def test_arms_on_every_model_are_one_stage(plan: Plan) -> None:
    stage = build(plan)["stages"]["arms-table3-q06"]
    assert stage["cmd"] == "drirl experiments run weighted_sum"
    assert "run.models" in stage["params"]
    assert stage["outs"][0] == {"${run.out}/arms/weighted_sum/align": {"persist": True}}
    assert {"${run.out}/base", "${run.out}/reward"} <= set(stage["deps"])
