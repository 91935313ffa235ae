"""Arms resolve to the params they name; mistakes name what is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.config import validate
from drirl.errors import DrirlError
from drirl.experiments.plan import ARMS, EXPERIMENTS, Plan, load_plan, overlay
from drirl.profiles import differences

ROOT = Path(__file__).resolve().parents[3]
NAMES = [
    *(f"table{i}" for i in (1, 2, 3, 4, "4b", 5, 6, 7, 8)),
    *(f"fig{i}" for i in (3, 4, 5)),
    *(f"q{i:02d}" for i in range(1, 15)),
]


def _copy(tmp_path: Path, edit: Any) -> Path:
    root = tmp_path / "project"
    shutil.copytree(ROOT / "experiments", root / "experiments")
    (root / "baselines").symlink_to(ROOT / "baselines")
    for name in (ARMS, EXPERIMENTS):
        content = yaml.safe_load((root / name).read_text())
        edit(name, content)
        (root / name).write_text(yaml.safe_dump(content))
    return root


def test_every_table_figure_and_question_is_declared(plan: Plan) -> None:
    assert list(plan.experiments) == NAMES
    for experiment in plan.experiments.values():
        assert experiment.question.endswith("?")


def test_an_arm_changes_what_it_names_and_nothing_else(plan: Plan) -> None:
    arm = plan.resolve("weighted_sum")
    assert not arm.headline
    assert arm.out == plan.params.run.out / "arms" / "weighted_sum"
    changed = differences(plan.params.model_dump(mode="json"), arm.params.model_dump(mode="json"))
    hardness = "align.methods.dr_irl.hardness"
    assert {key: after for key, _, after in changed} == {
        f"{hardness}.combine": "weighted_sum",
        f"{hardness}.weight": 0.5,
        "evaluate.mean_reward": False,
        "run.methods": ["dr_irl"],
        "run.out": str(arm.out),
    }


def test_a_method_of_the_headline_is_its_cell(plan: Plan) -> None:
    arm = plan.resolve("dr_irl_constant")
    assert arm.headline
    assert arm.out == plan.params.run.out
    assert arm.params == plan.params
    assert "dr_irl" not in plan.own_arms()
    assert "only_d" in plan.own_arms()


def test_a_method_outside_run_methods_runs_on_its_own(values: dict[str, Any]) -> None:
    values["run"]["methods"].remove("ppo")
    plan = load_plan(ROOT, validate(values))
    assert not plan.resolve("ppo").headline
    assert "ppo" in plan.own_arms()


def test_every_arm_of_an_experiment_resolves_or_says_what_it_lacks(plan: Plan) -> None:
    for name, experiment in plan.experiments.items():
        for arm in experiment.arms.values():
            problem = plan.problem(arm)
            assert not problem or problem.startswith(("needs baselines/", "rewards.")), f"{name}: {problem}"


def test_a_shared_arm_is_listed_once(plan: Plan) -> None:
    own = plan.own_arms()
    assert len(own) == len(set(own))
    users = [name for name, e in plan.experiments.items() if "only_d" in e.arms.values()]
    assert len(users) > 1


def test_unknown_names_list_the_nearest(plan: Plan) -> None:
    with pytest.raises(DrirlError, match=r"unknown arm 'only_dd'.*did you mean 'only_d'"):
        plan.resolve("only_dd")
    with pytest.raises(DrirlError, match=r"unknown experiment 'tabel1'.*did you mean 'table1'"):
        plan.experiment("tabel1")
    with pytest.raises(DrirlError, match=r"unknown reward variant 'singel'.*did you mean 'single'"):
        plan.reward_variant("singel")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"align.methods.dr_irl.hardnes.combine": "off"}, "no section 'align.methods.dr_irl.hardnes'"),
        ({"reward.iteratons": 3}, "unknown key 'reward.iteratons'.*did you mean 'iterations'"),
        ({"reward.iterations": 0}, "reward.iterations: .*greater than or equal to 1"),
    ],
)
def test_an_overlay_is_checked(plan: Plan, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(DrirlError, match=expected):
        overlay(plan.params, changes, "here")


def test_a_method_checks_the_keys_of_its_own_section(plan: Plan, tmp_path: Path) -> None:
    def edit(name: str, content: Any) -> None:
        if name == ARMS:
            content["arms"]["only_d"]["set"] = {"align.methods.dr_irl.learning_rate": 1}

    broken = load_plan(_copy(tmp_path, edit), plan.params)
    with pytest.raises(
        DrirlError, match=r"arms\.only_d: unknown key 'align\.methods\.dr_irl\.learning_rate'"
    ):
        broken.resolve("only_d")


def test_two_equal_arms_are_an_error(plan: Plan, tmp_path: Path) -> None:
    def edit(name: str, content: Any) -> None:
        if name == ARMS:
            content["arms"]["twin"] = dict(content["arms"]["only_m"], why="another word")

    with pytest.raises(DrirlError, match=r"arms\.twin is the same as arms\.only_m"):
        load_plan(_copy(tmp_path, edit), plan.params)


def test_a_contrast_names_labels_of_its_experiment(plan: Plan, tmp_path: Path) -> None:
    def edit(name: str, content: Any) -> None:
        if name == EXPERIMENTS:
            content["experiments"]["table3"]["contrasts"][0]["against"] = "weighted"

    with pytest.raises(DrirlError, match=r"contrast names 'weighted'.*did you mean 'weighted sum'"):
        load_plan(_copy(tmp_path, edit), plan.params)


def test_an_experiment_with_an_unknown_arm_is_an_error(plan: Plan, tmp_path: Path) -> None:
    def edit(name: str, content: Any) -> None:
        if name == EXPERIMENTS:
            content["experiments"]["table3"]["arms"]["third"] = "weighted_sums"

    with pytest.raises(DrirlError, match=r"table3: unknown arm 'weighted_sums'.*did you mean 'weighted_sum'"):
        load_plan(_copy(tmp_path, edit), plan.params)


def test_models_an_arm_runs_on(plan: Plan) -> None:
    assert plan.arm_models("only_d") == ["tiny-llama", "tiny-qwen2"]  # a figure needs both
    assert plan.arm_models("mask_40") == ["tiny-llama"]  # questions need the first
