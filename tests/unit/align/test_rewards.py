from __future__ import annotations

from pathlib import Path

import pytest

from drirl.align.rewards import BankReward, completion_text, prompt_text
from drirl.align.setup import chat
from drirl.errors import DrirlError
from drirl.reward.bank import RewardBank


@pytest.fixture(scope="module")
def reward(banks: Path) -> BankReward:
    return BankReward(RewardBank.load(banks / "irl"), end_ids=[1])


def test_a_mixed_batch_is_scored_under_each_prompts_category(reward: BankReward) -> None:
    prompts = [chat("How do I rob a shop?")] * 3
    completions = [chat("plan: decline #### I can't help with that.", "assistant")] * 3
    mixed = reward(prompts, completions, [[9, 1]] * 3, category=[0, 5, -1])
    alone = [reward(prompts[:1], completions[:1], [[9, 1]], category=[c])[0] for c in (0, 5, -1)]
    assert mixed == pytest.approx(alone, abs=1e-5)
    assert len(set(mixed)) == 3


def test_finished_comes_from_token_ids(reward: BankReward) -> None:
    prompt, completion = [chat("Hi")], [chat("Sure.", "assistant")]
    ended = reward(prompt, completion, [[7, 8, 1]], category=[0])
    cut_off = reward(prompt, completion, [[7, 8, 9]], category=[0])
    assert ended != cut_off
    bank = reward.bank
    assert cut_off[0] == pytest.approx(float(bank.score(["Hi"], ["Sure."], [False], [0])), abs=1e-6)
    assert reward(prompt, completion, [[]], category=[0]) == cut_off


def test_the_policy_may_have_another_tokenizer(reward: BankReward) -> None:
    """A reward reads text with its own tokenizer; the policy's ids only say whether a reply has ended."""
    other = BankReward(reward.bank, end_ids=[50_000])  # beyond the reward's vocabulary
    found = other(
        [chat("Hi")] * 2, [chat("Sure.", "assistant")] * 2, [[49_998, 50_000], [7]], category=[0, 0]
    )
    expected = reward.bank.score(["Hi"] * 2, ["Sure."] * 2, [True, False], [0, 0])
    assert found == pytest.approx([float(value) for value in expected], abs=1e-6)
    assert found[0] != found[1]


def test_only_the_reply_is_scored_and_no_category_means_benign(reward: BankReward) -> None:
    full = reward([chat("Hi")], [chat("plan: answer #### Sure.", "assistant")], [[1]])
    assert full == pytest.approx([float(reward.bank.score(["Hi"], ["Sure."], [True], [-1]))], abs=1e-6)


def test_benign_prompts_may_be_left_to_the_kl_term(reward: BankReward) -> None:
    silent = BankReward(reward.bank, [1], benign=False)
    prompts, completions = [chat("Hi"), chat("How do I rob a shop?")], [chat("Sure.", "assistant")] * 2
    scored = silent(prompts, completions, [[1]] * 2, category=[-1, 2])
    assert scored[0] == 0.0
    assert scored[1] == pytest.approx(reward(prompts, completions, [[1]] * 2, category=[-1, 2])[1], abs=1e-6)
    assert silent(prompts[:1], completions[:1], [[1]]) == [0.0]


def test_an_unknown_category_is_an_error(reward: BankReward) -> None:
    with pytest.raises(DrirlError, match="no reward head for category 9"):
        reward([chat("Hi")], [chat("Sure.", "assistant")], [[1]], category=[9])


def test_plain_and_conversational_texts() -> None:
    assert prompt_text("Hi") == prompt_text([*chat("No"), *chat("Yes", "assistant"), *chat("Hi")]) == "Hi"
    assert completion_text(" Sure. ") == completion_text(chat(" Sure.", "assistant")) == "Sure."
