"""Reliability by hand."""

from __future__ import annotations

import pytest

from drirl.reward.reliability import reliability


def test_expected_calibration_error_by_hand() -> None:
    """Bin [0.5, 0.75): 0.5 and 0.7, one right: |0.5 - 0.6|; bin [0.75, 1]: 1.0 and 0.9 right: |1 - 0.95|."""
    found = reliability([0.5, 0.7, 1.0, 0.9], [1, 0, 1, 1], bins=4)
    assert found["n"] == 4
    assert found["ece"] == pytest.approx((0.1 + 0.05) / 2)
    assert [(b["low"], b["n"], b["confidence"], b["accuracy"]) for b in found["bins"]] == [
        (0.5, 2, 0.6, 0.5),
        (0.75, 2, 0.95, 1.0),
    ]


def test_ties_count_half_and_nothing_is_nothing() -> None:
    assert reliability([0.5, 0.5], [0.5, 0.5])["ece"] == 0.0
    assert reliability([], []) == {"n": 0, "ece": None, "bins": []}


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="as many outcomes"):
        reliability([0.5], [1, 0])
    with pytest.raises(ValueError, match="outside"):
        reliability([1.2], [1])
