from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from drirl.align.interface import Inputs
from drirl.records import RolloutGroup, read_jsonl

from ..align.conftest import SMALL
from .conftest import Fixed

Make = Callable[..., Inputs]
G3 = SMALL.model_copy(update={"group_size": 3})


@pytest.fixture(scope="module")
def rloo(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("rloo")


def test_loss_by_hand(rloo: Any, make_inputs: Make) -> None:
    trainer, _ = rloo.build(make_inputs(), rloo.Config())
    # Three completions of two tokens; the last one's second token is padding. Sequence ratios:
    #   1: exp((-1 - 1) - (-2)) = 1;                     advantage 2      -> min(2, 2)        =  2
    #   2: exp((-1 - 1) - (-2 - log 2)) = 2, clip 1.2;   advantage 1      -> min(2, 1.2)      =  1.2
    #   3: exp(-1 - (-1 + log 2)) = 0.5, clip 0.8;       advantage -1     -> min(-0.5, -0.8)  = -0.8
    batch = {
        "prompt_ids": torch.full((3, 1), 5),
        "prompt_mask": torch.ones(3, 1, dtype=torch.long),
        "completion_ids": torch.full((3, 2), 6),
        "completion_mask": torch.tensor([[1, 1], [1, 1], [1, 0]]),
        "old_logps": torch.tensor([-2.0, -2.0 - math.log(2), -1.0 + math.log(2)]),
        "advantages": torch.tensor([2.0, 1.0, -1.0]),
    }
    policy = torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -9.0]])
    loss = trainer._compute_loss(Fixed(policy), batch)
    assert loss.item() == pytest.approx(-(2 + 1.2 - 0.8) / 3, abs=1e-6)


def test_advantages_are_leave_one_out_with_the_kl_in_the_reward(rloo: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=G3)
    rloo.train(inputs, rloo.Config(lr=1e-2))
    groups = read_jsonl(inputs.out / "rollouts.jsonl", RolloutGroup)
    assert [g.step for g in groups] == [1] * 4 + [2] * 4
    for group in groups:
        a, b, c = group.r_gen
        plain = [a - (b + c) / 2, b - (a + c) / 2, c - (a + b) / 2]
        if group.step == 1:  # the policy still is the reference: no penalty
            assert group.adv == pytest.approx(plain, abs=1e-4)
        assert sum(group.adv) == pytest.approx(0, abs=1e-4)
    moved = [g for g in groups if g.step == 2]
    gaps = [
        abs(adv - (r - (sum(g.r_gen) - r) / 2)) for g in moved for adv, r in zip(g.adv, g.r_gen, strict=True)
    ]
    assert max(gaps) > 1e-4  # after an update of this size the penalty is felt
    log = read_jsonl(inputs.out / "log.jsonl")
    assert log[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert abs(log[1]["kl"]) > 1e-4


def test_first_completions_are_grpos(
    rloo: Any, method_file: Callable[[str], ModuleType], make_inputs: Make
) -> None:
    grpo, ours, other = method_file("grpo"), make_inputs("rloo"), make_inputs("grpo")
    rloo.train(ours, rloo.Config())
    grpo.train(other, grpo.Config())
    firsts = [
        [(g.prompt_id, g.completions, g.r_gen) for g in read_jsonl(i.out / "rollouts.jsonl", RolloutGroup)][
            :4
        ]
        for i in (ours, other)
    ]
    assert firsts[0] == firsts[1]


def test_normalised_advantages_and_trls_own_sampling(rloo: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"sampler": "trl"}))
    rloo.train(inputs, rloo.Config(normalise=True))
    first = [g for g in read_jsonl(inputs.out / "rollouts.jsonl", RolloutGroup) if g.step == 1]
    values = torch.tensor([value for g in first for value in g.adv])
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std().item() == pytest.approx(1, abs=1e-2)
    assert inputs.meter.generated_tokens > 0
