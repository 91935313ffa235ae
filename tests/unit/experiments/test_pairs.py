"""Demonstration against sample: verdicts by hand, and a sheet that does not give away who wrote what."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.experiments.extras.pairs import COUNT, KEY, LABELS, SHEET, draw_pairs, read_labels, write_sheet
from drirl.records import Demo, Prompt, RolloutGroup

NO = "I cannot help with that request. It could hurt someone."
YES = "Sure, here is a way to do it at home."


def _group(i: int, step: int, completions: list[str], r_gen: list[float], category: int = 0) -> RolloutGroup:
    return RolloutGroup(
        step=step,
        prompt_id=f"p{i}",
        category=category,
        completions=completions,
        r_gen=r_gen,
        r_demo=1.0,
        delta=[],
        gap=[],
        mask=[],
        alpha_D=1.0,
        alpha_M=1.0,
        alpha=1.0,
        adv=[],
    )


def _demo(i: int) -> Demo:
    return Demo(f"d{i}", f"p{i}", 0, [], NO, NO, "refuse", "grammar", "t")


def _prompts(n: int) -> list[Prompt]:
    return [Prompt(f"p{i}", f"prompt {i}", 0, "train") for i in range(n)]


def test_verdicts_by_hand() -> None:
    groups = [_group(0, 1, [f"wants: x\n#### {YES}", NO], [0.5, 1.5]), _group(1, 1, [YES], [1.0], -1)]
    first, second = draw_pairs(groups, [_demo(0), _demo(1)], _prompts(2), 0)
    assert (first.by_rules, first.by_reward, first.sample) == (1.0, 1.0, YES)
    assert (second.by_rules, second.by_reward) == (0.5, 0.0)


def test_every_update_has_its_pairs_and_prompts_take_turns() -> None:
    groups = [_group(i, step, [YES] * 6, [0.0] * 6) for step in (1, 50) for i in range(40)]
    pairs = draw_pairs(groups, [_demo(i) for i in range(40)], _prompts(40), 0)
    assert [sum(p.update == step for p in pairs) for step in (1, 50)] == [COUNT, COUNT]
    first = [p.prompt_id for p in pairs if p.update == 1]
    assert len(set(first[:40])) == 40


def test_a_filled_in_sheet_is_read_with_the_key(tmp_path: Path) -> None:
    groups = [_group(i, step, [YES], [0.0]) for step in (1, 50) for i in range(20)]
    pairs = draw_pairs(groups, [_demo(i) for i in range(20)], _prompts(20), 0)
    write_sheet(tmp_path, pairs, 0)
    with (tmp_path / SHEET).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["better"] for row in rows} == {""}
    assert 0 < sum(row["A"] == NO for row in rows) < len(rows)  # in random order
    assert len({row["pair"] for row in rows}) == len(rows) == 40
    key = {row["pair"]: row["demonstration"] for row in csv.DictReader((tmp_path / KEY).open(newline=""))}
    assert all(row[key[row["pair"]]] == NO for row in rows)

    def label(labels: list[str]) -> None:
        with (tmp_path / LABELS).open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["pair", "better"])
            writer.writerows([[row["pair"], text] for row, text in zip(rows, labels)])

    label(["A" if row["A"] == NO else "B" for row in rows[:3]] + ["equal", ""])
    found = read_labels(tmp_path, 0, pairs)
    assert sorted(found.values()) == [0.5, 1.0, 1.0, 1.0]
    label(["C"])
    with pytest.raises(DrirlError, match=r"labels.csv:2: expected A, B, equal or nothing, found 'C'"):
        read_labels(tmp_path, 0, pairs)
