"""Round-robin order, capped draws and the imbalanced control, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from drirl.data.balance import Candidate, Drawer, imbalanced_counts, round_robin
from drirl.data.raw import RawPrompt


def candidate(name: str, cluster: int = 0, **values: Any) -> Candidate:
    return Candidate(RawPrompt(text=name, **values), name, cluster, "train")


def test_any_prefix_is_spread_over_pairs() -> None:
    many = [candidate(f"a{i}", 0, source="big") for i in range(50)]
    many += [candidate(f"b{i}", 1, source="big") for i in range(5)]
    many += [candidate(f"c{i}", 0, source="small") for i in range(2)]
    order = round_robin(many, seed=0, label="x")
    assert len(order) == 57
    for turn in range(2):
        assert sorted(c.prompt_id[0] for c in order[3 * turn : 3 * turn + 3]) == ["a", "b", "c"]
    assert [c.prompt_id[0] for c in order[6:12]].count("b") == 3  # two pairs are left
    assert {c.prompt_id[0] for c in order[12:]} == {"a"}


def test_levels_take_turns_within_a_pair() -> None:
    rows = [candidate(f"{level}{i}", level=level) for level in ("direct", "disguised") for i in range(4)]
    order = round_robin(rows, seed=1, label="x")
    assert [order[i].raw.level != order[i + 1].raw.level for i in range(0, 8, 2)] == [True] * 4


def test_order_depends_on_seed_only() -> None:
    rows = [candidate(f"p{i}", i % 3) for i in range(30)]
    assert round_robin(rows, seed=0, label="x") == round_robin(rows[::-1], seed=0, label="x")
    assert round_robin(rows, seed=0, label="x") != round_robin(rows, seed=1, label="x")


def test_draw_caps_weak_and_synthetic() -> None:
    rows = [candidate(f"w{i}", weak_map=True) for i in range(4)]
    rows += [candidate(f"r{i}") for i in range(3)]
    rows += [candidate(f"s{i}", synthetic=True) for i in range(9)]
    drawer = Drawer(rows, max_weak=0.25, max_synthetic=0.5)
    assert [c.prompt_id for c in drawer.draw(8)] == ["w0", "w1", "r0", "r1", "r2", "s0", "s1", "s2"]
    drawer.rejected = {"w0": "leak", "r1": "leak"}
    assert [c.prompt_id for c in drawer.draw(8)] == ["w1", "w2", "r0", "r2", "s0", "s1", "s2", "s3"]
    assert len(drawer.draw(40)) == 3 + 2 + 9  # not enough: what there is
    assert len(drawer.draw(0)) == 0


def test_a_split_that_takes_all_there_is_keeps_the_shares() -> None:
    rows = [candidate(f"w{i}", weak_map=True) for i in range(10)] + [candidate(f"r{i}") for i in range(10)]
    drawer = Drawer(rows, max_weak=0.25, max_synthetic=0.5)
    assert sum(c.raw.weak_map for c in drawer.draw(None)) == 5  # a quarter of 20, but of 15 drawn a third
    for count in (None, 20, 60):
        drawn = drawer.draw(count, short=True)
        assert [c.raw.weak_map for c in drawn].count(True) == 3
        assert len(drawn) == 13
    assert len(drawer.draw(12, short=True)) == 12  # enough: the first twelve, three of them weak
    alone = Drawer(rows[:10], max_weak=0.25, max_synthetic=0.5)
    assert alone.draw(None, short=True) == []  # the stage then asks without it: a split may not be empty
    assert len(alone.draw(None)) == 2


def test_imbalanced_counts_by_hand() -> None:
    # 21 / (1 + 1/2 + ... + 1/7) = 8.0992: 8.10 4.05 2.70 2.02 1.62 1.35 1.16 for 0,1,2,3,4,6,5
    assert imbalanced_counts(21, 1.0, [99] * 7) == [8, 4, 3, 2, 2, 1, 1]
    assert imbalanced_counts(2100, 1.0, [2100] * 7) == [810, 405, 270, 202, 162, 116, 135]
    assert imbalanced_counts(21, 0.0, [3] * 7) == [3] * 7


def test_imbalanced_control_shrinks_with_its_head() -> None:
    counts = imbalanced_counts(2100, 1.0, [405, 405, 270, 202, 162, 116, 135])
    assert counts[0] == 405
    assert sum(counts) == pytest.approx(1050, abs=2)
    assert imbalanced_counts(10, 1.0, [0] * 7) == [0] * 7
