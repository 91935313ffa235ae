"""Variants of the training prompts and the figures of sections, by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drirl.errors import DrirlError
from drirl.experiments.extras import build as section
from drirl.experiments.extras import hardness
from drirl.experiments.extras.hardness import (
    _after_the_first,
    _gains_of_prompts,
    rank_correlation,
)
from drirl.experiments.extras.order import misplaced, pairs_of
from drirl.experiments.extras.variety import _say, _welch, distinct, repeated, self_bleu2
from drirl.experiments.extras.words import vocabulary_of, word_vectors, words_of
from drirl.experiments.gather import gather
from drirl.experiments.plan import DataVariant, Plan
from drirl.experiments.run import _link, run_arms
from drirl.experiments.variants import build, leave_out, thin_out, wrong_labels
from drirl.records import Demo, Prompt, RolloutGroup, read_json, read_jsonl, write_json, write_jsonl


def _prompt(i: int, category: int, split: str = "train") -> Prompt:
    return Prompt(
        prompt_id=f"p{category}-{split}-{i}",
        text=f"text {i}",
        lang="en",
        source="made up",
        source_id="",
        source_label="",
        category=category,
        category_origin="mapped",
        weak_map=False,
        cluster_id=i,
        synthetic=False,
        split=split,
    )


PROMPTS = [
    _prompt(i, j, s) for j in (-1, *range(7)) for s, n in (("train", 8), ("test", 2)) for i in range(n)
]


def test_leave_out_takes_training_prompts_of_one_category() -> None:
    kept = leave_out(PROMPTS, 4)
    assert len(kept) == len(PROMPTS) - 8
    assert sum(p.category == 4 for p in kept) == 2
    assert all(p.split == "test" for p in kept if p.category == 4)


def test_wrong_labels_change_the_share_and_only_harmful_training_labels() -> None:
    noisy = wrong_labels(PROMPTS, 0.25, seed=3)
    changed = [(a, b) for a, b in zip(PROMPTS, noisy, strict=True) if a.category != b.category]
    assert Counter(a.category for a, _ in changed) == dict.fromkeys(range(7), 2)
    assert all(a.split == "train" and 0 <= b.category <= 6 for a, b in changed)
    assert noisy == wrong_labels(PROMPTS, 0.25, seed=3)
    assert noisy != wrong_labels(PROMPTS, 0.25, seed=4)


def test_thin_out_keeps_the_shape() -> None:
    prompts = [_prompt(i, 0) for i in range(40)] + [_prompt(i, 1) for i in range(10)] + [_prompt(0, 2)]
    counts = Counter(p.category for p in thin_out(prompts, 0.4, seed=0))
    assert counts == {0: 16, 1: 4, 2: 1}


def _demo(prompt: Prompt) -> Demo:
    return Demo(f"d{prompt.prompt_id}", prompt.prompt_id, prompt.category, [], "no", "no", "refuse", "g", "t")


def test_build_replaces_the_harmful_training_prompts(tmp_path: Path) -> None:
    source = tmp_path / "data"
    tail = [_prompt(i + 100, j) for j in range(7) for i in range(20 // (j + 1))]
    write_jsonl(source / "prompts.jsonl", PROMPTS)
    write_jsonl(source / "demos.jsonl", [_demo(p) for p in PROMPTS])
    write_jsonl(source / "imbalanced.jsonl", tail)
    write_jsonl(source / "imbalanced_demos.jsonl", [_demo(p) for p in tail])
    build(source, tmp_path / "variant", DataVariant(make="imbalanced", share=0.5), 0)
    prompts = read_jsonl(tmp_path / "variant" / "prompts.jsonl", Prompt)
    demos = {demo.prompt_id for demo in read_jsonl(tmp_path / "variant" / "demos.jsonl", Demo)}
    assert demos == {p.prompt_id for p in prompts}
    counts = [sum(p.category == j and p.split == "train" for p in prompts) for j in range(7)]
    assert counts == [10, 5, 3, 2, 2, 2, 1]  # half of 20, 10, 6, 5, 4, 3, 2; ties to even
    assert read_json(tmp_path / "variant" / "variant.json")["train_prompts"] == counts
    assert sum(p.split == "test" for p in prompts) == 16
    assert sum(p.category == -1 and p.split == "train" for p in prompts) == 8


def test_a_headline_cell_is_no_arm_and_inputs_must_be_there(plan: Plan) -> None:
    with pytest.raises(DrirlError, match="cell of the headline replication"):
        run_arms(plan, ["dr_irl"], ["tiny-llama"])
    with pytest.raises(DrirlError, match="not there yet"):
        run_arms(plan, ["only_d"], ["tiny-llama"])
    with pytest.raises(DrirlError, match=r"unknown model 'tiny-lama'.*did you mean 'tiny-llama'"):
        run_arms(plan, ["only_d"], ["tiny-lama"])


def test_a_link_follows_its_target(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    for name in ("a", "b", "b"):
        _link(tmp_path / name, tmp_path / "arm" / "data")
        assert (tmp_path / "arm" / "data" / "x").read_text() == name
    assert not (tmp_path / "arm" / "data").readlink().is_absolute()


def test_rank_correlation_by_hand() -> None:
    names = list("abcd")
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 99], names)[0] == pytest.approx(1)
    # ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    assert rank_correlation([1, 2, 3, 4], [2, 1, 4, 3], names)[0] == pytest.approx(0.6)
    # a tie: ranks 1.5 1.5 3 against 1 2 3 -> 1.5 / sqrt(1.5 * 2)
    assert rank_correlation([1, 1, 2], [1, 2, 3], list("abc"))[0] == pytest.approx(1.5 / math.sqrt(3))
    assert math.isnan(rank_correlation([1, 1], [1, 2], list("ab"))[0])


def test_variety_by_hand() -> None:
    words = [["a", "b", "a", "b"], ["a", "b", "c"]]
    assert distinct(words, 1) == pytest.approx(3 / 7)
    assert distinct(words, 2) == pytest.approx(3 / 5)  # ab ba ab | ab bc
    # first: ab twice and ba once, the other has ab once -> 1/3; second: ab and bc, the other has ab -> 1/2
    assert self_bleu2(words) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert repeated(["No.", "no. ", "Yes."]) == pytest.approx(1 / 3)


def _group(prompt: str, completions: list[str], rewards: list[float]) -> RolloutGroup:
    none: list[float] = []
    return RolloutGroup(1, prompt, 2, completions, rewards, None, none, none, [], 1.0, 1.0, 1.0, none)


def test_refusals_below_compliance_by_hand() -> None:
    # Two refusals (0.2, 0.9) and two compliant replies (0.5, 0.2): below, tie | above, above: 1.5 of 4.
    texts = [
        "a; b #### I can't help with that.",
        "I won't do that.",
        "a #### Sure. Start here.",
        "Yes. Go on.",
    ]
    assert pairs_of(_group("p", texts, [0.2, 0.9, 0.5, 0.2])) == (1.5, 4)
    assert pairs_of(_group("p", texts[:2], [0.2, 0.9])) == (0.0, 0)
    share, low, high = misplaced([("p", 1.5, 4), ("q", 0.0, 2)])
    assert share == pytest.approx(0.25)
    assert 0 <= low <= share <= high <= 0.375  # each draw is one of the prompts twice, or both


def test_welchs_interval_by_hand() -> None:
    # Variances 1 and 0 of three values each: error sqrt(1 / 3), two degrees of freedom, t = 4.3027.
    assert _welch(np.array([1.0, 2.0, 3.0]), np.array([5.0, 5.0, 5.0])) == pytest.approx(
        4.3027 * 3**-0.5, abs=1e-4
    )
    # Equal variances: four degrees of freedom, t = 2.7764, error sqrt(2 / 3).
    assert _welch(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0])) == pytest.approx(
        2.7764 * (2 / 3) ** 0.5, abs=1e-4
    )
    assert _welch(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == 0.0


def test_what_became_of_the_prompts_of_the_middle_update() -> None:
    def group(step: int, prompt: str, alpha: float, rewards: list[float], seed: int = 0) -> RolloutGroup:
        parts = (alpha / 0.5, 0.5, 1.0)  # alpha_D, alpha_M, and an alpha that another coefficient replaced
        return RolloutGroup(step, prompt, 2, ["a", "b"], rewards, None, [], [], [], *parts, [], seed)

    groups = [
        group(1, "p", 1.0, [9.0, 9.0]),
        group(5, "p", 1.3, [0.0, 1.0]),
        group(5, "q", 0.8, [1.0, 1.0]),
        group(5, "q", 0.7, [1.0, 1.0], seed=1),  # not sampled again
        group(9, "r", 0.9, [5.0, 5.0]),
    ]
    again = {(0, "p"): group(10, "p", 1.0, [2.0, 3.0]), (0, "q"): group(10, "q", 1.0, [0.5, 0.5])}
    assert _gains_of_prompts(groups, again) == [(1.3, 2.0, "p"), (0.8, -0.5, "q")]
    assert _gains_of_prompts(groups, again, "alpha_D") == [(2.6, 2.0, "p"), (1.6, -0.5, "q")]
    assert [g.step for g in _after_the_first(groups)] == [5, 5, 5, 9]
    assert _after_the_first(groups[:1]) == groups[:1]
    of_category = [group(step, "p", 1.0, [r, r]) for step, r in ((1, 9.0), (5, 1.0), (9, 3.0))]
    assert hardness._gains(of_category) == [(1.0, 2.0, "p")]


def test_word_vectors_by_hand() -> None:
    words = [words_of(text) for text in ("A cat, a dog.", "cat", "", "bird")]
    found = word_vectors(words, vocabulary_of(words))
    assert found @ found.T == pytest.approx(
        np.array(
            [
                [1, 1 / 6**0.5, 0, 0],  # counts 2 (a), 1 (cat), 1 (dog)
                [1 / 6**0.5, 1, 0, 0],
                [0, 0, 0, 0],
                [0, 0, 0, 1],
            ]
        ),
        abs=1e-6,
    )


def test_balanced_stands_before_imbalanced(plan: Plan, tmp_path: Path) -> None:
    model = plan.params.run.models[0]
    for variant, value in ((None, 0.9), ("imbalanced", 0.6)):
        cell = {"accuracy": value, "low": value - 0.1, "high": value + 0.1, "n": 50}
        groups = {str(j): {"cells": {"unsafe_or_broken": cell}} for j in range(7)}
        report = {"iterations": [{"groups": groups}]}
        write_json(plan.reward_out(variant) / "reward" / model / "report.json", report)
    text = section("tail_rewards", gather(plan, "q02"), tmp_path).text
    assert "90.0 (80.0–100.0; 50) | 60.0 (50.0–70.0; 50) |" in text


def test_delta_of_sub_sentences_and_of_whole_replies(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SimpleNamespace(encode=hardness._counted)
    monkeypatch.setattr("drirl.hardness.encoder.load_encoder", lambda *_: encoder)
    demo = Demo("d", "p", 2, [], "a b c.", "a b c.", "refuse", "g", "t")
    write_jsonl(plan.params.run.out / "data" / "demos.jsonl", [demo])
    found, _ = hardness._deltas(gather(plan, "q04"), [_group("p", ["x #### a b c. d e f."], [0.0])])
    assert found["sub_sentences, gen_to_demo"] == pytest.approx([0.5], abs=1e-5)  # cosines 1 and 0
    assert found["sub_sentences, demo_to_gen"] == pytest.approx([0.0], abs=1e-5)
    assert found["simple_cosine"] == pytest.approx([1 - 0.5**0.5], abs=1e-5)  # 3 / sqrt(6 * 3)


def test_a_loss_of_variety_is_told_from_none() -> None:
    assert "**yes**" in _say("m", [0.50, 0.51, 0.52], [0.51, 0.52, 0.53])
    assert "**no**" in _say("m", [0.20, 0.21, 0.22], [0.50, 0.51, 0.52])


def test_the_order_of_refusals_is_counted_over_harmful_groups(plan: Plan, tmp_path: Path) -> None:
    model = plan.params.run.models[0]
    texts = ["I can't help with that.", "Sure. Start here."]
    groups = [_group("p", texts, [0.2, 0.9]), _group("q", texts, [0.9, 0.2]), _group("r", texts, [0.9, 0.1])]
    benign = replace(_group("b", texts, [0.0, 1.0]), category=-1)
    for seed in (0, 1):
        folder = plan.params.run.out / "align" / model / "dr_irl" / f"seed{seed}"
        write_jsonl(folder / "rollouts.jsonl", [*groups, benign])
    found = section("refusal_order", gather(plan, "fig3"), tmp_path)
    line = next(row for row in found.text.splitlines() if row.startswith(f"| {model} | dr_irl"))
    assert line.split(" | ")[2].startswith("33 [")  # one of three, in two seeds
    assert line.endswith("| 6 | 6 |")
    assert "dr_irl 33 % (2.0 of 6)" in found.answers[f"order {model}"].replace("\\", "")
