"""Sampling with a cache, and the short GRPO update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reward_world import world

from drirl.generate import complete
from drirl.reward.policy import LanguagePolicy, _draw, _even_draws, group_advantages, grpo_loss
from drirl.reward.settings import PolicyUpdate


def _policy(path: Path, **options: object) -> LanguagePolicy:
    values = {
        "name": "base",
        "settings": PolicyUpdate(steps=2, prompts=9, group_size=4),
        "max_new_tokens": 12,
    }
    return LanguagePolicy.load(str(path), None, "cpu", **{**values, **options})


def test_near_zero_temperature_equals_greedy_generate(tiny_policy: Path) -> None:
    """The cached loop with padding, expansion and leaving rows against transformers' own generate."""
    policy = _policy(tiny_policy, temperature=1e-4)
    items = world()
    mine = policy.sample(items, 2, seed=0)
    theirs = complete(
        policy.model,
        policy.tokenizer,
        [i.prompt.text for i in items],
        max_new_tokens=12,
        temperature=0,
        batch_size=4,
    )
    for row, (expected,) in zip(mine, theirs, strict=True):
        assert [c.text for c in row] == [expected.text] * 2
        assert [c.finished for c in row] == [expected.finished] * 2


def test_sampling_follows_the_distribution_and_the_seed() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.0, 0.6, 0.3]])).repeat(20_000, 1)
    drawn = _draw(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0.1, 0.0, 0.6, 0.3], abs=0.02)
    assert shares[1] == 0


def test_same_seed_same_samples(tiny_policy: Path) -> None:
    a, b, c = (_policy(tiny_policy).sample(world(), 2, seed) for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_group_advantages_by_hand() -> None:
    # mean 2, deviations -1 0 1, sample std 1
    found = group_advantages(torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0]), 3)
    assert found.tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001, 0, 0, 0])


def test_grpo_loss_by_hand() -> None:
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    reference = torch.tensor([[-1.5, -2.0], [-0.5, 0.0]])
    # k3 at gap -0.5: e^-0.5 + 0.5 - 1 = 0.106531; rows: (-2 + 0.1 * 0.106531 - 2) / 2 and 1; mean -0.497337
    loss = grpo_loss(logps, torch.tensor([2.0, -1.0]), mask, reference, 0.1)
    assert loss.item() == pytest.approx((-2 + 0.1 * 0.106531 / 2 + 1) / 2, abs=1e-5)
    loss.backward()
    assert logps.grad[0, 1].item() == pytest.approx(-2 / 2 / 2)  # advantage over tokens over rows
    assert logps.grad[1, 1].item() == 0  # masked


def test_even_draws_take_every_group_in_turn() -> None:
    for batch in _even_draws(world(copies=2), 9, 5, 0):
        heads = sorted(i.prompt.kind + str(i.head) for i in batch)
        assert len(set(heads)) == 9


def test_update_moves_towards_the_reward_and_leaves_the_reference(tiny_policy: Path) -> None:
    """Reward: short replies. A few steps on it make completions shorter."""
    policy = _policy(
        tiny_policy, settings=PolicyUpdate(steps=12, prompts=13, group_size=6, lr=5e-3, beta=0.0)
    )
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    items = world()
    moved = policy.updated(
        items, lambda rows, drawn: torch.tensor([-float(c.n_tokens) for c in drawn]), "irl1", seed=0
    )
    lengths = [
        sum(c.n_tokens for row in p.sample(items, 6, seed=5) for c in row) / (6 * len(items))
        for p in (policy, moved)
    ]
    assert lengths[1] < lengths[0] - 1
    assert moved.name == "irl1"
    assert moved.updates == 12
    assert all(torch.equal(v, before[k]) for k, v in policy.model.state_dict().items())


def test_the_kl_term_holds_the_policy_to_its_start(tiny_policy: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    gone = []
    for beta in (0.0, 20.0):
        options = PolicyUpdate(steps=8, prompts=9, group_size=4, lr=3e-3, beta=beta)
        policy = _policy(tiny_policy, settings=options)
        moved = policy.updated(
            world(), lambda rows, drawn: torch.tensor([-float(c.n_tokens) for c in drawn]), "irl1", seed=0
        )
        with torch.no_grad():
            before, after = (p.model(input_ids=ids).logits.log_softmax(-1) for p in (policy, moved))
        gone.append((before.exp() * (before - after)).sum(-1).mean().item())
    assert 0 < gone[1] < gone[0] / 2
