from __future__ import annotations

import pytest
import torch

from drirl.align.returns import clipped_value_loss, generalised_advantages


def test_advantages_by_hand() -> None:
    # Row 1: rewards 1, 0, 2; values 0.5, 1, -1; gamma 0.5, lambda 0.5, so gamma * lambda = 0.25
    #   d3 = 2 - (-1) = 3;               A3 = 3
    #   d2 = 0 + 0.5 * (-1) - 1 = -1.5;  A2 = -1.5 + 0.25 * 3 = -0.75
    #   d1 = 1 + 0.5 * 1 - 0.5 = 1;      A1 = 1 + 0.25 * (-0.75) = 0.8125
    # Row 2 has one token; what follows is padding and must not count.
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 9.0]])
    values = torch.tensor([[0.5, 1.0, -1.0], [1.0, 7.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    advantages, returns = generalised_advantages(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    assert advantages.tolist() == [[0.8125, -0.75, 3.0], [2.0, 0.0, 0.0]]
    assert returns.tolist() == [[1.3125, 0.25, 2.0], [3.0, 0.0, 0.0]]


def test_lambda_one_gives_returns_free_of_values_lambda_zero_the_one_step_error() -> None:
    rewards, values, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[5.0, 6.0, 7.0]]), torch.ones(1, 3)
    _, returns = generalised_advantages(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    assert returns.tolist() == [[7.0, 6.0, 4.0]]
    advantages, _ = generalised_advantages(rewards, values, mask, gamma=1.0, gae_lambda=0.0)
    assert advantages.tolist() == [[1 + 6 - 5, 2 + 7 - 6, 4 - 7]]


def test_value_loss_by_hand() -> None:
    values = torch.tensor([[1.0, 0.1, 5.0]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, 0.0]])
    returns = torch.tensor([[2.0, 1.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    # token 1: (1-2)^2 = 1, clipped value 0.2 -> (0.2-2)^2 = 3.24, larger; token 2: inside the clip, 0.81
    loss = clipped_value_loss(values, old, returns, mask, clip=0.2)
    assert loss.item() == pytest.approx(0.5 * (3.24 + 0.81) / 2)
    loss.backward()
    # the clipped branch is constant in the value; token 2: 0.5 * 2 * (0.1 - 1) / 2
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, pytest.approx(-0.45), 0.0]]
