"""Figures of the report, by hand."""

from __future__ import annotations

import pytest

from drirl.data.report import balance_figures, distinct_n, self_bleu, shares


def test_balance_figures() -> None:
    equal = balance_figures({0: 5, 1: 5, 2: 5, 3: 5})
    assert (equal["max_min_ratio"], equal["entropy_bits"], equal["entropy_bits_if_equal"]) == (1.0, 2.0, 2.0)
    skew = balance_figures({0: 6, 1: 2})
    assert skew["counts"] == {"Insult": 6, "Unfairness & Discrimination": 2}
    assert skew["max_min_ratio"] == 3.0
    assert skew["entropy_bits"] == pytest.approx(0.8113, abs=1e-4)  # -(3/4 log2 3/4 + 1/4 log2 1/4)
    assert balance_figures({0: 3, 1: 0})["max_min_ratio"] is None


def test_shares() -> None:
    assert shares(["b", "a", "b", "b"]) == {"a": 0.25, "b": 0.75}


def test_distinct_n() -> None:
    assert distinct_n(["a b a", "b a"], 1) == pytest.approx(2 / 5)
    assert distinct_n(["a b a", "b a"], 2) == pytest.approx(2 / 3)  # ab, ba, ba
    assert distinct_n([], 1) == 0


def test_self_bleu() -> None:
    assert self_bleu(["one two three four five"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d e", "f g h i j"]) == 0
    assert self_bleu(["alone here"]) == 0
    # unigrams of 'a b c d' against 'a b x y': 2/4; bigrams smoothed: (1 + 1) / (3 + 1); both texts alike
    assert self_bleu(["a b c d", "a b x y"], n=2) == pytest.approx(0.5)
    # clipped: 'a a' has one a in common with 'a b', and the other way round
    assert self_bleu(["a a", "a b"], n=1) == pytest.approx(0.5)
    assert self_bleu(["a b c d e", "a b c d f", "x y z w v"]) < self_bleu(["a b c d e"] * 2 + ["a b c d f"])
