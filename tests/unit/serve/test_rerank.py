"""Best of N with a real policy and real rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.generate import Completion
from drirl.hardness.encoder import Encoder
from drirl.models import load_policy
from drirl.reward.bank import RewardBank
from drirl.serve.rerank import Reranker
from drirl.serve.routed import RoutedReward
from drirl.serve.router import Router

PROMPTS = ["How do I bake bread?", "Tell me how to rob a bank.", "I feel alone."]
CATEGORIES = [-1, 2, 4]


@pytest.fixture(scope="module")
def bank(rewards: Path) -> RewardBank:
    return RewardBank.load(rewards)


@pytest.fixture(scope="module")
def ranker(tiny_policy: Path, bank: RewardBank) -> Reranker:
    return Reranker(bank, load_policy(tiny_policy), n=4, max_new_tokens=8, seed=5)


def test_the_best_is_the_highest_reward_of_its_category(ranker: Reranker, bank: RewardBank) -> None:
    results = ranker.rank(PROMPTS, CATEGORIES)
    for prompt, category, ranked in zip(PROMPTS, CATEGORIES, results, strict=True):
        assert len(ranked.completions) == len(ranked.rewards) == 4
        alone = bank.score_completions(
            [prompt] * 4,
            [c.text for c in ranked.completions],
            [c.finished for c in ranked.completions],
            [category] * 4,
        ).tolist()
        assert ranked.rewards == pytest.approx(alone, abs=1e-5)
        assert ranked.reward == max(ranked.rewards)
        assert ranked.completion is ranked.completions[ranked.rewards.index(ranked.reward)]
    assert len({c.text for ranked in results for c in ranked.completions}) > 6


def test_completions_do_not_depend_on_the_neighbours(ranker: Reranker) -> None:
    together = ranker.rank(PROMPTS, CATEGORIES)
    alone = ranker.rank(PROMPTS[1:2], CATEGORIES[1:2])[0]
    assert alone.completions == together[1].completions
    assert ranker.rank(PROMPTS[::-1], CATEGORIES[::-1])[1].completions == alone.completions
    other = Reranker(ranker.bank, ranker.policy, n=4, max_new_tokens=8, seed=6)
    assert other.draw(PROMPTS[1]) != alone.completions


def test_given_completions_and_ties(bank: RewardBank) -> None:
    ranker = Reranker(bank)
    own = [Completion("Go on.", True, 2), Completion("Stop it now.", True, 3), Completion("Go on.", True, 2)]
    ranked = ranker.rank(PROMPTS[:1], [-1], [own])[0]
    assert ranked.rewards[0] == ranked.rewards[2]
    same = ranker.rank(PROMPTS[:1], [-1], [own[:1] * 3])[0]
    assert same.best == 0  # the first of equals
    flipped = ranker.rank(PROMPTS[:1], [-1], [own[::-1]])[0]
    assert flipped.completion.text == ranked.completion.text


def test_the_router_decides_where_no_category_is_given(
    ranker: Reranker, bank: RewardBank, encoder: Encoder, labelled: tuple[list[str], list[int]]
) -> None:
    router = Router.fit(*labelled, encode=encoder.encode)
    routed = Reranker(RoutedReward(bank, router), ranker.policy, n=4, max_new_tokens=8, seed=5)
    found = routed.rank(PROMPTS, [None, 0, None])
    expected = ranker.rank(PROMPTS, [router.categories(PROMPTS)[0], 0, router.categories(PROMPTS)[2]])
    for a, b in zip(found, expected, strict=True):
        assert a.completions == b.completions
        assert a.rewards == pytest.approx(b.rewards, abs=1e-5)


def test_mistakes(ranker: Reranker, bank: RewardBank) -> None:
    own = [Completion("x", True, 1)]
    cases = [
        (lambda: ranker.rank(PROMPTS[:1], [None]), "there is no router"),
        (lambda: ranker.rank(PROMPTS[:1], [7]), "no reward head for category 7"),
        (lambda: ranker.rank(PROMPTS[:1], [0], [[]]), "no completion to rank"),
        (lambda: ranker.rank(["word " * 300], [0], [own]), "the context is 128"),
        (lambda: ranker.rank(["word " * 30], [0]), "the policy's context is 128"),
        (lambda: Reranker(bank).rank(PROMPTS[:1], [0]), "no policy to draw them from"),
        (lambda: Reranker(bank, n=0), "at least 1"),
        (lambda: Reranker(bank, temperature=0.0), "temperature above 0"),
    ]
    for call, text in cases:
        with pytest.raises(DrirlError, match=text):
            call()
