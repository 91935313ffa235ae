"""Methods with a section ``hardness`` open the LLM that splits, and log what the rules had to split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from drirl.align.interface import Inputs
from drirl.hardness.settings import HardnessSettings
from drirl.records import read_jsonl


@pytest.mark.parametrize("name", ["dr_irl", "dr_irl_constant", "dpo_s", "ppo_s"])
def test_an_llm_that_splits_nothing_is_counted_and_changes_nothing(
    name: str,
    method_file: Callable[[str], ModuleType],
    make_inputs: Callable[..., Inputs],
    tiny_policy: Path,
) -> None:
    method = method_file(name)
    generator = {"kind": "transformers", "model": str(tiny_policy), "device": "cpu"}  # no room for a request
    given = {"control": "constant"} if name == "dr_irl_constant" else {}
    logs, policies = [], []
    for more in ({}, {"splitter": "llm", "generator": generator}):
        inputs = make_inputs(more.get("splitter", "rules"))
        method.train(inputs, method.Config(hardness=HardnessSettings.model_validate(given | more)))
        logs.append(read_jsonl(inputs.out / "log.jsonl"))
        policies.append(load_file(inputs.out / "policy" / "model.safetensors"))
    rules, llm = logs
    assert not any(key.startswith("split") for row in rules for key in row)
    for before, row in zip(rules, llm, strict=True):
        assert 0 < row.pop("split_fallbacks") <= row.pop("split_texts")
        assert row == before
    assert all(bool(values.equal(policies[1][key])) for key, values in policies[0].items())
