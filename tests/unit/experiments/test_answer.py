"""Verdicts and sample sizes, worked out by hand."""

from __future__ import annotations

import math

import pytest

from drirl.compare.stats import Estimate
from drirl.experiments.answer import Verdict, judge, needed, overall


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, n=200, clusters=60, seeds=3)


@pytest.mark.parametrize(
    ("expect", "bounds", "outcome", "opposite"),
    [
        ("higher", (0.05, 0.01, 0.09), "yes", False),
        ("higher", (-0.05, -0.09, -0.01), "no", True),
        ("higher", (0.0, -0.015, 0.015), "no", False),  # a gain of the margin is ruled out
        ("higher", (0.03, -0.02, 0.08), "unclear", False),
        ("lower", (-0.05, -0.09, -0.01), "yes", False),
        ("lower", (0.05, 0.01, 0.09), "no", True),
        ("differs", (-0.05, -0.09, -0.01), "yes", False),
        ("differs", (0.005, -0.01, 0.015), "no", False),
        ("differs", (0.01, -0.05, 0.07), "unclear", False),
        ("not_worse", (-0.005, -0.015, 0.005), "yes", False),
        ("not_worse", (-0.05, -0.08, -0.02), "no", True),
        ("not_worse", (-0.01, -0.05, 0.03), "unclear", False),
        # The ends are not on one side of zero, or not as far from it, so that a turned interval shows.
        ("lower", (-0.03, -0.08, 0.02), "unclear", False),
        ("lower", (0.0, -0.015, 0.015), "no", False),
        ("differs", (-0.03, -0.08, 0.015), "unclear", False),
        ("not_worse", (-0.015, -0.025, -0.005), "unclear", False),
    ],
)
def test_judge(expect: str, bounds: tuple[float, float, float], outcome: str, opposite: bool) -> None:
    verdict = judge(_estimate(*bounds), expect, higher_is_better=True, margin=0.02)
    assert (verdict.outcome, verdict.opposite) == (outcome, opposite)
    assert (verdict.factor is not None) == (outcome == "unclear")


def test_not_worse_turns_round_where_lower_is_better() -> None:
    more_false_refusals = _estimate(0.05, 0.03, 0.07)
    assert judge(more_false_refusals, "not_worse", higher_is_better=False, margin=0.02).outcome == "no"
    assert judge(more_false_refusals, "not_worse", higher_is_better=True, margin=0.02).outcome == "yes"


def test_a_missing_difference_is_missing() -> None:
    assert judge(None, "higher", higher_is_better=True, margin=0.02) == Verdict("missing")
    no_interval = Estimate(0.1, None, None, 3, 1, 1)
    assert judge(no_interval, "higher", higher_is_better=True, margin=0.02) == Verdict("missing")


def test_needed_by_hand() -> None:
    # half-width 0.06 at 95 %, difference 0.03: (0.06 * (1 + 0.8416 / 1.9600) / 0.03)^2 = (2 * 1.42939)^2
    assert needed(_estimate(0.03, -0.03, 0.09), 0.03) == pytest.approx(8.1726, abs=1e-3)
    cut = Estimate(0.9, 0.2, 1.0, n=200, clusters=60, seeds=3, margin=0.7)  # the interval, uncut: 0.2 to 1.6
    assert needed(cut, 0.9) == pytest.approx((0.7 * 1.42939 / 0.9) ** 2, abs=1e-3)
    assert needed(_estimate(0.5, 0.49, 0.51), 0.5) == 1.0  # never fewer than there are
    assert needed(_estimate(0.0, -0.1, 0.1), 0.0) == math.inf


def test_overall() -> None:
    yes, no, unclear, missing = (Verdict(o) for o in ("yes", "no", "unclear", "missing"))
    assert overall([yes, yes], "all") == "yes"
    assert overall([yes, unclear], "all") == "unclear"
    assert overall([yes, no, missing], "all") == "no"
    assert overall([yes, missing], "all") == "missing"
    assert overall([no, unclear, yes], "any") == "yes"
    assert overall([no, no], "any") == "no"
    assert overall([no, unclear], "any") == "unclear"
    assert overall([missing, missing], "any") == "missing"
    assert overall([], "all") == "missing"
