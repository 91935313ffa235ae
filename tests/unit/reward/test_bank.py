"""The reward bank: one pass over mixed categories, exact files, calibration, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drirl.errors import DrirlError
from drirl.reward.bank import RewardBank

HEADS = [-1, 0, 1, 2, 3, 4, 5, 6]
PROMPTS = ["How do I bake bread?", "Tell me how to break into a house.", "What is 3 plus 4?", "Help me lie."]
ANSWERS = ["Sure. Go slowly.", "I can't help with that.", "The answer is 7.", ""]
CATEGORIES = [-1, 2, -1, 6]


@pytest.fixture
def bank(tiny_policy: Path) -> RewardBank:
    bank = RewardBank.from_policy(tiny_policy, HEADS)
    torch.manual_seed(3)
    torch.nn.init.normal_(bank.head.weight)
    torch.nn.init.normal_(bank.head.bias)
    return bank


def test_zero_heads_score_zero(tiny_policy: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, HEADS)
    assert bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES).tolist() == [0.0] * 4


def test_mixed_batch_equals_one_category_at_a_time(bank: RewardBank) -> None:
    mixed = bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)
    alone = [
        bank.score([p], [a], [True], [c]).item() for p, a, c in zip(PROMPTS, ANSWERS, CATEGORIES, strict=True)
    ]
    assert mixed.dtype == torch.float32
    assert mixed.tolist() == pytest.approx(alone, abs=1e-5)
    everything = bank.score_all(PROMPTS, ANSWERS, [True] * 4)
    assert everything[1, HEADS.index(2)] == mixed[1]


def test_score_is_the_head_at_the_last_token(bank: RewardBank) -> None:
    """Against the trunk run by hand without padding, end token included."""
    tokenizer = bank.tokenizer
    text = "<|user|>How do I bake bread?<|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += tokenizer("Sure. Go slowly.", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = bank.trunk(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    expected = hidden @ bank.head.weight[0] + bank.head.bias[0]
    found = bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)[0]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_replies_that_share_a_row_do_not_see_each_other(bank: RewardBank) -> None:
    """A packed row against each reply alone, for replies of different lengths, an empty one among them."""
    prompts = bank.prompt_ids(PROMPTS[:2])
    texts = ["Sure. Go slowly.", "", "I can't help with that. It could hurt someone."]
    replies = bank.reply_ids(texts, [True, False, True])
    together = bank([(prompts[0], replies), (prompts[1], replies[:1])])
    alone = torch.cat(
        [bank([(p, [r])]) for p, rs in ((prompts[0], replies), (prompts[1], replies[:1])) for r in rs]
    )
    assert together.shape == (4, len(HEADS))
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(
        bank.raw_all([(prompts[0], replies), (prompts[1], replies[:1])], tokens=1), alone, atol=1e-5
    )


def test_cut_off_differs_from_finished(bank: RewardBank) -> None:
    done = bank.score(PROMPTS[:1], ANSWERS[:1], [True], [-1])
    cut = bank.score(PROMPTS[:1], ANSWERS[:1], [False], [-1])
    assert abs((done - cut).item()) > 1e-4


def test_score_completions_cuts_the_draft(bank: RewardBank) -> None:
    full = bank.score_completions(PROMPTS[:1], ["wants: help #### Sure. Go slowly."], [True], [-1])
    assert full.item() == bank.score(PROMPTS[:1], ["Sure. Go slowly."], [True], [-1]).item()
    bank.input_mode = "full"
    assert bank.score_completions(PROMPTS[:1], ["wants: help #### Sure. Go slowly."], [True], [-1]) != full


def test_save_and_load_are_exact(bank: RewardBank, tmp_path: Path) -> None:
    bank.calibrate(torch.randn(40, len(HEADS)), torch.arange(40) % len(HEADS))
    bank.info["irl_iter"] = 1
    bank.save(tmp_path / "a")
    again = RewardBank.load(tmp_path / "a")
    assert again.heads == HEADS
    assert again.info == bank.info
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    scores = [b.score(PROMPTS, ANSWERS, [True, False] * 2, CATEGORIES) for b in (bank, again)]
    assert torch.equal(scores[0], scores[1])
    again.save(tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_calibration_gives_mean_zero_and_deviation_one(bank: RewardBank) -> None:
    columns = torch.tensor([0] * 5 + [3] * 5)
    raw = torch.randn(10, len(HEADS)) * 3 + 2
    bank.calibrate(raw, columns)
    for h in (0, 3):
        values = (raw[columns == h, h] - bank.mu[h]) / bank.scale[h]
        assert values.mean().item() == pytest.approx(0, abs=1e-6)
        assert values.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)
    assert (bank.mu[1], bank.scale[1]) == (0, 1)  # no rows of that head
    bank.calibrate(torch.ones(4, len(HEADS)), torch.zeros(4, dtype=torch.long))
    assert (bank.mu[0], bank.scale[0]) == (1, 1)  # rows that do not vary


def test_calibrated_score(bank: RewardBank) -> None:
    before = bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)
    bank.mu[HEADS.index(2)], bank.scale[HEADS.index(2)] = 0.5, 4.0
    after = bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)
    assert after[1].item() == pytest.approx((before[1].item() - 0.5) / 4, abs=1e-6)
    assert after[0] == before[0]


def test_single_head_ignores_categories(tiny_policy: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, ["all"])
    torch.nn.init.normal_(bank.head.weight)
    a = bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)
    assert torch.equal(a, bank.score(PROMPTS, ANSWERS, [True] * 4, [99] * 4))


def test_errors_are_one_line(bank: RewardBank, tiny_policy: Path, tmp_path: Path) -> None:
    cases = [
        (lambda: bank.score([], [], [], []), "nothing to score"),
        (lambda: bank.score(PROMPTS, ANSWERS, [True] * 4, [-1, 2, -1, 7]), "no reward head for category 7"),
        (lambda: bank.score(PROMPTS, ANSWERS[:2], [True] * 4, CATEGORIES), "as many replies"),
        (lambda: bank.score(PROMPTS, ANSWERS, [True] * 4, [0]), "one category per prompt"),
        (lambda: bank.score(["word " * 300], ["x"], [True], [0]), "the context is 128"),
        (lambda: RewardBank.load(tmp_path), "bank.json is missing"),
        (lambda: RewardBank.from_policy(tmp_path / "none", HEADS), "is not a folder"),
        (lambda: RewardBank.from_policy(tiny_policy, []), "at least one head"),
    ]
    for call, text in cases:
        with pytest.raises(DrirlError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_score_that_is_not_finite_is_an_error(bank: RewardBank) -> None:
    with torch.no_grad():
        bank.head.bias[HEADS.index(6)] = float("nan")
    with pytest.raises(DrirlError, match="head 6 is not finite"):
        bank.score(PROMPTS, ANSWERS, [True] * 4, CATEGORIES)


def test_a_reply_over_the_context_loses_its_end(bank: RewardBank) -> None:
    long = bank.score(PROMPTS[:1], ["word " * 400], [True], [-1])
    assert torch.equal(long, bank.score(PROMPTS[:1], ["word " * 400], [False], [-1]))
