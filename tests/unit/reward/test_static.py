"""The static reward keeps its own loss."""

from __future__ import annotations

from pathlib import Path

import torch
from reward_world import world

from drirl.reward.bank import ALL, RewardBank
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
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
