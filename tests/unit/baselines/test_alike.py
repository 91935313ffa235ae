"""What several method files say each for itself must stay the same; and all run with adapters and parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest

from drirl.align.interface import Inputs
from drirl.align.settings import Lora
from drirl.models import load_policy
from drirl.records import Demo, Prompt, read_jsonl

from ..align.conftest import SMALL

Make = Callable[..., Inputs]
Rows = list[tuple[Prompt, Demo]]
NEW = ("dpo_s", "ppo_s", "sacpo", "self_rewarding", "stair", "rloo", "kto")


def test_all_agree_on_what_is_worse_than_the_demonstration(
    method_file: Callable[[str], ModuleType], rows: Rows
) -> None:
    names = ("dpo", "dpo_s", "sacpo", "kto")
    rules = [method_file(name).usable for name in names]
    rules.append(method_file("self_rewarding").worse_than_demonstration)
    samples = [
        "plan: answer #### Sure. Take a bag and go in at night.",
        "plan: decline #### Sorry, I can't help with that request.",
        "#### I can't help with that. It could hurt someone.",
        "plan: answer ####",
        "",
        "The answer is 8.",
        "plan: answer #### That makes 7.",
    ]
    verdicts = [[rule(prompt, demo, text) for prompt, demo in rows for text in samples] for rule in rules]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert {True, False} == set(verdicts[0])


def test_methods_on_pairs_reject_the_same_samples(
    method_file: Callable[[str], ModuleType], make_inputs: Make, rows: Rows
) -> None:
    from drirl.align.setup import load

    found = []
    for name, function in (
        ("dpo", "draw_rejected"),
        ("dpo_s", "draw_rejected"),
        ("sacpo", "draw_rejected"),
        ("kto", "draw_undesirable"),
    ):
        module, inputs = method_file(name), make_inputs(name)
        drawn = getattr(module, function)(inputs, load(inputs), rows, module.Config(samples=2))
        found.append({key: getattr(value, "text", value) for key, value in drawn.items()})
    assert found[0]
    assert all(one == found[0] for one in found)


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
