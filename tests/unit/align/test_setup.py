from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drirl.align.actor_critic import ActorCriticTrainer
from drirl.align.interface import Inputs
from drirl.align.settings import Lora, Shared
from drirl.align.setup import check_lengths, common_arguments, load, micro_batches, train_rl
from drirl.align.trainer import ScaledGRPOTrainer
from drirl.errors import DrirlError
from drirl.models import load_policy
from drirl.records import RolloutGroup, read_jsonl
from drirl.reward.bank import RewardBank

from .conftest import SMALL

Make = Callable[..., Inputs]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_leaves_policy_log_and_rollouts_and_repeats_to_the_byte(make_inputs: Make) -> None:
    runs = []
    for name in ("first", "second"):
        inputs = make_inputs(name, method="grpo_irl")
        train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path)
        runs.append(contents(inputs.out))
    assert runs[0] == runs[1]
    names = set(runs[0])
    assert {
        "log.jsonl",
        "rollouts.jsonl",
        "after.jsonl",
        "policy/model.safetensors",
        "policy/config.json",
    } <= names
    assert not [name for name in names if name.endswith((".bin", "README.md")) or "trainer" in name]
    assert json.loads(runs[0]["policy/config.json"])["use_cache"] is True

    logs = read_jsonl(inputs.out / "log.jsonl")
    assert [row["update"] for row in logs] == [1, 2]
    assert all(row["loss"] is not None and row["scale"] == 1.0 for row in logs)
    groups = read_jsonl(inputs.out / "rollouts.jsonl", RolloutGroup)
    assert [g.step for g in groups] == [1, 1, 1, 1, 2, 2, 2, 2]
    again = read_jsonl(
        inputs.out / "after.jsonl", RolloutGroup
    )  # the middle update's prompts, policy trained
    assert [(g.step, g.prompt_id) for g in again] == [(3, g.prompt_id) for g in groups[:4]]
    bank, texts = RewardBank.load(inputs.reward_path), {p.prompt_id: p.text for p, _ in inputs.train}
    for group in again:
        own = (len(group.completions) * [texts[group.prompt_id]], group.completions)
        ends = [
            bank.score_completions(*own, [done] * SMALL.group_size, [group.category] * SMALL.group_size)
            for done in (True, False)
        ]
        for k, value in enumerate(group.r_gen):
            assert min(abs(value - float(end[k])) for end in ends) < 1e-4
    counts = inputs.meter.counts()
    assert counts["updates"] == 2
    assert 16 <= counts["generated_tokens"] <= 2 * 8 * SMALL.max_new_tokens
    load_policy(inputs.out / "policy")


class _StopError(Exception):
    """Training need not start."""


def test_the_objective_is_that_of_the_paper(make_inputs: Make) -> None:
    """docs/paper.md section 6: group advantages, clipped ratio per token, a KL term in the loss."""
    seen: list[Any] = []

    class Spy(ScaledGRPOTrainer):
        def __init__(self, **arguments: Any) -> None:
            seen.append(arguments["args"])
            raise _StopError

    shared = SMALL.model_copy(update={"beta": 0.07, "epsilon": 0.15, "temperature": 0.9})
    inputs = make_inputs(shared=shared)
    with pytest.raises(_StopError):
        train_rl(inputs, lr=2e-3, reward_path=inputs.reward_path, trainer_class=Spy, num_iterations=2)
    (args,) = seen
    assert (args.loss_type, args.scale_rewards, args.importance_sampling_level) == ("grpo", "group", "token")
    assert (args.beta, args.epsilon, args.temperature, args.learning_rate) == (0.07, 0.15, 0.9, 2e-3)
    assert (args.num_generations, args.num_iterations, args.max_steps) == (2, 2, SMALL.updates)
    assert (args.top_p, args.top_k, args.mask_truncated_completions) == (1.0, 0, False)


def test_other_seed_other_policy(make_inputs: Make) -> None:
    weights = []
    for seed in (0, 1):
        inputs = make_inputs(f"seed{seed}", seed=seed)
        train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path)
        weights.append(load_file(inputs.out / "policy" / "model.safetensors"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_micro_batches_keep_the_update(make_inputs: Make) -> None:
    whole, parts = (
        make_inputs("whole"),
        make_inputs("parts", shared=SMALL.model_copy(update={"micro_batch": 2})),
    )
    for inputs in (whole, parts):
        train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path)
    first = [read_jsonl(inputs.out / "log.jsonl")[0] for inputs in (whole, parts)]
    assert first[0]["reward"] == pytest.approx(first[1]["reward"], abs=1e-4)
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("sampler", ["shared", "trl"])
def test_lora_trains_and_saves_a_merged_policy(make_inputs: Make, tiny_policy: Path, sampler: str) -> None:
    changes = {"lora": Lora(r=2, alpha=4), "sampler": sampler, "gradient_checkpointing": sampler == "shared"}
    inputs = make_inputs(shared=SMALL.model_copy(update=changes))
    train_rl(inputs, lr=1e-2, reward_path=inputs.reward_path)
    before = load_file(tiny_policy / "model.safetensors")
    after = load_file(inputs.out / "policy" / "model.safetensors")
    assert set(before) == set(after)
    moved = {name for name in before if not torch.allclose(before[name], after[name])}
    assert moved
    assert all("proj" in name for name in moved)


@pytest.mark.parametrize(
    ("sequences", "micro", "world", "expected"),
    [(84, None, 1, (84, 1)), (84, 12, 1, (12, 7)), (84, 200, 1, (84, 1)), (84, 21, 2, (21, 2))],
)
def test_micro_batch_arithmetic(
    monkeypatch: pytest.MonkeyPatch, sequences: int, micro: int | None, world: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert micro_batches(sequences, Shared(micro_batch=micro)) == expected


def test_micro_batch_must_divide() -> None:
    with pytest.raises(DrirlError, match=r"align\.shared\.micro_batch"):
        micro_batches(84, Shared(micro_batch=13))


def test_long_prompts_are_named(make_inputs: Make) -> None:
    inputs = make_inputs()
    policy = load(inputs)
    with pytest.raises(DrirlError, match=r"^prompt .* tokens, align\.shared\.max_prompt_tokens is 3"):
        check_lengths(policy, inputs.train, Shared(max_prompt_tokens=3))
    with pytest.raises(DrirlError, match="exceeds the policy's context of 128"):
        check_lengths(policy, inputs.train, Shared(max_new_tokens=126))


def test_a_diverged_run_is_one_line_and_leaves_no_policy(make_inputs: Make) -> None:
    inputs = make_inputs()
    with pytest.raises(DrirlError, match="not finite at update 2; lower the learning rate"):
        train_rl(inputs, lr=float("inf"), reward_path=inputs.reward_path)
    assert not (inputs.out / "policy").exists()


def test_options_that_would_mislead_are_refused_before_anything_is_loaded(make_inputs: Make) -> None:
    inputs = make_inputs("ppo", shared=SMALL.model_copy(update={"benign_reward": False}))
    with pytest.raises(DrirlError, match="benign_reward false: PPO sets rewards against a critic"):
        train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path, trainer_class=ActorCriticTrainer)
    inputs = make_inputs("epochs", shared=SMALL.model_copy(update={"harmful_order": "sequential"}))
    with pytest.raises(DrirlError, match="only the first categories of the plan would be seen"):
        train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path, num_iterations=2)


def test_what_fails_after_training_does_not_cost_it(
    make_inputs: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("drirl.align.setup.sample_again", full)
    inputs = make_inputs("full", method="grpo_irl")
    train_rl(inputs, lr=1e-3, reward_path=inputs.reward_path)
    assert (inputs.out / "policy" / "model.safetensors").is_file()
    assert (inputs.out / "after.jsonl").read_text() == ""
    assert "not sampled again after training (out of memory)" in capsys.readouterr().err


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_what_every_trainer_is_told(make_inputs: Make, schedule: str) -> None:
    changes = {"schedule": schedule, "max_grad_norm": 0.5, "updates": 3}
    found = common_arguments(make_inputs(seed=5, shared=SMALL.model_copy(update=changes)), 2e-3)
    wanted = {"lr_scheduler_type": schedule, "max_grad_norm": 0.5, "max_steps": 3, "seed": 5}
    wanted |= {"learning_rate": 2e-3, "weight_decay": 0.0, "warmup_steps": 0}
    assert {name: found[name] for name in wanted} == wanted
