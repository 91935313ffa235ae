from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from drirl.align.interface import Inputs
from drirl.records import read_jsonl

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def dpo(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("dpo")


@pytest.fixture(scope="module")
def sft(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("sft")


def test_dpo_starts_at_log_two_and_uses_its_pairs(dpo: Any, make_inputs: Make) -> None:
    inputs = make_inputs("dpo")
    dpo.train(inputs, dpo.Config(lr=1e-3))
    log = read_jsonl(inputs.out / "log.jsonl")
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are equal
    assert log[1]["loss"] < log[0]["loss"]
    assert inputs.meter.counts()["updates"] == 2
    assert inputs.meter.counts()["generated_tokens"] > 0
    assert sorted(p.name for p in inputs.out.iterdir()) == ["log.jsonl", "policy"]


def test_sft_loss_is_the_mean_over_completion_tokens(sft: Any, make_inputs: Make, tiny_policy: Any) -> None:
    import torch

    from drirl.align.plan import plan_rows
    from drirl.models import load_policy

    inputs = make_inputs("sft")
    sft.train(inputs, sft.Config(lr=1e-3))
    model, tokenizer = load_policy(tiny_policy)
    total, count = 0.0, 0
    for prompt, demo in plan_rows(inputs.train, inputs.shared, inputs.seed)[0]:
        messages = [{"role": "user", "content": prompt.text}]
        start = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        messages.append({"role": "assistant", "content": demo.full_text})
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert ids[: len(start)] == start
        assert ids[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0, len(start) - 1 : -1]
        targets = torch.tensor(ids[len(start) :])
        total -= logps.gather(-1, targets[:, None]).sum().item()
        count += len(targets)
    log = read_jsonl(inputs.out / "log.jsonl")
    assert log[0]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert log[1]["loss"] < log[0]["loss"]


def test_batches_join_plan_steps(sft: Any, make_inputs: Make) -> None:
    one, two = make_inputs("one"), make_inputs("two")
    sft.train(one, sft.Config())
    sft.train(two, sft.Config(batches=2))
    assert one.meter.updates == two.meter.updates == 2
    assert two.meter.trained_tokens > 1.5 * one.meter.trained_tokens
