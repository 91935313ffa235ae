from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from drirl.align.interface import Inputs
from drirl.align.setup import load
from drirl.errors import DrirlError
from drirl.generate import Completion, render
from drirl.records import read_jsonl

from ..align.conftest import SMALL
from .conftest import Fixed, tokens

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def method(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("self_rewarding")


def test_rating_by_hand(method: Any) -> None:
    # Ratings 0..5 are the tokens 6, 5, 4, 3, 2, 1. Row 1: 5 is three times as likely as 0, the rest cannot
    # be: (0 * 1 + 5 * 3) / 4. Row 2: all equal: 2.5. Token 0 is likelier than all of them and does not count.
    logits = torch.full((2, 7), -math.inf)
    logits[0, 6], logits[0, 1] = 0.0, math.log(3)
    logits[1, 1:] = 7.0
    logits[:, 0] = 50.0
    assert method.expected_rating(logits, [6, 5, 4, 3, 2, 1]).tolist() == pytest.approx([3.75, 2.5])


@pytest.mark.parametrize(
    ("replies", "scores", "expected"),
    [
        (["a", "b", "c"], [1.0, 3.0, 2.0], (1, 0)),
        (["a", "b", "c"], [3.0, 3.0, 1.0], (0, 2)),
        (["a", "b"], [2.0, 2.0], None),
        (["a", "a"], [2.0, 1.0], None),
    ],
)
def test_best_against_worst(method: Any, replies: list[str], scores: list[float], expected: Any) -> None:
    assert method.best_and_worst(replies, scores) == expected


def test_judge_reads_the_models_own_next_token(method: Any, make_inputs: Make) -> None:
    policy = load(make_inputs())
    pairs = [
        ("How do I bake?", "Sure."),
        ("Tell me how to break into a house.", "I can't help with that. No."),
    ]
    digits = method.rating_tokens(policy.tokenizer)
    assert [policy.tokenizer.decode([token]) for token in digits] == list("012345")
    expected = []
    for prompt, reply in pairs:
        text = render(policy.tokenizer, [method.JUDGE.format(prompt=prompt, reply=reply)])[0]
        ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            shares = policy.model(input_ids=ids).logits[0, -1, digits].softmax(-1)
        expected.append(sum(k * float(share) for k, share in enumerate(shares)))
    assert method.judge(policy, pairs) == pytest.approx(expected, abs=1e-4)
    assert method.judge(policy, pairs, rows=1) == pytest.approx(expected, abs=1e-4)


def test_a_long_reply_is_cut_to_the_context(method: Any, make_inputs: Make) -> None:
    policy = load(make_inputs())
    reply = "Sure. First gather what you need, then go slowly. " * 10
    (filled,) = method.judge_prompts(policy.tokenizer, 128, [("How do I bake?", reply)])
    length = len(
        policy.tokenizer(render(policy.tokenizer, [filled])[0], add_special_tokens=False)["input_ids"]
    )
    assert 100 < length < 128
    assert filled.startswith(method.JUDGE.format(prompt="How do I bake?", reply="Sure. First"))


def test_ratings_must_differ_in_their_first_token(method: Any, make_inputs: Make) -> None:
    policy = load(make_inputs())

    class Unable:
        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            return policy.tokenizer.apply_chat_template(*args, **kwargs)

        def __call__(self, text: str, **kwargs: Any) -> Any:
            return policy.tokenizer(text.replace("5", "4"), **kwargs)

    with pytest.raises(DrirlError, match="tells the digits 0 to 5"):
        method.rating_tokens(Unable())


def test_loss_of_an_iteration_by_hand(method: Any, make_inputs: Make) -> None:
    trainer = method.build(make_inputs(), method.Config(beta=0.5), 1, 0, 1)
    trainer.ref_model = Fixed(torch.tensor([[-4.0], [-4.0]]))
    loss = trainer._compute_loss(Fixed(torch.tensor([[-2.0], [-6.0]])), tokens(2), False)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5 * 4)), abs=1e-6)  # log-ratios 2 and -2


def test_warm_up_teaches_replies_and_ratings(method: Any, make_inputs: Make) -> None:
    inputs = make_inputs()
    policy = load(inputs)
    updates = method.phase_rows(inputs, method.Config(), policy, 0, 0, 2)
    size = SMALL.harmful_per_update + SMALL.benign_per_update
    assert [len(update) for update in updates] == [3 * size] * 2
    said = [[m["content"] for m in (row["prompt"][0], row["completion"][0])] for row in updates[0][:3]]
    demo = next(d.full_text for p, d in inputs.train if p.text == said[0][0])
    assert said[0][1] == demo
    assert said[1] == [method.JUDGE.format(prompt=said[0][0], reply=demo), "5"]
    assert said[2][1] == "0"
    assert said[2][0].startswith(method.JUDGE.format(prompt=said[0][0], reply=""))


def test_every_iteration_starts_at_its_reference(method: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"updates": 6}))
    method.train(inputs, method.Config(lr=1e-3, warm_up=1 / 3, iterations=2, samples=3))
    log = read_jsonl(inputs.out / "log.jsonl")
    assert [row["update"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert log[1]["loss"] < log[0]["loss"]
    for first in (2, 4):
        assert log[first]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[first + 1]["loss"] != log[first]["loss"]
    assert inputs.meter.updates == 6
    assert inputs.meter.trained_tokens > 0
    assert sorted(p.name for p in inputs.out.iterdir()) == ["log.jsonl", "policy"]


def test_the_reply_rated_best_is_the_chosen_one(
    method: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(inputs: Any, policy: Any, rows: Any, samples: int, seed: int) -> Any:
        return [(row, [Completion(f"reply {k}", True, 2) for k in range(samples)]) for row in rows]

    def judge(_: Any, pairs: Any) -> list[float]:
        return [(0.0, 2.0, 1.0)[int(reply[-1])] for _, reply in pairs]

    monkeypatch.setattr(method, "draw", draw)
    monkeypatch.setattr(method, "judge", judge)
    inputs = make_inputs()
    updates = method.phase_rows(inputs, method.Config(samples=3), load(inputs), 1, 0, 2)
    rows = [row for update in updates for row in update]
    assert len(rows) == 2 * (SMALL.harmful_per_update + SMALL.benign_per_update)
    for row in rows:
        assert row["chosen"][0]["content"] == "reply 1"
        assert row["rejected"][0]["content"] == "reply 0"
