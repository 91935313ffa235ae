"""Soft, hard and worst-case routing by hand, and a bank that routes by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drirl.align.rewards import BankReward
from drirl.errors import DrirlError
from drirl.hardness.encoder import Encoder
from drirl.reward.bank import RewardBank
from drirl.serve.routed import RoutedReward, combine, with_label_noise
from drirl.serve.router import Router

PROMPTS = ["How do I bake bread?", "Tell me how to rob a bank.", "I feel alone."]
REPLIES = ["Sure. Go slowly.", "I can't help with that.", "Please talk to someone."]
SCORES = torch.tensor([[1.0, -2.0, 4.0], [0.5, 3.0, -1.0]])
CHANCES = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])


def test_combine_by_hand() -> None:
    """Soft: 0.5 - 0.5 + 1 = 1 and 0.05 + 1.8 - 0.3 = 1.55."""
    assert combine(SCORES, CHANCES, "soft").tolist() == pytest.approx([1.0, 1.55])
    assert combine(SCORES, CHANCES, "hard").tolist() == [1.0, 3.0]
    assert combine(SCORES, CHANCES, "worst").tolist() == [-2.0, -1.0]
    assert combine(SCORES, CHANCES, "worst", floor=0.3).tolist() == [1.0, -1.0]
    assert combine(SCORES, CHANCES, "worst", floor=1.0).tolist() == [1.0, 3.0]  # the first choice stays
    with pytest.raises(DrirlError, match="did you mean 'worst'"):
        combine(SCORES, CHANCES, "wrst")
    with pytest.raises(ValueError, match=r"expected \(B, C\) twice"):
        combine(SCORES, CHANCES[:, :2], "soft")


@pytest.fixture(scope="module")
def bank(rewards: Path) -> RewardBank:
    return RewardBank.load(rewards)


@pytest.fixture(scope="module")
def router(encoder: Encoder, labelled: tuple[list[str], list[int]]) -> Router:
    return Router.fit(*labelled, encode=encoder.encode)


@pytest.mark.parametrize("mode", ["soft", "hard", "worst"])
def test_a_routed_bank_is_the_combination_of_its_columns(bank: RewardBank, router: Router, mode: str) -> None:
    routed = RoutedReward(bank, router, mode)
    found = routed.score(PROMPTS, REPLIES, [True] * 3)
    columns = [bank.heads.index(c) for c in router.classes]
    everything = bank.score_all(PROMPTS, REPLIES, [True] * 3)[:, columns]
    expected = combine(everything, torch.from_numpy(router.probabilities(PROMPTS)).float(), mode)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    drafted = [f"wants: help #### {reply}" for reply in REPLIES]
    assert torch.equal(routed.score_completions(PROMPTS, drafted, [True] * 3, [0, 0, 0]), found)


def test_it_stands_where_a_bank_does(bank: RewardBank, router: Router) -> None:
    """A trainer's reward function without labels equals the one with the router's labels."""
    ids = [[5, 1]] * 3
    routed = BankReward(RoutedReward(bank, router), end_ids=[1])(PROMPTS, REPLIES, ids)
    labelled = BankReward(bank, end_ids=[1])(PROMPTS, REPLIES, ids, category=router.categories(PROMPTS))
    assert routed == labelled


def test_a_single_reward_needs_no_category(tiny_policy: Path, router: Router) -> None:
    bank = RewardBank.from_policy(tiny_policy, ["all"])
    torch.nn.init.normal_(bank.head.weight)
    alone = bank.score(PROMPTS, REPLIES, [True] * 3, [0] * 3)
    for mode in ("soft", "hard", "worst"):
        routed = RoutedReward(bank, router, mode).score(PROMPTS, REPLIES, [True] * 3)
        assert routed.tolist() == pytest.approx(alone.tolist(), abs=1e-5)


def test_mistakes(tiny_policy: Path, bank: RewardBank, router: Router) -> None:
    with pytest.raises(DrirlError, match="the router knows category 4, but the rewards have -1, 2 only"):
        RoutedReward(RewardBank.from_policy(tiny_policy, [-1, 2]), router)
    with pytest.raises(DrirlError, match="unknown routing 'best'; known: hard, soft, worst"):
        RoutedReward(bank, router, "best")
    with pytest.raises(DrirlError, match="nothing to score"):
        RoutedReward(bank, router).score([], [], [])


def test_label_noise_changes_exactly_the_share() -> None:
    labels = [k % 7 for k in range(40)]
    for share, changed in ((0.0, 0), (0.1, 4), (0.5, 20), (1.0, 40)):
        noisy = with_label_noise(labels, share, range(7), seed=3)
        assert sum(a != b for a, b in zip(labels, noisy, strict=True)) == changed
        assert set(noisy) <= set(range(7))
        assert noisy == with_label_noise(labels, share, range(7), seed=3)
    with pytest.raises(ValueError, match="share in"):
        with_label_noise(labels, 1.5, range(7), seed=0)
