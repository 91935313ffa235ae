"""What holds for every method of the later list: adapters, small forward passes, the same bytes again."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest

from drirl.align.interface import Inputs
from drirl.align.settings import Lora
from drirl.models import load_policy
from drirl.records import read_jsonl

from ..align.conftest import SMALL

Make = Callable[..., Inputs]
NEW = ("dpo_s", "ppo_s", "sacpo", "self_rewarding", "stair", "rloo", "kto")


@pytest.mark.parametrize("name", NEW)
def test_adapters_and_small_forward_passes(
    method_file: Callable[[str], ModuleType], make_inputs: Make, name: str
) -> None:
    values = {"updates": 4, "micro_batch": 2, "lora": Lora(r=2, alpha=4)}
    inputs, module = make_inputs(name, shared=SMALL.model_copy(update=values)), method_file(name)
    module.train(inputs, module.Config())
    assert [row["update"] for row in read_jsonl(inputs.out / "log.jsonl")] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) for row in read_jsonl(inputs.out / "log.jsonl"))
    model, _ = load_policy(inputs.out / "policy")
    assert not [key for key in model.state_dict() if "lora" in key]


@pytest.mark.parametrize("name", NEW)
def test_a_run_repeats_to_the_byte(
    method_file: Callable[[str], ModuleType], make_inputs: Make, name: str
) -> None:
    module, runs = method_file(name), []
    for k in range(2):
        inputs = make_inputs(f"{name}{k}", method=name)
        module.train(inputs, module.Config())
        files = [p for p in sorted(inputs.out.rglob("*")) if p.is_file()]
        runs.append({str(p.relative_to(inputs.out)): p.read_bytes() for p in files})
    assert runs[0] == runs[1]
