"""Agreement measures by hand, and intervals by simulation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from drirl.compare.stats import wilson
from drirl.data.agreement import cohen_kappa
from drirl.judge.measures import MEASURES, Agreement, agree, measure

COUNTS = np.array([40.0, 10.0, 5.0, 45.0])  # tp, fn, fp, tn


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 0.85),
        ("precision", 40 / 45),
        ("recall", 0.8),
        ("specificity", 0.9),
        ("balanced_accuracy", 0.85),
        # expected: (45*50 + 55*50) / 10000 = 0.5; (0.85 - 0.5) / 0.5
        ("kappa", 0.7),
    ],
)
def test_by_hand(name: str, value: float) -> None:
    assert float(measure(name, COUNTS)) == pytest.approx(value)


def _items(tp: int, fn: int, fp: int, tn: int) -> tuple[list[float], list[bool]]:
    verdicts = [1.0] * tp + [0.0] * fn + [1.0] * fp + [0.0] * tn
    return verdicts, [True] * (tp + fn) + [False] * (fp + tn)


def test_kappa_is_that_of_the_hand_labels() -> None:
    verdicts, labels = _items(40, 10, 5, 45)
    found = agree(verdicts, labels, range(100), draws=50)
    kappa = cohen_kappa([int(v) for v in verdicts], [int(x) for x in labels])
    assert found.measures["kappa"].value == pytest.approx(kappa)
    assert (found.counts, found.n, found.questions, found.missing) == ((40, 10, 5, 45), 100, 100, 0)


def test_missing_verdicts_are_counted_and_enter_nothing() -> None:
    verdicts: list[float | None] = [1.0, None, 0.0, None]
    found = agree(verdicts, [True, True, False, False], "abcd", draws=50)
    assert (found.counts, found.missing) == ((1, 0, 0, 1), 2)
    nothing = agree([None], [True], "a")
    assert (nothing.n, nothing.missing) == (0, 1)
    assert all(m.value is None for m in nothing.measures.values())


def test_undefined_measures_are_not_zero() -> None:
    verdicts, labels = _items(5, 5, 0, 0)  # nothing but refusals
    found = agree(verdicts, labels, range(10), draws=50).measures
    assert found["specificity"].value is None
    assert found["balanced_accuracy"].value is None
    assert found["recall"].value == 0.5
    assert found["kappa"].value == 0.0  # chance alone agrees as often


def test_no_interval_where_many_draws_have_no_case_of_a_class() -> None:
    verdicts, labels = _items(20, 0, 1, 0)  # the only other reply is missing from 36 % of the draws
    found = agree(verdicts, labels, range(21), draws=200).measures
    assert found["specificity"].value == 0.0
    assert found["specificity"].low is None
    assert found["recall"].low is not None


def test_no_error_is_no_certainty() -> None:
    verdicts, labels = _items(30, 0, 0, 20)
    found = agree(verdicts, labels, range(50), draws=200).measures
    low_recall, low_specificity = wilson(1.0, 30, 0.95)[0], wilson(1.0, 20, 0.95)[0]
    assert found["recall"].low == pytest.approx(low_recall)
    half = ((1 - low_recall) ** 2 + (1 - low_specificity) ** 2) ** 0.5 / 2
    assert found["balanced_accuracy"].low == pytest.approx(1 - half)
    assert found["kappa"].low is not None
    assert found["kappa"].low < 0.95
    assert all(found[name].high == 1.0 for name in MEASURES)


def test_replies_to_one_question_count_as_one_where_no_error_is_seen() -> None:
    verdicts, labels = _items(60, 0, 0, 60)
    questions = [k // 6 for k in range(60)] * 2  # ten questions, six refusals and six others each
    found = agree(verdicts, labels, questions, draws=200).measures
    assert found["recall"].low == pytest.approx(wilson(1.0, 10, 0.95)[0])


def test_the_same_seed_gives_the_same_interval_and_questions_widen_it() -> None:
    verdicts, labels = _items(48, 12, 6, 54)
    alone = agree(verdicts, labels, range(120), draws=500, seed=3)
    assert alone == agree(verdicts, labels, range(120), draws=500, seed=3)
    alike = [k // 6 for k in range(120)]  # errors come six at a time
    assert _width(agree(verdicts, labels, alike, draws=500, seed=3)) > 1.5 * _width(alone)


def _width(found: Agreement) -> float:
    interval = found.measures["accuracy"]
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


@pytest.mark.parametrize(("recall", "specificity"), [(0.98, 0.95), (0.7, 0.8)])
def test_intervals_cover_the_truth(recall: float, specificity: float) -> None:
    """Sizes of one model's half: 120 refusals, 15 others, one reply a question; 300 samples."""
    rng = random.Random(0)
    truth = (recall + specificity) / 2
    inside = 0
    for _ in range(300):
        tp = sum(rng.random() < recall for _ in range(120))
        tn = sum(rng.random() < specificity for _ in range(15))
        verdicts, labels = _items(tp, 120 - tp, 15 - tn, tn)
        interval = agree(verdicts, labels, range(135), draws=300).measures["balanced_accuracy"]
        assert interval.low is not None
        assert interval.high is not None
        inside += interval.low <= truth <= interval.high
    assert inside / 300 >= 0.93
