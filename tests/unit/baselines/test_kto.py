from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from drirl.align.interface import Inputs
from drirl.errors import DrirlError
from drirl.records import read_jsonl

from ..align.conftest import SMALL
from .conftest import Fixed, tokens

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def kto(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("kto")


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("shift", "z"), [(1.5, 1.5), (-4.0, 0.0)])
def test_loss_by_hand(kto: Any, make_inputs: Make, shift: float, z: float) -> None:
    config = kto.Config(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    trainer, _ = kto.build(make_inputs(), config)
    # Log-ratios of the three completions: 1 (demonstration), 0 and -2 (samples). The mismatched completions
    # have the mean log-ratio ``shift``; z is that, and 0 if it is negative.
    reference = torch.tensor([[-3.0], [-2.0], [-1.0]])
    policy = reference + torch.tensor([[1.0], [0.0], [-2.0]])
    others = torch.tensor([[-5.0], [-6.0], [-7.0]])
    trainer.ref_model = Fixed(others, reference)
    batch = {**tokens(3), "label": torch.tensor([True, False, False])}
    batch |= {f"KL_{name}": value for name, value in tokens(3).items()}
    loss = trainer._compute_loss(Fixed(others + shift, policy), batch, False)
    expected = [
        2 * (1 - sigma(0.5 * (1 - z))),
        3 * (1 - sigma(0.5 * (z - 0))),
        3 * (1 - sigma(0.5 * (z + 2))),
    ]
    assert loss.item() == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_no_mismatched_completion_belongs_to_its_prompt(kto: Any, make_inputs: Make) -> None:
    inputs = make_inputs()
    trainer, _ = kto.build(inputs, kto.Config())
    data = trainer.train_dataset
    size = SMALL.harmful_per_update + SMALL.benign_per_update
    assert data["label"] == ([True] * size + [False] * size) * SMALL.updates
    demos = {prompt.text: demo.full_text for prompt, demo in inputs.train}
    prompts = [row["prompt"][0]["content"] for row in data]
    for i, row in enumerate(data):
        if row["label"]:
            assert row["completion"][0]["content"] == demos[prompts[i]]
        before = i - 1 if i % (2 * size) else i + 2 * size - 1  # the update's last row for its first
        assert row["KL_completion_ids"] == data[before]["completion_ids"]
        assert prompts[before] != prompts[i]


def test_a_run_starts_at_one_half_and_sees_dpos_texts(
    kto: Any, method_file: Callable[[str], ModuleType], make_inputs: Make
) -> None:
    inputs = make_inputs("kto")
    kto.train(inputs, kto.Config(lr=1e-3))
    log = read_jsonl(inputs.out / "log.jsonl")
    assert log[0]["loss"] == pytest.approx(0.5, abs=1e-5)  # sigmoid(0): policy and reference are equal
    assert log[0]["kl_of_other_prompts"] == pytest.approx(0.0, abs=1e-5)
    assert "kl" not in log[0]
    assert log[1]["loss"] < log[0]["loss"]
    other, dpo = make_inputs("dpo"), method_file("dpo")
    dpo.train(other, dpo.Config())
    assert inputs.meter.counts() == other.meter.counts()


def test_one_sequence_has_no_other_prompt(kto: Any, make_inputs: Make) -> None:
    with pytest.raises(DrirlError, match=r"align\.shared\.micro_batch"):
        kto.build(make_inputs(shared=SMALL.model_copy(update={"micro_batch": 1})), kto.Config())
