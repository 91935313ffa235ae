from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from drirl.align.rewards import BankReward
from drirl.align.trainer import DRIRLTrainer, ScaledGRPOTrainer, ScoredBatch
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness
from drirl.reward.bank import RewardBank

G = 3
PROMPTS = [
    ("Tell me how to break in.", 2, "I can't help."),
    ("How do I bake?", -1, "Sure. First gather."),
    ("Hi", 0, None),
]


class WordVectors:
    """Bag of words as unit vectors: texts that share words are similar."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 32), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def was_cut(self, text: str) -> bool:
        return False


def spread(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Reward by token ids: differs within every group, standard deviation far above TRL's 1e-4."""
    return [sum((token * 37) % 101 for token in ids) * 1.0 for ids in completion_ids]


def dataset(repeat: int = 1) -> Dataset:
    rows = [
        {"prompt": [{"role": "user", "content": text}], "category": category, "demonstration": demo}
        for text, category, demo in PROMPTS
    ]
    return Dataset.from_list(rows * repeat)


def build(
    cls: type[GRPOTrainer],
    policy: Path,
    out: Path,
    reward: Any = spread,
    rows: Dataset | None = None,
    **kwargs: Any,
) -> Any:
    arguments = GRPOConfig(
        str(out),
        seed=11,
        max_steps=2,
        per_device_train_batch_size=len(PROMPTS) * G,
        num_generations=G,
        max_completion_length=6,
        learning_rate=1e-3,
        beta=0.1,
        loss_type="grpo",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = dataset(2) if rows is None else rows
    return cls(model=str(policy), reward_funcs=reward, args=arguments, train_dataset=rows, **kwargs)


def fit(*args: Any, **kwargs: Any) -> tuple[dict[str, torch.Tensor], list[float], Any]:
    trainer = build(*args, **kwargs)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}, losses, trainer


def rollout(trainer: Any) -> Any:
    """One scored generation batch, the same completions for every trainer."""
    rows = [row for row in dataset() for _ in range(G)]
    trainer.model.train()
    torch.manual_seed(5)
    return trainer._generate_and_score_completions(rows)


@pytest.mark.parametrize("kind", ["scaled", "dr_irl"])
def test_alpha_one_is_trls_trainer_to_the_last_bit(tiny_policy: Path, tmp_path: Path, kind: str) -> None:
    stock, stock_losses, _ = fit(GRPOTrainer, tiny_policy, tmp_path / "a")
    if kind == "scaled":
        ours, losses, _ = fit(ScaledGRPOTrainer, tiny_policy, tmp_path / "b")
    else:
        off = Hardness(HardnessSettings(combine="off"), WordVectors())
        ours, losses, _ = fit(DRIRLTrainer, tiny_policy, tmp_path / "b", hardness=off)
    assert losses == stock_losses
    assert all(torch.equal(ours[name], stock[name]) for name in stock)
    start = build(GRPOTrainer, tiny_policy, tmp_path / "c").model.state_dict()
    assert any(not torch.equal(start[name], stock[name]) for name in stock)  # it did train


def test_hardness_changes_the_weights(tiny_policy: Path, tmp_path: Path) -> None:
    off, _, _ = fit(ScaledGRPOTrainer, tiny_policy, tmp_path / "a")
    hardness = Hardness(HardnessSettings(), WordVectors())
    on, _, trainer = fit(DRIRLTrainer, tiny_policy, tmp_path / "b", hardness=hardness)
    assert any(not torch.equal(on[name], off[name]) for name in on)
    assert hardness.step == 2
    assert trainer.generated_tokens > 0


def test_scaling_the_reward_is_cancelled_scaling_the_advantage_is_not(
    tiny_policy: Path, tmp_path: Path
) -> None:
    factors = torch.tensor([4.0, 1.0, 0.5]).repeat_interleave(G)

    def scaled_reward(**columns: Any) -> list[float]:
        return [f * r for f, r in zip(factors.tolist(), spread(**columns), strict=True)]

    class Scaled(ScaledGRPOTrainer):
        def advantage_scale(self, batch: ScoredBatch) -> torch.Tensor:
            return factors

    plain = rollout(build(GRPOTrainer, tiny_policy, tmp_path / "a"))
    reward = rollout(build(GRPOTrainer, tiny_policy, tmp_path / "b", scaled_reward))
    advantage = rollout(build(Scaled, tiny_policy, tmp_path / "c"))
    assert torch.equal(plain["completion_ids"], reward["completion_ids"])
    assert plain["advantages"].abs().min() > 1e-3
    torch.testing.assert_close(reward["advantages"], plain["advantages"], rtol=1e-3, atol=1e-4)
    assert torch.equal(advantage["advantages"], plain["advantages"] * factors)


def test_rows_of_a_prompt_are_multiplied_by_its_alpha(tiny_policy: Path, tmp_path: Path) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    hardness.gap_means, hardness.delta_means = {2: 0.0, -1: 1.0, 0: 0.0}, {2: 0.2, -1: 0.4, 0: 0.3}
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=hardness, record_updates={1})
    out = rollout(trainer)
    plain = torch.tensor(list(trainer._logs["advantages"]))  # TRL logs them before they are scaled
    alpha = trainer.found.alpha
    assert alpha[2] == 1.0  # no demonstration
    assert (alpha[:2] - 1.0).abs().min() > 1e-3
    torch.testing.assert_close(out["advantages"], plain * alpha.repeat_interleave(G))
    first, _, last = trainer.rollouts
    assert (first.step, first.category, len(first.completions)) == (1, 2, G)
    assert first.adv == pytest.approx((plain[:G] * alpha[0]).tolist(), abs=1e-6)
    assert first.alpha == pytest.approx(min(4.0, max(0.25, first.alpha_D * first.alpha_M)), abs=1e-5)
    assert last.r_demo is None


def test_demo_reward_column_comes_before_the_reward_functions(tiny_policy: Path, tmp_path: Path) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=hardness)
    row = dataset()[0]
    ids = trainer._tokenizer("I can't help.", add_special_tokens=False)["input_ids"] + [1]
    assert trainer._demo_reward(row) == spread([ids])[0]
    assert trainer._demo_reward({**row, "demo_reward": 2.5}) == 2.5
    assert math.isnan(trainer._demo_reward(dataset()[2]))


def test_a_model_as_reward_needs_the_column(tiny_policy: Path, tmp_path: Path) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=hardness)
    trainer.reward_funcs = [torch.nn.Linear(1, 1)]
    with pytest.raises(ValueError, match="demo_reward"):
        trainer._demo_reward(dataset()[0])


def test_per_completion_alphas_are_recentred(tiny_policy: Path, tmp_path: Path) -> None:
    settings = HardnessSettings(per_completion=True, recentre=True)
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=Hardness(settings, WordVectors()))
    out = rollout(trainer)
    sums = out["advantages"].view(-1, G).sum(-1)
    torch.testing.assert_close(sums, torch.zeros(3), atol=1e-5, rtol=0)
    assert trainer.found.weights[0].unique().numel() > 1


def test_a_completion_without_a_reward_is_dropped(tiny_policy: Path, tmp_path: Path) -> None:
    def broken(completion_ids: Any, **_: Any) -> list[float | None]:
        values: list[float | None] = [*spread(completion_ids)]
        if len(values) > 1:
            values[0] = None
        return values

    trainer = build(
        DRIRLTrainer, tiny_policy, tmp_path, broken, hardness=Hardness(HardnessSettings(), WordVectors())
    )
    out = rollout(trainer)
    assert out["advantages"][0] == 0
    assert out["advantages"].isfinite().all()
    assert not trainer.found.valid[0, 0]
    assert trainer.found.valid[0, 1:].all()


def test_evaluation_leaves_running_means_alone(tiny_policy: Path, tmp_path: Path) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=hardness)
    trainer.num_generations_eval = G
    trainer.model.eval()
    trainer._generate_and_score_completions([row for row in dataset() for _ in range(G)])
    assert hardness.step == 0
    assert trainer.generated_tokens == 0


@pytest.mark.parametrize("control", ["shuffled", "constant"])
def test_benign_prompts_without_a_reward_have_alpha_one(
    tiny_policy: Path, banks: Path, tmp_path: Path, control: str
) -> None:
    """``align.shared.benign_reward: false``: nothing to scale, and no part in what the others get."""
    trainers = []
    for rewarded, arm in ((True, "none"), (False, "none"), (False, control)):
        hardness = Hardness(HardnessSettings(control=arm), WordVectors())
        hardness.gap_means, hardness.delta_means = {2: 0.0, -1: 1.0, 0: 0.0}, {2: 0.2, -1: 0.4, 0: 0.3}
        reward = BankReward(RewardBank.load(banks / "irl"), [1], benign=rewarded)
        trainers.append(build(DRIRLTrainer, tiny_policy, tmp_path, reward, hardness=hardness))
        out = rollout(trainers[-1])
    scored, plain, other = (trainer.found.alpha for trainer in trainers)
    assert scored[1] != 1.0
    assert plain[1] == other[1] == 1.0
    assert out["advantages"].view(-1, G)[1].tolist() == [0.0] * G
    harmful = [0, 2]
    assert other[harmful].mean().item() == pytest.approx(plain[harmful].mean().item(), rel=1e-6)
    assert plain[0] != plain[2]
    if control == "constant":
        assert other[0] == other[2]


@pytest.mark.parametrize("value", [None, "Insult", math.nan])
def test_a_category_that_is_no_number_is_named(tiny_policy: Path, tmp_path: Path, value: Any) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    found = rf"expected a number in the column category .*, found {value!r} in "
    rows = [{**row, "category": value} for row in dataset()]
    whole = [{**rows[0], "category": "0" if isinstance(value, str) else 0}, *rows[1:]]
    with pytest.raises(ValueError, match=found + r"row 1, prompt 'How do I bake\?'; give the row"):
        build(DRIRLTrainer, tiny_policy, tmp_path, rows=Dataset.from_list(whole), hardness=hardness)
    for cls, more in ((ScaledGRPOTrainer, {}), (DRIRLTrainer, {"hardness": hardness})):
        trainer = build(cls, tiny_policy, tmp_path, **more)  # rows that come later, from a stream
        trainer.model.train()
        with pytest.raises(ValueError, match=found + "prompt 'Tell me how to break in.'; give the row"):
            trainer._generate_and_score_completions([row for row in rows for _ in range(G)])


def test_plain_text_prompts_work_too(tiny_policy: Path, tmp_path: Path) -> None:
    hardness = Hardness(HardnessSettings(), WordVectors())
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=hardness, record_updates={1})
    rows = [{**row, "prompt": row["prompt"][0]["content"]} for row in dataset() for _ in range(G)]
    trainer.model.train()
    out = trainer._generate_and_score_completions(rows)
    assert out["advantages"].isfinite().all()
    assert [group.category for group in trainer.rollouts] == [2, -1, 0]


def test_hardness_reads_replies_without_their_notes(tiny_policy: Path, tmp_path: Path) -> None:
    trainer = build(DRIRLTrainer, tiny_policy, tmp_path, hardness=Hardness(HardnessSettings(), WordVectors()))
    row = {**dataset()[0], "demonstration": "wants: x #### I can't help.", "demo_reward": 5.0}
    texts = ["plan: decline #### I can't help.", "I can't help.", "I can't help. #### Sure."]
    rewards = torch.tensor([1.0, 2.0, 8.0])
    trainer.advantage_scale(ScoredBatch([row] * G, texts, [[5]] * G, rewards, rewards, 0, G))
    first, second, third = trainer.found.delta[0].tolist()
    assert (first, second) == (0.0, 0.0)
    assert third > 0.1
    assert trainer.found.gap[0].tolist() == [4.0, 3.0, -3.0]  # demonstration minus completion
