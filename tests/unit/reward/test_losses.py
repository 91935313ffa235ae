"""Reward losses against hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from drirl.reward.losses import infonce_loss, logistic_loss, penalty


def test_logistic_loss_by_hand() -> None:
    # pairs: 1 - 0 = 1, weight 1; 1 - 3 = -2, weight 0.5
    # log(1 + e^-1) = 0.313262; log(1 + e^2) = 2.126928; (0.313262 + 1.063464) / 1.5 = 0.917817
    loss = logistic_loss(torch.tensor([1.0]), torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.5]]))
    assert loss.item() == pytest.approx(0.917817, abs=1e-5)


def test_weight_zero_takes_a_pair_out() -> None:
    chosen, weights = torch.tensor([1.0]), torch.tensor([[1.0, 0.0]])
    a = logistic_loss(chosen, torch.tensor([[0.0, 99.0]]), weights)
    b = logistic_loss(chosen, torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    assert a.item() == pytest.approx(b.item())
    assert infonce_loss(chosen, torch.tensor([[0.0, 99.0]]), weights).item() == pytest.approx(b.item())
    none = torch.zeros(1, 2)
    for loss in (logistic_loss, infonce_loss, penalty):
        assert loss(chosen, torch.tensor([[0.0, 9.0]]), none).item() == 0.0


def test_infonce_by_hand_and_equal_to_logistic_for_one_negative() -> None:
    # r/beta: 2/2 = 1 against 0 and 4/2 = 2: -log(e / (e + 1 + e^2)) = log(e + 1 + e^2) - 1 = 1.407606
    loss = infonce_loss(torch.tensor([2.0]), torch.tensor([[0.0, 4.0]]), torch.ones(1, 2), beta=2.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1 + math.e**2) - 1, abs=1e-6)
    chosen, rejected = torch.tensor([0.3, -1.2]), torch.tensor([[0.9], [0.4]])
    one = torch.ones(2, 1)
    assert infonce_loss(chosen, rejected, one).item() == pytest.approx(
        logistic_loss(chosen, rejected, one).item()
    )


def test_logistic_gradient_at_zero_is_half_the_likelihood_gradient() -> None:
    chosen = torch.zeros(2, requires_grad=True)
    rejected = torch.zeros(2, 2, requires_grad=True)
    logistic_loss(chosen, rejected, torch.ones(2, 2)).backward()
    # likelihood: mean over pairs of r(y) - r(y~), gradient 1/B for a demonstration, -1/(B K) for a negative
    assert torch.allclose(chosen.grad, torch.full((2,), -0.5 / 2))
    assert torch.allclose(rejected.grad, torch.full((2, 2), 0.5 / 4))


def test_penalty_by_hand() -> None:
    # (1 + 4) and (1 + 9) with weights 1 and 0.5: (5 + 5) / 1.5
    value = penalty(torch.tensor([1.0]), torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 0.5]]))
    assert value.item() == pytest.approx(10 / 1.5)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected chosen \(B,\)"):
        logistic_loss(torch.zeros(2), torch.zeros(3, 1), torch.zeros(3, 1))


def test_the_two_forms_of_the_penalty_by_hand() -> None:
    # pairs (1, -1) and (1, 3): squares 1 + 1 and 1 + 9; sums 0 and 16; weights 1 and 0.5
    arguments = torch.tensor([1.0]), torch.tensor([[-1.0, 3.0]]), torch.tensor([[1.0, 0.5]])
    assert penalty(*arguments).item() == pytest.approx((2 + 0.5 * 10) / 1.5)
    assert penalty(*arguments, "sum").item() == pytest.approx(0.5 * 16 / 1.5)
