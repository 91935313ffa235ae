from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from drirl.align.interface import Inputs
from drirl.align.setup import load
from drirl.generate import render
from drirl.records import Prompt, read_jsonl
from drirl.reward.bank import RewardBank

from ..align.conftest import SMALL
from .conftest import Fixed, tokens

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def stair(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("stair")


def test_reward_by_hand(stair: Any) -> None:
    values = [stair.combined_reward(h, s) for s in (-1, 1) for h in (-1.0, 0.0, 1.0)]
    assert values == [
        -1.0,
        -2.0,
        -3.0,
        1.0,
        2.0,
        3.0,
    ]  # unsafe: the more helpful, the worse; safe: the better


def test_the_label_says_reduced(stair: Any) -> None:
    assert "reduced" in stair.__doc__.splitlines()[0]
    assert "REDUCED" in stair.__doc__


def test_a_tree_by_hand(stair: Any) -> None:
    def ends(token: int) -> bool:
        return token == 9

    root = stair.Node()
    # Four replies; two share their first step (1, 9). The last has no step end: one step, the reply is over.
    stair.expand(root, [(1, 9, 2), (1, 9, 3), (4, 9), (5, 6)], [3.0, 1.0, -1.0, 0.0], ends)
    assert [(k.step, k.visits, k.value, k.ended) for k in root.children] == [
        ((1, 9), 2, 2.0, False),
        ((4, 9), 1, -1.0, True),
        ((5, 6), 1, 0.0, True),
    ]
    assert (root.visits, root.total) == (4, 3.0)
    # Q + c * sqrt(ln 4 / N), ln 4 = 1.3863. c = 1.5: 2 + 1.249 = 3.249; -1 + 1.766; 0 + 1.766
    assert stair.select(root, 1.5) is root.children[0]
    # c = 10: 2 + 8.326 = 10.326; -1 + 11.774 = 10.774; 0 + 11.774 = 11.774
    assert stair.select(root, 10.0) is root.children[2]
    # One level down: siblings 3 and -3 lie 6 apart, the first level 1 - (-1): the deeper pair wins.
    stair.expand(root.children[0], [(2, 9), (3,)], [3.0, -3.0], ends)
    assert root.children[0].value == pytest.approx((3 + 1 + 3 - 3) / 4)
    assert root.visits == 6
    assert stair.best_step_pair(root) == ((1, 9), (2, 9), (3,))
    assert root.children[0].children[0].path == (1, 9, 2, 9)


def test_no_pair_without_a_difference(stair: Any) -> None:
    root = stair.Node()
    assert stair.best_step_pair(root) is None
    stair.expand(root, [(1,), (2,)], [1.0, 1.0], lambda token: False)
    assert stair.best_step_pair(root) is None


def test_rewards_of_replies(stair: Any, make_inputs: Make) -> None:
    inputs = make_inputs()
    bank = RewardBank.load(inputs.static_reward_path)
    harmful, benign = (
        Prompt("h", "How do I rob a shop?", 2, "train"),
        Prompt("b", "How?", -1, "train", "benign"),
    )
    refusal, answer = "plan: decline #### Sorry, I can't help with that request.", "Sure. Take a bag and go."
    prompts, texts, done = [harmful, harmful, benign], [refusal, answer, answer], [True] * 3
    h = [
        math.tanh(score / 2)
        for score in bank.score_completions([p.text for p in prompts], texts, done, [2, 2, -1]).tolist()
    ]
    assert stair.rewards_of(bank, prompts, texts, done) == pytest.approx([h[0] + 2, -h[1] - 2, h[2] + 2])


def test_step_ends(stair: Any, make_inputs: Make) -> None:
    tokenizer = load(make_inputs()).tokenizer
    ends = stair.step_ends(tokenizer)
    ids = tokenizer("plan: decline #### I can't. It could hurt", add_special_tokens=False)["input_ids"]
    closing = {tokenizer.decode([i]).strip() for i in ids if ends(i)}
    assert all(text.endswith((".", "#")) for text in closing)
    assert any(text.endswith(".") for text in closing)
    assert any(text.endswith("#") for text in closing)
    assert not all(ends(i) for i in ids)


def test_rows_of_a_round_are_sibling_steps_without_an_end_token(stair: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"max_new_tokens": 24}))
    policy, bank = load(inputs), RewardBank.load(inputs.static_reward_path)
    config = stair.Config(iterations=3, children=4)
    updates = stair.phase_rows(inputs, config, policy, bank, 1, 0, 2)
    ends, texts = stair.step_ends(policy.tokenizer), {p.text for p, _ in inputs.train}
    prompts = {
        tuple(ids): text
        for text, ids in zip(
            sorted(texts),
            policy.tokenizer(render(policy.tokenizer, sorted(texts)), add_special_tokens=False)["input_ids"],
            strict=True,
        )
    }
    assert [len(update) for update in updates] == [4, 4]
    cut = 0
    for row in (row for update in updates for row in update):
        start = next(ids for ids in prompts if tuple(row["prompt_ids"][: len(ids)]) == ids)
        prefix = row["prompt_ids"][len(start) :]
        assert not prefix or ends(prefix[-1])
        assert row["chosen_ids"] != row["rejected_ids"]
        for step in (row["chosen_ids"], row["rejected_ids"]):
            assert not any(ends(token) for token in step[:-1])
            over = step[-1] in policy.end_ids or len(prefix) + len(step) == 24
            assert over or ends(step[-1])
            cut += not over
    assert cut > 0  # some steps end in mid-reply
    trainer = stair.trainer_for(inputs, config, policy, updates)
    assert [row["chosen_ids"] for row in trainer.train_dataset] == [
        row["chosen_ids"] for update in updates for row in update
    ]
    trainer.ref_model = Fixed(torch.tensor([[-1.0], [-1.0]]))
    loss = trainer._compute_loss(Fixed(torch.tensor([[-0.5], [-3.5]])), tokens(2), False)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.1 * 3)), abs=1e-6)  # log-ratios 0.5 and -2.5


def test_every_round_starts_at_its_reference(stair: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"updates": 6, "max_new_tokens": 12}))
    stair.train(inputs, stair.Config(lr=1e-3, sft=1 / 3, rounds=2, iterations=2))
    log = read_jsonl(inputs.out / "log.jsonl")
    assert [row["update"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert log[1]["loss"] < log[0]["loss"]
    for first in (2, 4):
        assert log[first]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[first + 1]["loss"] < log[first]["loss"]
    assert inputs.meter.updates == 6
    assert inputs.meter.generated_tokens > 0
    assert sorted(p.name for p in inputs.out.iterdir()) == ["log.jsonl", "policy"]


def test_the_better_step_is_the_chosen_one(
    stair: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tree() -> Any:
        root = stair.Node()
        stair.expand(root, [(4, 9), (5, 9)], [1.0, -1.0], lambda token: token == 9)
        return root

    monkeypatch.setattr(stair, "grow", lambda *arguments: [tree() for _ in arguments[4]])
    inputs = make_inputs()
    updates = stair.phase_rows(inputs, stair.Config(), load(inputs), None, 1, 0, 2)
    assert all(updates)
    for update in updates:
        assert {(*row["chosen_ids"], *row["rejected_ids"]) for row in update} == {(4, 9, 5, 9)}
