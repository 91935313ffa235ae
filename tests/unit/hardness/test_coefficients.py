"""Each formula against numbers worked by hand, its edge cases, and properties that must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drirl.hardness import coefficients as c

NAN = math.nan


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


X, Y = [1.0, 0.0], [0.0, 1.0]


def test_similarity() -> None:
    s = c.similarity(torch.tensor([X, [3.0, 4.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], Y]))
    assert s.shape == (3, 2)
    assert s.tolist() == [[1.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_similarity_of_equal_vectors_is_exactly_one() -> None:
    a = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32))
    assert c.similarity(a, a).diagonal().tolist() == [1.0] * 5
    assert c.dissimilarity(a, a) == 0.0


def test_overlap_directions() -> None:
    s = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.4]], dtype=torch.float64)  # K = 2, L = 3
    assert c.overlap(s).item() == pytest.approx((0.9 + 0.8) / 2)
    assert c.overlap(s, "demo_to_gen").item() == pytest.approx((0.9 + 0.8 + 0.4) / 3)
    assert c.overlap(s, "symmetric").item() == pytest.approx((0.85 + 0.7) / 2)
    with pytest.raises(ValueError, match="direction"):
        c.overlap(s, "sideways")


def test_dissimilarity() -> None:
    generated, demonstration = torch.tensor([X, [0.6, 0.8]]), torch.tensor([X])
    assert c.dissimilarity(generated, demonstration) == pytest.approx(1 - (1 + 0.6) / 2)
    assert c.dissimilarity(generated, demonstration, "demo_to_gen") == 0.0
    assert c.dissimilarity(-demonstration, demonstration) == 2.0  # opposite
    assert c.dissimilarity(torch.zeros(1, 2), demonstration) == 1.0  # zero norm: cosine 0
    assert c.dissimilarity(torch.zeros(0, 2), demonstration) == 1.0  # K = 0
    assert math.isnan(c.dissimilarity(generated, torch.zeros(0, 2)))  # L = 0


def test_alpha_text() -> None:
    alpha = c.alpha_text(t(0.5, 0.2, 0.8, NAN), 0.5)
    assert alpha.tolist() == pytest.approx([1.0, sigma(0.2) / sigma(0.5), sigma(0.8) / sigma(0.5), 1.0])
    assert alpha[1].item() == pytest.approx(0.8833, abs=1e-4)  # 0.549834 / 0.622459
    assert c.alpha_text(t(0.0), 1.0).item() == pytest.approx(0.6839, abs=1e-4)
    assert c.alpha_text(t(1.0), 0.0).item() == pytest.approx(1.4621, abs=1e-4)
    assert c.alpha_text(t(0.3), NAN).item() == 1.0


def test_reward_gap() -> None:
    gap = c.reward_gap(t(1.0, NAN), torch.tensor([[0.25, math.inf], [0.0, 1.0]]))
    assert gap[0, 0].item() == 0.75
    assert gap.isnan().tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(("m", "masked"), [(0, 0), (1, 0), (4, 0), (5, 1), (6, 1), (9, 1), (10, 2), (35, 7)])
def test_masked_count(m: int, masked: int) -> None:
    assert c.masked_count(m, 0.2) == masked


def test_quantile_mask() -> None:
    # squared deviations from 1: 0, 1, 9, 1, 0.25, so one of five goes: the 4
    assert c.quantile_mask(t(1, 2, 4, 0, 1.5), 1.0).tolist() == [True, True, False, True, True]
    # from centre 4 it is the 0
    assert c.quantile_mask(t(1, 2, 4, 0, 1.5), 4.0).tolist() == [True, True, True, False, True]
    assert c.quantile_mask(t(1, 2, 4, 0), 1.0).tolist() == [True] * 4  # floor(0.8) = 0
    assert c.quantile_mask(t(1, 2, 4, 0), 1.0, share=0.0).tolist() == [True] * 4
    assert c.quantile_mask(t(5, 5, 5, 5, 5), 0.0).tolist() == [True] * 5  # a tie stays whole
    assert c.quantile_mask(t(), 0.0).tolist() == []


def test_fixed_mask() -> None:
    assert c.fixed_mask(t(0, 1, 2, -1, NAN), 0.0, 1.0).tolist() == [True, True, False, True, False]
    assert c.fixed_mask(t(0, 1), 5.0, 1.0).tolist() == [False, False]


def test_gaussian_mask_draws_near_the_centre() -> None:
    gaps = t(0, 0, 0, 0, 6)
    counts = np.zeros(5)
    for seed in range(200):
        mask = c.gaussian_mask(gaps, 0.0, 0.2, np.random.default_rng(seed))
        assert int(mask.sum()) == 4
        counts += mask.numpy()
    assert counts[4] <= 3  # weight exp(-18) against 1
    huge = c.gaussian_mask(t(1e6, 2e6, 3e6, 4e6, 5e6), 0.0, 0.2, np.random.default_rng(0))
    assert huge.tolist() == [True, True, True, True, False]  # weights underflow, the order stays right
    # two gaps, one drawn: P(first) = e^0 / (e^0 + e^-0.5) = 0.6225
    first = sum(bool(c.gaussian_mask(t(0, 1), 0.0, 0.5, np.random.default_rng(s))[0]) for s in range(2000))
    assert first / 2000 == pytest.approx(0.6225, abs=0.04)


def test_filtered_mean_and_alpha_gap() -> None:
    mask = torch.tensor([True, True, False])
    assert c.filtered_mean(t(1, 2, 9), mask, otherwise=5.0) == 1.5
    assert c.filtered_mean(t(1, 2, 9), torch.zeros(3, dtype=torch.bool), otherwise=5.0) == 5.0
    assert c.alpha_gap(1.5, 1.5) == 1.0
    assert c.alpha_gap(0.0, 2.0) == pytest.approx(0.5 / sigma(2.0))
    assert c.alpha_gap(0.0, 2.0) == pytest.approx(0.5677, abs=1e-4)
    assert c.alpha_gap(40.0, 30.0) == pytest.approx(1.0, abs=1e-9)  # both saturate
    assert c.alpha_gap(-790.0, -800.0) == pytest.approx(math.exp(10.0))  # not 0/0
    assert c.alpha_gap(NAN, 1.0) == c.alpha_gap(1.0, NAN) == 1.0


def test_running_mean() -> None:
    assert c.running_mean(None, 3.0) == 3.0
    assert c.running_mean(1.0, 2.0) == pytest.approx(1.1)
    assert c.running_mean(1.0, 2.0, gamma=0.0) == 2.0
    assert c.running_mean(1.0, NAN) == 1.0


def test_combine() -> None:
    d, m = t(1.2, 0.5), t(0.5, 3.0)
    assert c.combine(d, m).tolist() == pytest.approx([0.6, 1.5])
    assert c.combine(d, m, "weighted_sum", 0.25).tolist() == pytest.approx([0.675, 2.375])
    assert c.combine(d, m, "only_D").tolist() == d.tolist()
    assert c.combine(d, m, "only_M").tolist() == m.tolist()
    assert c.combine(d, m, "off").tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="combination"):
        c.combine(d, m, "weighted_sum")


def test_controls_and_clamp() -> None:
    alpha, use = t(0.5, 2.0, 4.0, 9.0), torch.tensor([True, True, True, False])
    assert c.inverse_alpha(alpha)[:3].tolist() == [2.0, 0.5, 0.25]
    assert c.constant_alpha(alpha, use).tolist() == pytest.approx([6.5 / 3] * 4)
    assert c.constant_alpha(alpha, ~use & False).tolist() == [1.0] * 4
    shuffled = c.shuffled_alpha(alpha, use, np.random.default_rng(3))
    assert sorted(shuffled[:3].tolist()) == [0.5, 2.0, 4.0]
    assert shuffled[3].item() == 9.0
    orders = {tuple(c.shuffled_alpha(alpha, use, np.random.default_rng(s)).tolist()) for s in range(60)}
    assert len(orders) == 6  # every permutation of three comes up
    assert c.clamp_alpha(t(0.1, 1.0, 7.0)).tolist() == [0.25, 1.0, 4.0]


def test_scale_advantages() -> None:
    advantages = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, NAN]])
    weights = torch.tensor([[2.0, 2.0, 2.0], [0.5, 1.5, 0.0]])
    scaled = c.scale_advantages(advantages, weights)
    assert scaled.tolist() == [[2.0, -2.0, 0.0], [0.5, -1.5, 0.0]]
    again = c.scale_advantages(advantages, weights, recentre=True)
    assert again.tolist() == [[2.0, -2.0, 0.0], [1.0, -1.0, 0.0]]  # mean of the two kept was -0.5


def test_alpha_has_to_act_after_the_normalisation() -> None:
    rewards = torch.tensor([[0.1, 0.9, 0.4]], dtype=torch.float64)

    def normalised(r: Tensor) -> Tensor:
        return (r - r.mean(dim=1, keepdim=True)) / r.std(dim=1, keepdim=True)

    weights = torch.full((1, 3), 1.7, dtype=torch.float64)
    assert torch.allclose(normalised(rewards * weights), normalised(rewards))  # divided out
    assert torch.allclose(c.scale_advantages(normalised(rewards), weights), 1.7 * normalised(rewards))


def test_nothing_carries_a_gradient() -> None:
    delta = torch.tensor([0.2], requires_grad=True)
    weights = torch.full((1, 2), 2.0, requires_grad=True)
    advantages = torch.ones(1, 2, requires_grad=True)
    assert not c.alpha_text(delta, 0.5).requires_grad
    assert not c.reward_gap(delta, torch.ones(1, 2, requires_grad=True)).requires_grad
    assert not c.similarity(torch.eye(2, requires_grad=True), torch.eye(2)).requires_grad
    c.scale_advantages(advantages, weights).sum().backward()
    assert advantages.grad is not None
    assert weights.grad is None


unit = st.floats(0, 1)
gap = st.floats(-50, 50, width=32)


@given(unit, unit)
def test_range_of_alpha_text(delta: float, mean: float) -> None:
    value = c.alpha_text(t(delta), mean).item()
    assert 0.6839 < value < 1.4622
    assert (value > 1) == (delta > mean) or math.isclose(value, 1, abs_tol=1e-12)


@given(st.floats(-700, 700), st.floats(0, 700))
def test_range_of_alpha_gap(filtered: float, mean: float) -> None:
    assert 0 < c.alpha_gap(filtered, mean) <= 2  # 2 only by rounding
    assert c.alpha_gap(mean, mean) == 1.0


@given(st.lists(gap, min_size=1, max_size=30), gap, st.floats(0, 0.9), st.randoms())
def test_masks_do_not_depend_on_the_order(
    gaps: list[float], centre: float, share: float, random: object
) -> None:
    mask = c.quantile_mask(t(*gaps), centre, share)
    masked = len(gaps) - int(mask.sum())
    assert masked <= c.masked_count(len(gaps), share) < len(gaps)
    if len({(g - centre) ** 2 for g in gaps}) == len(gaps):
        assert masked == c.masked_count(len(gaps), share)
    order = list(range(len(gaps)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = t(*[gaps[i] for i in order])
    again = c.quantile_mask(other, centre, share)
    assert again.tolist() == [bool(mask[i]) for i in order]
    assert c.filtered_mean(other, again, 0.0) == c.filtered_mean(t(*gaps), mask, 0.0)  # to the last bit


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_range_of_delta(k: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = torch.from_numpy(rng.normal(size=(k, 8))), torch.from_numpy(rng.normal(size=(length, 8)))
    for direction in ("gen_to_demo", "demo_to_gen", "symmetric"):
        assert 0 <= c.dissimilarity(a, b, direction) <= 2
        assert c.dissimilarity(a, a, direction) == 0
    assert c.dissimilarity(a, b, "gen_to_demo") == c.dissimilarity(b, a, "demo_to_gen")
    assert c.dissimilarity(a, b, "symmetric") == c.dissimilarity(b, a, "symmetric")
    assert c.dissimilarity(a, torch.cat([b, a])) == 0  # every piece finds itself
