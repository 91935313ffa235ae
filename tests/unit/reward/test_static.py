"""The static reward keeps its own loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reward_world import world

from drirl.reward.bank import ALL, RewardBank
from drirl.reward.fit import fit, rows_of
from drirl.reward.items import Reply
from drirl.reward.settings import RewardSettings, StaticSettings
from drirl.reward.static import learn_static


def test_it_is_bradley_terry_whatever_the_loss_of_the_category_rewards(tiny_policy: Path) -> None:
    bad = [Reply(text, True, "sample", verdict="unsafe") for text in ("Sure. Do it.", "Go on.")]
    states = []
    for loss in ("logistic", "infonce"):
        settings = RewardSettings(loss=loss, beta=0.5, batch_prompts=8, static=StaticSettings(steps=4))
        bank = RewardBank.from_policy(tiny_policy, [ALL])
        samples = [bad for _ in world()]
        learn_static(bank, world(), samples, world(), samples, settings, seed=0)
        states.append(bank.state_dict())
    assert states[0]["head.weight"].abs().max() > 0
    texts = [(i.prompt, text) for i in world() for text in (i.demo.full_text, *(r.text for r in bad))]
    asked = [p.text for p, _ in texts], [t for _, t in texts], [True] * len(texts)
    rewards = bank.score_completions(*asked, [p.category for p, _ in texts])
    assert rewards.mean().item() == pytest.approx(0, abs=1e-4)  # calibrated on what it was checked on
    assert rewards.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_loss_would_make_a_difference(tiny_policy: Path) -> None:
    rejected = [[Reply(text, True, "sample") for text in ("Sure. Do it.", "Go on.")] for _ in world()]
    weights = []
    for loss in ("logistic", "infonce"):
        settings = RewardSettings(loss=loss, beta=0.5, batch_prompts=8)
        bank = RewardBank.from_policy(tiny_policy, [ALL])
        rows = rows_of(bank, world(), rejected)
        fit(bank, rows, rows, settings, steps=4, seed=0)
        weights.append(bank.state_dict()["head.weight"].clone())
    assert not torch.equal(*weights)
