"""What every file in ``baselines/`` must be and do; a new method is checked without an edit here."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from drirl.align.interface import Inputs, find_method, known_methods, parse_config
from drirl.align.settings import Shared
from drirl.check import describe_methods
from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError
from drirl.records import Demo, Prompt, RolloutGroup, read_jsonl
from drirl.resources import Meter
from drirl.settings import Section

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "baselines"
METHODS = known_methods(FOLDER)
SHARED = Shared(updates=2, harmful_per_update=7, benign_per_update=3, group_size=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def trained(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Inputs]:
    """Train a method once on a toy batch with its shipped defaults; the encoder is the real one."""
    from drirl.reward.bank import RewardBank

    folder = tmp_path_factory.mktemp("contract")
    torch.manual_seed(0)
    for name, heads in (("irl", [-1, *range(7)]), ("static", ["all"])):
        bank = RewardBank.from_policy(tiny_policy, heads)
        with torch.no_grad():
            bank.head.weight.normal_()
        bank.save(folder / name)
    rows = []
    for k in range(30):
        category, kind = (k % 7, "harmful") if k < 21 else (-1, ("benign", "contrast", "task")[k % 3])
        prompt = Prompt(f"p{k}", f"Tell me how to break {k} doors.", category, "train", kind=kind)
        answer = "I can't help with that." if category >= 0 else "Sure. First gather what you need."
        full = f"plan: decline #### {answer}"
        rows.append((prompt, Demo(f"d{k}", f"p{k}", category, [], answer, full, "refuse", "test", "t")))
    done: dict[str, Inputs] = {}

    def train(name: str) -> Inputs:
        if name not in done:
            out = folder / "runs" / name
            out.mkdir(parents=True)
            done[name] = Inputs(
                model="tiny",
                seed=0,
                policy_path=tiny_policy,
                train=rows,
                val=rows[:3],
                reward_path=folder / "irl",
                static_reward_path=folder / "static",
                shared=SHARED,
                out=out,
                encoder=EncoderSettings(),
                cache=folder / "cache",
                meter=Meter("align", name),
                device="cpu",
                method=name,
            )
            method = find_method(name, FOLDER)
            method.train(done[name], parse_config(method, {}))
        return done[name]

    return train


def test_the_issue_s_methods_are_there() -> None:
    assert {"base", "sft", "dpo", "ppo", "grpo", "grpo_irl", "dr_irl", "dr_irl_constant"} <= set(METHODS)
    assert {"dpo_s", "ppo_s", "sacpo", "self_rewarding", "stair", "rloo", "kto"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_file_says_what_it_is(name: str) -> None:
    method = find_method(name, FOLDER)
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    document = ast.get_docstring(ast.parse(text)) or ""
    assert method.paper.startswith("https://")
    assert method.summary.endswith((".", ":")) or len(method.summary) > 20
    for part in ("Equations:", "Deviations:"):
        assert part in document, f"the docstring of {name} lacks '{part}'"
    assert set(method.uses) <= {"irl", "static"}
    assert len(text.splitlines()) <= 300
    assert name in [found for found, _, _ in describe_methods(FOLDER)]


@pytest.mark.parametrize("name", METHODS)
def test_config_is_frozen_described_and_strict(name: str) -> None:
    method = find_method(name, FOLDER)
    assert issubclass(method.config, Section)
    assert all(field.description for field in method.config.model_fields.values())
    config = parse_config(method, {})
    for field in method.config.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(config, field, None)
    with pytest.raises(DrirlError, match=rf"align\.methods\.{name}\.no_such_key"):
        parse_config(method, {"no_such_key": 1})


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_published_sections_are_valid(profile: Path) -> None:
    from drirl.profiles import render

    values = yaml.safe_load(render(profile.stem, ROOT))
    Shared.model_validate(values["align"]["shared"])
    for name, section in values["align"]["methods"].items():
        parse_config(find_method(name, FOLDER), section)


@pytest.mark.parametrize("name", METHODS)
def test_toy_training_leaves_finite_losses_and_a_policy(name: str, trained: Callable[[str], Inputs]) -> None:
    from drirl.models import load_policy

    inputs = trained(name)
    load_policy(inputs.out / "policy")
    left = {p.name for p in inputs.out.rglob("*") if p.is_file()}
    assert not left & {"README.md", "training_args.bin", "optimizer.pt"}
    assert inputs.meter.updates == (0 if name == "base" else SHARED.updates)
    if name == "base":
        return
    log = read_jsonl(inputs.out / "log.jsonl")
    assert [row["update"] for row in log] == [1, 2]
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in log)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "base"])
def test_every_parameter_moves(name: str, trained: Callable[[str], Inputs], tiny_policy: Path) -> None:
    before = load_file(tiny_policy / "model.safetensors")
    after = load_file(trained(name).out / "policy" / "model.safetensors")
    still = [key for key in before if torch.equal(before[key], after[key])]
    assert not still


def test_base_is_the_base(trained: Callable[[str], Inputs], tiny_policy: Path) -> None:
    copied = trained("base").out / "policy" / "model.safetensors"
    assert copied.read_bytes() == (tiny_policy / "model.safetensors").read_bytes()


def test_rl_methods_see_the_same_prompts(trained: Callable[[str], Inputs]) -> None:
    plans = {}
    for name in METHODS:
        path = trained(name).out / "rollouts.jsonl"
        if path.is_file():
            groups = read_jsonl(path, RolloutGroup)
            plans[name] = [(g.step, g.prompt_id, len(g.completions)) for g in groups]
    assert len(plans) >= 7
    assert len({tuple(sorted(plan)) for plan in plans.values()}) == 1


def test_first_rollouts_are_the_same_for_all(trained: Callable[[str], Inputs]) -> None:
    """Before the first update every RL method samples the same policy with the same seed."""
    firsts: dict[str, Any] = {}
    for name in ("grpo", "grpo_irl", "dr_irl", "dr_irl_constant", "ppo", "ppo_s", "rloo"):
        groups = read_jsonl(trained(name).out / "rollouts.jsonl", RolloutGroup)
        firsts[name] = [g.completions for g in groups if g.step == 1]
    assert all(first == firsts["grpo"] for first in firsts.values())


def test_the_control_has_one_alpha_with_dr_irls_mean(trained: Callable[[str], Inputs]) -> None:
    groups = {
        name: [g for g in read_jsonl(trained(name).out / "rollouts.jsonl", RolloutGroup) if g.step == 1]
        for name in ("dr_irl", "dr_irl_constant")
    }
    ours = [g.alpha for g in groups["dr_irl"]]
    control = {g.alpha for g in groups["dr_irl_constant"]}
    assert len(control) == 1
    assert control.pop() == pytest.approx(sum(ours) / len(ours), abs=1e-5)


def test_methods_import_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from drirl.align.interface import find_method, known_methods; "
        f"folder = Path({str(FOLDER)!r}); [find_method(name, folder) for name in known_methods(folder)]; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(DrirlError, match="did you mean 'dr_irl'"):
        find_method("drirl", FOLDER)


def test_a_new_file_is_a_method(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(
        '"""A toy."""\nfrom drirl.settings import Section\nPAPER = "https://example.org"\n'
        "class Config(Section):\n    lr: float = 1.0\n"
        "def train(inputs, config):\n    inputs.append(config.lr)\n"
    )
    method = find_method("toy", tmp_path)
    seen: list[float] = []
    method.train(seen, parse_config(method, {"lr": 2}))  # type: ignore[arg-type]
    assert (method.summary, seen) == ("A toy.", [2.0])
    (tmp_path / "half.py").write_text("PAPER = ''\n")
    with pytest.raises(DrirlError, match="'Config' is missing"):
        find_method("half", tmp_path)


@pytest.mark.parametrize("name", ["grpo", "grpo_irl", "dr_irl", "dr_irl_constant", "ppo", "ppo_s", "rloo"])
def test_rollouts_are_scored_by_the_right_rewards(name: str, trained: Callable[[str], Inputs]) -> None:
    from drirl.reward.bank import RewardBank

    inputs = trained(name)
    assert inputs.reward_path
    assert inputs.static_reward_path
    irl = RewardBank.load(inputs.reward_path)
    static = name in ("grpo", "ppo", "ppo_s", "rloo")
    bank = RewardBank.load(inputs.static_reward_path) if static else irl
    rows = {prompt.prompt_id: (prompt, demo) for prompt, demo in inputs.train}
    groups = list(read_jsonl(inputs.out / "rollouts.jsonl", RolloutGroup))
    assert groups
    for group in groups[:8]:
        prompt, demo = rows[group.prompt_id]
        asked = [prompt.text], [prompt.category]
        for text, value in zip(group.completions, group.r_gen, strict=True):
            # The record does not say whether a completion was cut off: one of both rewards it has.
            ends = [bank.score_completions(asked[0], [text], [end], asked[1]).item() for end in (True, False)]
            assert min(abs(value - end) for end in ends) < 1e-4
        if name.startswith("dr_irl"):
            wanted = irl.score_completions(asked[0], [demo.full_text], [True], asked[1]).item()
            assert group.r_demo == pytest.approx(wanted, abs=1e-4)
            assert group.gap == pytest.approx([wanted - value for value in group.r_gen], abs=1e-4)
