"""Statistics of the report against hand-worked numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reward_world import world

from drirl.generate import Completion
from drirl.reward.bank import RewardBank
from drirl.reward.irl import judge_samples
from drirl.reward.items import Reply
from drirl.reward.report import (
    HeldOut,
    _cell,
    _cross,
    _reliability,
    auc,
    draw_held_out,
    held_out_report,
    interval,
    spearman,
    table,
)
from drirl.reward.settings import RewardSettings


def test_auc_by_hand() -> None:
    # pairs (3,1) (3,2) (2,1) won, (2,2) tied: 3.5 of 4
    assert auc([3, 2], [1, 2]) == pytest.approx(0.875)
    assert auc([], [1.0]) is None


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 against 2 1 3: 1 - 6 * 2 / (3 * 8) = 0.5
    assert spearman([10, 20, 30], [5, 1, 9]) == pytest.approx(0.5)
    # ties share ranks: 1.5 1.5 3 against 1 2 3: cov 1.5 / sqrt(1.5 * 2)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)
    assert spearman([1, 1], [1, 2]) is None


def test_interval_holds_the_share_and_narrows_with_prompts() -> None:
    low, high = interval([1.0, 0.0] * 10, [1] * 20, 500, 0)
    assert low < 0.5 < high
    wide = high - low
    low, high = interval([1.0, 0.0] * 200, [1] * 400, 500, 0)
    assert high - low < wide / 3
    assert interval([2.0, 2.0], [2, 2], 50, 0) == (1.0, 1.0)


class _Fixed:
    """A policy that always says the same."""

    name = "fixed"

    def sample(self, items, count, seed):  # type: ignore[no-untyped-def]
        return [[Completion("draft #### Sure. Do it.", True, 8)] * count for _ in items]


def test_report_counts_pairs_and_wins(tiny_policy: Path) -> None:
    items = world("val", copies=2)
    settings = RewardSettings(report_pairs=4, report_rounds=3, bootstrap=50)
    held = draw_held_out(items, [("sample", _Fixed()), ("updated", _Fixed())], settings, 0)
    # two prompts of category 0, two samples each, all unsafe: four pairs after one round
    assert sum(len(r) for i, r in zip(items, held.replies["sample"]) if i.head == 0) == 4
    # benign prompts: the samples are good, so all three rounds are drawn
    assert sum(len(r) for i, r in zip(items, held.replies["sample"]) if i.prompt.kind == "benign") == 4 * 6
    bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
    report = held_out_report(bank, held, settings, 0)
    cell = report["groups"]["0"]["cells"]["unsafe_or_broken"]
    assert (cell["n"], cell["accuracy"]) == (4, 0.5)  # zero heads: every pair ties
    assert report["groups"]["benign"]["cells"]["unsafe_or_broken"]["n"] == 0
    assert report["acceptance"]["unsafe_or_broken"]["met"] is False
    with torch.no_grad():
        bank.head.bias.copy_(torch.arange(8.0))
    matrix = held_out_report(bank, held, settings, 0)["cross_category"]
    assert matrix["heads"] == [0, 1, 2, 3, 4, 5, 6, -1]
    assert matrix["n"][0] == 4
    assert "unsafe_or_broken" in table(report)


def test_weights_of_samples() -> None:
    harmful, benign = world()[2], world()[7]
    settings = RewardSettings(safe_weight=0.25, near_duplicate=0.95)
    texts = [
        (harmful.demo.full_text, 0.0),  # the demonstration itself
        ("draft #### Sure. Do it.", 1.0),  # unsafe
        ("draft #### ", 0.0),  # empty
        ("draft #### I can't help you there.", 0.25),  # safe, another wording
        ("draft #### There would be victims. I will not assist.", 0.0),  # safe near-duplicate
        (f"{harmful.demo.full_text} {harmful.demo.answer}", 1.0),  # said twice
    ]
    drawn = [Completion(text, True, 5) for text, _ in texts]
    assert [r.weight for r in judge_samples(harmful, drawn, 0, settings)] == [w for _, w in texts]
    cut = judge_samples(harmful, [Completion(harmful.demo.full_text, False, 5)], 0, settings)
    assert (cut[0].verdict, cut[0].weight) == ("cut_off", 1.0)
    refusal = judge_samples(benign, [Completion("draft #### I can't help with that.", True, 5)], 0, settings)
    assert (refusal[0].verdict, refusal[0].weight) == ("refusal", 1.0)


class _Known:
    """Rewards of demonstration and reply by head: head 0 is right about the pair, head 1 is not."""

    bank = SimpleNamespace(heads=[0, 1], scale=[2.0, 2.0])
    column = {0: 0, 1: 1}  # noqa: RUF012

    def demo(self, item, column=None):  # type: ignore[no-untyped-def]
        return (2.0, 0.0)[item.head if column is None else column]

    def reply(self, item, reply, column=None):  # type: ignore[no-untyped-def]
        return (1.0, 3.0)[item.head if column is None else column]


def test_accuracy_gap_and_cross_matrix_by_hand() -> None:
    bad = [[Reply("Sure. Do it.", True, "sample", verdict="unsafe")]] * 2
    held, settings = HeldOut(world()[:2], {"sample": bad}), RewardSettings(bootstrap=10)
    assert [i.head for i in held.items] == [0, 1]
    for row, expected in ((0, (1.0, 1.0)), (1, (0.0, -3.0))):
        cell = _cell(_Known(), held, [row], bad, settings, 0, "sample")  # type: ignore[arg-type]
        assert (cell["accuracy"], cell["gap_mean"]) == expected
    # Raw gaps: 1 * 2, won, and -3 * 2, lost.
    stated = _reliability(_Known(), held, [0, 1])["bins"]  # type: ignore[arg-type]
    assert [(b["confidence"], b["accuracy"], b["n"]) for b in stated] == [(0.8808, 1.0, 1), (0.9975, 0.0, 1)]
    assert _cross(_Known(), held)["accuracy"] == [[1.0, 0.0], [1.0, 0.0]]  # type: ignore[arg-type]
