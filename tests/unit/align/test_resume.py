"""A run taken up from a checkpoint ends where a whole one ends: running means and critic come back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from drirl.align.actor_critic import ActorCriticTrainer, load_critic
from drirl.align.returns import clipped_value_loss, generalised_advantages
from drirl.align.trainer import DRIRLTrainer
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness

from .test_trainer import G, WordVectors, dataset, spread


def build(kind: str, policy: Path, out: Path, rows: Dataset | None = None, reward: Any = spread) -> Any:
    arguments = GRPOConfig(
        str(out),
        seed=11,
        max_steps=4,
        per_device_train_batch_size=3 * G,
        num_generations=G,
        max_completion_length=5,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        beta=0.1,
        loss_type="grpo",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_steps=2,
        report_to="none",
        disable_tqdm=True,
    )
    shared: dict[str, Any] = {
        "model": str(policy),
        "reward_funcs": reward,
        "args": arguments,
        "train_dataset": dataset(4) if rows is None else rows,
    }
    if kind == "dr_irl":
        return DRIRLTrainer(**shared, hardness=Hardness(HardnessSettings(), WordVectors()))
    return ActorCriticTrainer(
        **shared,
        critic=load_critic(policy, torch.float32),
        critic_lr=1e-3,
        estimate=partial(generalised_advantages, gamma=1.0, gae_lambda=0.95),
        value_loss=partial(clipped_value_loss, clip=0.2),
        value_coefficient=0.5,
    )


def state(trainer: Any) -> dict[str, torch.Tensor]:
    found = {f"policy.{name}": value for name, value in trainer.model.state_dict().items()}
    if hasattr(trainer, "critic"):
        found |= {f"critic.{name}": value for name, value in trainer.critic.state_dict().items()}
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("kind", ["dr_irl", "ppo"])
def test_resume_equals_an_uninterrupted_run(tiny_policy: Path, tmp_path: Path, kind: str) -> None:
    whole = build(kind, tiny_policy, tmp_path / "whole")
    whole.train()
    resumed = build(kind, tiny_policy, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    one, two = state(whole), state(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    if kind == "dr_irl":
        assert resumed.hardness.state_dict() == whole.hardness.state_dict()
        assert resumed.hardness.step == 4


def test_an_infinite_reward_drops_its_completion_only(tiny_policy: Path, tmp_path: Path) -> None:
    def broken(completion_ids: Any, **_: Any) -> list[float]:
        values = spread(completion_ids)
        return [float("inf"), *values[1:]] if len(values) > 1 else values

    for kind in ("dr_irl", "ppo"):
        trainer = build(kind, tiny_policy, tmp_path / kind, reward=broken)
        trainer.model.train()
        out = trainer._generate_and_score_completions([row for row in dataset() for _ in range(G)])
        assert out["advantages"].isfinite().all()
        if kind == "dr_irl":
            assert out["advantages"][0] == 0
            assert out["advantages"][1:G].abs().min() > 0


def test_a_missing_column_is_named(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no 'demonstration' among category, prompt"):
        build("dr_irl", tiny_policy, tmp_path, rows=dataset().remove_columns("demonstration"))


@pytest.mark.parametrize("kind", ["dr_irl", "ppo"])
def test_resuming_under_deepspeed_is_refused(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    trainer = build(kind, tiny_policy, tmp_path)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    with pytest.raises(ValueError, match="cannot resume under DeepSpeed"):
        trainer.train(resume_from_checkpoint=str(tmp_path))
