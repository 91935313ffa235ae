"""Intervals: hand-worked cases, and coverage of a known truth by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from drirl.compare.simulate import Scenario, draw
from drirl.compare.stats import Bootstrap, agresti_min, wilson

NAN = float("nan")


def names(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def test_wilson_of_known_cases() -> None:
    assert wilson(0.5, 100, 0.95) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(1.0, 10, 0.95)
    assert low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)  # z^2 = 3.8415
    assert high == 1.0


def test_agresti_min_of_no_difference_in_98_pairs() -> None:
    # 100 pairs after adding two, one gap of each sign at half weight: sum of squares 1.
    low, high = agresti_min(np.zeros(98), 0.95)
    assert (low, high) == pytest.approx((-0.0196, 0.0196), abs=1e-5)


def test_agresti_min_of_ten_gains_in_38_pairs() -> None:
    gaps = np.r_[np.ones(10), np.zeros(28)]
    centre = 10 / 40
    half = 1.959964 * math.sqrt((11 / 40 - centre**2) / 40)
    assert agresti_min(gaps, 0.95) == pytest.approx((centre - half, centre + half), abs=1e-5)


def test_value_is_the_mean_over_seeds_of_the_means_over_present_scores() -> None:
    values = np.array([[1.0, 0.0], [1.0, NAN], [0.0, 1.0], [NAN, NAN]])
    estimate = Bootstrap(draws=100).interval(values, ["a", "a", "b", "c"], key="k")
    assert estimate.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (estimate.n, estimate.clusters, estimate.seeds) == (3, 2, 2)


def test_no_interval_from_one_cluster() -> None:
    estimate = Bootstrap().interval(np.array([[1.0], [0.0]]), ["a", "a"], key="k")
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)


def test_a_seed_without_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="seed without any"):
        Bootstrap().interval(np.array([[1.0, NAN], [0.0, NAN]]), ["a", "b"], key="k")


def test_all_right_is_not_certainty() -> None:
    estimate = Bootstrap().interval(np.ones((60, 3)), names(60), key="k")
    assert estimate.value == 1.0
    assert estimate.high == 1.0
    assert estimate.low == pytest.approx(60 / (60 + 1.959964**2), abs=1e-6)


def test_seeds_alone_give_students_t_with_two_degrees_of_freedom() -> None:
    # Every prompt scores 1, 2, 3 in the three seeds: no spread between prompts, s = 1, t(2) = 4.303.
    values = np.tile([1.0, 2.0, 3.0], (40, 1))
    estimate = Bootstrap(draws=20_000).interval(values, names(40), key="k", rate=False)
    assert estimate.low is not None
    assert estimate.low == pytest.approx(2 - 4.303 / math.sqrt(3), abs=0.1)


def test_difference_of_seeds_alone_gives_students_t_with_four_degrees_of_freedom() -> None:
    values = np.tile([1.0, 2.0, 3.0], (40, 1))
    estimate = Bootstrap(draws=20_000).difference(values + 5, values, names(40), keys=("a", "b"), rate=False)
    assert estimate.value == pytest.approx(5)
    assert estimate.high == pytest.approx(5 + 2.776 * math.sqrt(2 / 3), abs=0.06)
    assert estimate.excludes_zero


def test_one_seed_adds_no_spread_between_seeds() -> None:
    values = np.tile([2.0], (40, 1))
    estimate = Bootstrap().interval(values, names(40), key="k", rate=False)
    assert (estimate.low, estimate.high) == (2.0, 2.0)


def test_prompts_of_one_intent_count_once() -> None:
    # 40 independent prompts against the same 40 scores repeated 9 times within intents: no more is known.
    scores = (np.arange(40) % 4 == 0).astype(float)[:, None]
    bootstrap = Bootstrap(draws=4000)
    single = bootstrap.interval(scores, names(40), key="k")
    repeated = bootstrap.interval(np.repeat(scores, 9, axis=0), list(np.repeat(names(40), 9)), key="k")
    apart = bootstrap.interval(np.repeat(scores, 9, axis=0), names(360), key="k")
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high), abs=0.01)
    assert apart.high is not None
    assert single.high is not None
    assert apart.high - 0.25 == pytest.approx((single.high - 0.25) / 3, rel=0.2)


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((200, 1)) < 0.5
    first = np.tile(hard, (1, 3)).astype(float)
    second = first.copy()
    second[:4] = 1 - second[:4]  # the two disagree on four prompts only
    bootstrap = Bootstrap()
    alone = bootstrap.interval(first, names(200), key="a")
    paired = bootstrap.difference(first, second, names(200), keys=("a", "b"))
    assert paired.high is not None
    assert paired.low is not None
    assert alone.high is not None
    assert alone.low is not None
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_difference_uses_prompts_both_have() -> None:
    first = np.array([[1.0], [1.0], [NAN], [0.0]])
    second = np.array([[0.0], [NAN], [1.0], [0.0]])
    estimate = Bootstrap().difference(first, second, names(4), keys=("a", "b"))
    assert (estimate.value, estimate.n) == (0.5, 2)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values = (np.random.default_rng(3).random((60, 3)) < 0.7).astype(float)
    one = Bootstrap(seed=1).interval(values, names(60), key="k")
    assert one == Bootstrap(seed=1).interval(values, names(60), key="k")
    assert one != Bootstrap(seed=2).interval(values, names(60), key="k")


def test_order_of_prompts_does_not_matter() -> None:
    values = (np.random.default_rng(3).random((60, 3)) < 0.7).astype(float)
    clusters = [f"c{number % 20}" for number in range(60)]
    order = np.random.default_rng(4).permutation(60)
    bootstrap = Bootstrap()
    shuffled = bootstrap.interval(values[order], [clusters[i] for i in order], key="k")
    assert shuffled == bootstrap.interval(values, clusters, key="k")


@pytest.mark.slow
def test_redrawing_three_of_three_seeds_would_cover_too_little() -> None:
    """Why the seeds are not simply redrawn: the plain bootstrap misses far more than one time in twenty."""
    scenario = Scenario("mixed", 0.85, 0.4, 0.7, 1.0, 0.5)
    generator, hits = np.random.default_rng(1), 0
    for _ in range(200):
        (scores,), clusters = draw(scenario, generator, prompts=200, intents=60, seeds=3)
        index = np.unique(clusters, return_inverse=True)[1]
        weights = generator.multinomial(60, np.full(60, 1 / 60), size=500)[:, index]  # (B, I)
        means = weights @ scores / weights.sum(1, keepdims=True)  # (B, K)
        seeds = generator.integers(0, 3, (500, 3))
        drawn = np.take_along_axis(means, seeds, axis=1).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        hits += low <= scenario.rate <= high
    assert hits / 200 < 0.9
