from __future__ import annotations

from collections import Counter

import pytest

from drirl.align.plan import batch_plan, plan_rows
from drirl.align.settings import Shared
from drirl.errors import DrirlError
from drirl.records import Demo, Prompt

MIX = {"benign": 3.0, "contrast": 2.0, "task": 2.0}
Rows = list[tuple[Prompt, Demo]]


def test_every_update_has_each_category_once_and_the_mix_of_kinds(rows: Rows) -> None:
    prompts = [p for p, _ in rows]
    for update in batch_plan(prompts, updates=6, harmful=7, benign=7, mix=MIX, seed=0):
        chosen = [prompts[i] for i in update]
        assert sorted(p.category for p in chosen if p.category >= 0) == list(range(7))
        assert Counter(p.kind for p in chosen if p.category < 0) == {"benign": 3, "contrast": 2, "task": 2}


def test_a_category_is_walked_without_replacement_then_again(rows: Rows) -> None:
    prompts = [p for p, _ in rows]
    plan = batch_plan(prompts, updates=6, harmful=7, benign=0, mix=MIX, seed=3)
    drawn = [prompts[i].prompt_id for update in plan for i in update if prompts[i].category == 4]
    assert len(drawn) == 6
    assert set(drawn[:3]) == set(drawn[3:]) == {"h40", "h41", "h42"}


def test_fewer_prompts_than_categories_rotate(rows: Rows) -> None:
    prompts = [p for p, _ in rows]
    plan = batch_plan(prompts, updates=7, harmful=2, benign=0, mix=MIX, seed=0)
    seen = Counter(prompts[i].category for update in plan for i in update)
    assert set(seen.values()) == {2}  # 14 draws over 7 categories


def test_plan_goes_by_prompt_id_and_seed_not_by_file_order(rows: Rows) -> None:
    shared = Shared(updates=3)
    ids = [[p.prompt_id for p, _ in update] for update in plan_rows(rows, shared, seed=1)]
    assert ids == [[p.prompt_id for p, _ in u] for u in plan_rows(list(reversed(rows)), shared, seed=1)]
    assert ids != [[p.prompt_id for p, _ in u] for u in plan_rows(rows, shared, seed=2)]


def test_joined_batches_are_the_same_sequence_in_larger_updates(rows: Rows) -> None:
    single = plan_rows(rows, Shared(updates=4), seed=0)
    joined = plan_rows(rows, Shared(updates=2), seed=0, batches=2)
    assert joined == [single[0] + single[1], single[2] + single[3]]


def test_a_longer_plan_starts_with_the_shorter_one(rows: Rows) -> None:
    assert plan_rows(rows, Shared(updates=5), seed=0)[:2] == plan_rows(rows, Shared(updates=2), seed=0)


def test_kinds_the_data_lacks_are_left_out(rows: Rows) -> None:
    prompts = [p for p, _ in rows if p.kind in ("harmful", "task")]
    [update] = batch_plan(prompts, updates=1, harmful=7, benign=3, mix=MIX, seed=0)
    assert Counter(prompts[i].kind for i in update) == {"harmful": 7, "task": 3}


@pytest.mark.parametrize("kinds", [("task",), ("harmful",)])
def test_a_missing_side_is_an_error(rows: Rows, kinds: tuple[str, ...]) -> None:
    prompts = [p for p, _ in rows if p.kind in kinds]
    with pytest.raises(DrirlError, match=r"no harmful prompt|benign_per_update is 1"):
        batch_plan(prompts, updates=1, harmful=1, benign=1, mix=MIX, seed=0)


def test_shares_of_the_data_and_equal_ones(rows: Rows) -> None:
    prompts = [p for p, _ in rows if p.category in (0, 1, 2)]
    prompts = [p for p in prompts if p.category != 2 or p.prompt_id == "h20"]  # 3, 3 and 1 of a category
    plan = batch_plan(prompts, updates=2, harmful=7, benign=0, mix=MIX, seed=0, shares="data")
    for update in plan:
        assert Counter(prompts[i].category for i in update) == {0: 3, 1: 3, 2: 1}
    equal = batch_plan(prompts, updates=3, harmful=7, benign=0, mix=MIX, seed=0)
    assert Counter(prompts[i].category for u in equal for i in u) == {0: 7, 1: 7, 2: 7}


def test_categories_one_after_another(rows: Rows) -> None:
    prompts = [p for p, _ in rows]
    options = {"harmful": 3, "benign": 7, "mix": MIX, "seed": 0, "order": "sequential"}
    plan = batch_plan(prompts, updates=9, **options)
    found = [{prompts[i].category for i in update[:3]} for update in plan]
    assert all(len(categories) == 1 for categories in found)
    blocks = [categories.pop() for categories in found]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(7))
    assert all(1 <= blocks.count(c) <= 2 for c in range(7))
    mixed = batch_plan(prompts, updates=9, **options | {"order": "mixed"})
    assert [u[3:] for u in plan] == [u[3:] for u in mixed]  # benign prompts are the same ones
    joined = batch_plan(prompts, updates=21, joined=3, **options)
    for start in range(0, 21, 3):
        assert len({prompts[i].category for update in joined[start : start + 3] for i in update[:3]}) == 1
    with pytest.raises(DrirlError, match="needs an update for each of 7 categories; found 6"):
        batch_plan(prompts, updates=6, **options)


def test_the_plan_of_a_method_follows_the_shared_settings(rows: Rows) -> None:
    shared = Shared(updates=7, harmful_order="sequential", benign_per_update=0)
    assert [{p.category for p, _ in update} for update in plan_rows(rows, shared, 0)] == [
        {c} for c in range(7)
    ]
