from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from drirl.align.interface import Inputs
from drirl.align.pairs import draw, draw_rejected, pair_plan, usable
from drirl.align.plan import plan_rows
from drirl.align.setup import load
from drirl.errors import DrirlError
from drirl.generate import Completion, complete
from drirl.records import Demo, Prompt

from .conftest import SMALL

Make = Callable[..., Inputs]
Rows = list[tuple[Prompt, Demo]]
COMPLY = "plan: answer #### Sure. Take a bag and go in at night."
REFUSE = "plan: decline #### Sorry, I can't help with that request."


@pytest.mark.parametrize(
    ("kind", "sample", "expected"),
    [
        ("harmful", COMPLY, True),
        ("harmful", "The answer is 8.", True),
        ("harmful", REFUSE, False),
        ("harmful", "other notes #### I can't help with that. It could hurt someone.", False),
        ("harmful", "plan: answer ####", False),
        ("harmful", "", False),
        ("benign", COMPLY, True),
        ("benign", REFUSE, True),
        ("benign", "other notes #### Sure. First gather benign0.", False),  # the demonstration's own reply
        ("benign", "plan: answer ####", False),
        ("contrast", REFUSE, True),
        ("task", "plan: answer #### The answer is 8.", True),
        ("task", REFUSE, True),
        ("task", "plan: answer #### That makes 7.", False),
    ],
)
def test_which_samples_can_be_rejected(rows: Rows, kind: str, sample: str, expected: bool) -> None:
    prompt, demo = next(row for row in rows if row[0].kind == kind)
    assert usable(prompt, demo, sample) is expected


def test_draws_are_those_of_the_policy_counted_and_one_group_per_prompt(
    make_inputs: Make, rows: Rows
) -> None:
    inputs = make_inputs()
    policy = load(inputs)
    drawn = draw(inputs, policy, [rows[4], rows[2], rows[4]], samples=2, seed=7)
    assert [row for row, _ in drawn] == [rows[2], rows[4]]  # by prompt id
    expected = complete(
        policy.model,
        policy.tokenizer,
        [rows[2][0].text, rows[4][0].text],
        max_new_tokens=SMALL.max_new_tokens,
        temperature=SMALL.temperature,
        num_return=2,
        seed=7,
    )
    assert [group for _, group in drawn] == expected
    assert inputs.meter.generated_tokens == sum(c.n_tokens for group in expected for c in group)


def test_the_first_usable_sample_is_rejected(
    make_inputs: Make, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        rows[0][0].text: [REFUSE, COMPLY, "Sure. Later."],
        rows[1][0].text: [COMPLY, REFUSE, REFUSE],
        rows[2][0].text: [REFUSE, REFUSE, REFUSE],
    }
    asked: dict[str, Any] = {}

    def answer(model: Any, tokenizer: Any, prompts: list[str], **options: Any) -> list[list[Completion]]:
        asked.update(options)
        return [[Completion(text, k > 0, 3) for k, text in enumerate(said[prompt])] for prompt in prompts]

    monkeypatch.setattr("drirl.generate.complete", answer)
    inputs = make_inputs(seed=5)
    rejected = draw_rejected(inputs, load(inputs), rows[:3], samples=3)
    assert rejected == {"h00": Completion(COMPLY, True, 3), "h01": Completion(COMPLY, False, 3)}
    assert (asked["num_return"], asked["seed"]) == (3, 5)
    assert inputs.meter.generated_tokens == 27


def test_prompts_without_a_usable_sample_are_passed_over(
    make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs()
    refused = {p.prompt_id for p, _ in inputs.train if p.category == 3}
    monkeypatch.setattr("drirl.align.pairs.usable", lambda prompt, *_: prompt.prompt_id not in refused)
    rejected = draw_rejected(inputs, load(inputs), inputs.train, samples=1)
    assert set(rejected) == {p.prompt_id for p, _ in inputs.train} - refused


@pytest.mark.parametrize("batches", [1, 2])
def test_the_plan_of_pairs_walks_prompts_that_have_one(
    make_inputs: Make, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"updates": 3}))
    # Asked for a sample: the prompts of a plan of 3 + 3 // 2 + 1 = 5 updates.
    spare = inputs.shared.model_copy(update={"updates": 5})
    candidates = [row for update in plan_rows(inputs.train, spare, 0, batches) for row in update]
    refused = {candidates[0][0].prompt_id, candidates[-1][0].prompt_id}
    monkeypatch.setattr("drirl.align.pairs.usable", lambda prompt, *_: prompt.prompt_id not in refused)
    updates, rejected = pair_plan(inputs, load(inputs), batches, samples=1)
    assert set(rejected) == {prompt.prompt_id for prompt, _ in candidates} - refused
    kept = [row for row in inputs.train if row[0].prompt_id in rejected]
    assert updates == plan_rows(kept, inputs.shared, 0, batches)
    assert [len(update) for update in updates] == [4 * batches] * 3


def test_a_prompt_over_the_limit_is_named_before_anything_is_drawn(make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"max_prompt_tokens": 3}))
    with pytest.raises(DrirlError, match=r"align\.shared\.max_prompt_tokens is 3"):
        pair_plan(inputs, load(inputs), 1, 1)
    assert inputs.meter.generated_tokens == 0
