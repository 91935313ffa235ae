from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drirl.align.interface import Inputs
from drirl.align.plan import plan_rows
from drirl.errors import DrirlError
from drirl.generate import Completion
from drirl.records import Demo, Prompt, read_jsonl

from ..align.conftest import SMALL
from .conftest import Fixed, tokens

Make = Callable[..., Inputs]
Rows = list[tuple[Prompt, Demo]]


@pytest.fixture(scope="module")
def sacpo(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("sacpo")


def weights(inputs: Inputs) -> dict[str, torch.Tensor]:
    return load_file(inputs.out / "policy" / "model.safetensors")


@pytest.mark.parametrize(
    ("updates", "harmful", "benign", "expected"),
    [(50, 7, 7, (25, 25)), (2, 7, 3, (1, 1)), (10, 9, 1, (1, 9)), (10, 1, 99, (9, 1)), (3, 7, 3, (1, 2))],
)
def test_updates_are_split_like_the_prompts(
    sacpo: Any, updates: int, harmful: int, benign: int, expected: tuple[int, int]
) -> None:
    assert sacpo.step_updates(updates, harmful, benign) == expected


@pytest.mark.parametrize(("updates", "benign"), [(1, 7), (50, 0)])
def test_two_steps_need_two_kinds_of_prompts(sacpo: Any, updates: int, benign: int) -> None:
    with pytest.raises(DrirlError, match="SACPO has a helpfulness and a safety step"):
        sacpo.step_updates(updates, 7, benign)


def test_the_steps_regroup_the_shared_plans_prompts(sacpo: Any, make_inputs: Make) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"updates": 4}))
    plan = [prompt for update in plan_rows(inputs.train, inputs.shared, 0) for prompt, _ in update]
    helpful = [p for update in sacpo.step_rows(inputs, inputs.train, 2, 0, 4) for p, _ in update]
    safe = [p for update in sacpo.step_rows(inputs, inputs.train, 2, 4, 0) for p, _ in update]
    assert [p.prompt_id for p in helpful] == [p.prompt_id for p in plan if p.category < 0]
    assert [p.prompt_id for p in safe] == [p.prompt_id for p in plan if p.category >= 0]


def test_loss_of_each_step_by_hand(sacpo: Any, make_inputs: Make) -> None:
    inputs = make_inputs()
    updates = sacpo.step_rows(inputs, inputs.train, 1, 0, 4)
    rejected = {prompt.prompt_id: Completion("Sorry.", True, 2) for prompt, _ in inputs.train}
    trainer = sacpo.build(inputs, sacpo.Config(), updates, rejected, "dpo", 0.25)
    # log-ratios: chosen 3, rejected -1, so 0.25 * 4 = 1
    policy, reference = torch.tensor([[-1.0], [-5.0]]), torch.tensor([[-4.0], [-4.0]])
    trainer.ref_model = Fixed(reference)
    assert trainer._compute_loss(Fixed(policy), tokens(2), False).item() == pytest.approx(
        math.log1p(math.exp(-1)), abs=1e-6
    )
    trainer = sacpo.build(inputs, sacpo.Config(), updates, rejected, "kto", 0.25)
    trainer.ref_model = Fixed(reference)  # the mismatched completions too: log-ratios 3 and -1, z = 1
    batch = {**tokens(2), "label": torch.tensor([True, False])}
    batch |= {f"KL_{name}": value for name, value in tokens(2).items()}
    loss = trainer._compute_loss(Fixed(policy), batch, False)
    wanted, unwanted = 1 / (1 + math.exp(-0.25 * (3 - 1))), 1 / (1 + math.exp(-0.25 * (1 + 1)))
    assert loss.item() == pytest.approx(1 - (wanted + unwanted) / 2, abs=1e-6)


def test_step_two_starts_from_step_one_and_refers_to_it(sacpo: Any, make_inputs: Make) -> None:
    shared = SMALL.model_copy(update={"updates": 4})
    for loss, start in (("dpo", math.log(2)), ("kto", 0.5)):
        inputs = make_inputs(loss, shared=shared)
        sacpo.train(inputs, sacpo.Config(lr=1e-3, safety_loss=loss))
        log = read_jsonl(inputs.out / "log.jsonl")
        assert [row["update"] for row in log] == [1, 2, 3, 4]
        assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[1]["loss"] < log[0]["loss"]
        assert log[2]["loss"] == pytest.approx(start, abs=1e-4)  # policy and reference are equal again
        assert log[3]["loss"] < log[2]["loss"]
        assert inputs.meter.updates == 4
        assert sorted(p.name for p in inputs.out.iterdir()) == ["log.jsonl", "policy"]


def test_merge(sacpo: Any, make_inputs: Make, tiny_policy: Any) -> None:
    first, second = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])}
    assert sacpo.merge_weights(first, second, 0.25)["w"].tolist() == [0.5, 3.0]
    runs = {q: make_inputs(f"q{q}") for q in (0.0, 0.5, 1.0)}
    for q, inputs in runs.items():
        sacpo.train(inputs, sacpo.Config(lr=1e-3, merge=q))
    helpful, half, safe = (weights(runs[q]) for q in (0.0, 0.5, 1.0))
    base = load_file(tiny_policy / "model.safetensors")
    assert any(not torch.equal(helpful[name], base[name]) for name in base)
    assert any(not torch.equal(helpful[name], safe[name]) for name in base)
    for name in base:
        torch.testing.assert_close(half[name], (helpful[name] + safe[name]) / 2)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_the_demonstration_is_the_preferred_side(sacpo: Any, make_inputs: Make, loss: str) -> None:
    inputs = make_inputs()
    updates = sacpo.step_rows(inputs, inputs.train, 1, 0, 4)
    rejected = {prompt.prompt_id: Completion("Sorry.", True, 2) for prompt, _ in inputs.train}
    trainer = sacpo.build(inputs, sacpo.Config(), updates, rejected, loss, 0.1)
    data, decode = trainer.train_dataset, trainer.processing_class.decode
    if loss == "dpo":
        good, bad = list(data["chosen_ids"]), list(data["rejected_ids"])
    else:
        pairs = list(zip(data["completion_ids"], data["label"], strict=True))
        good, bad = ([ids for ids, label in pairs if label is side] for side in (True, False))
    for (_, demo), ids in zip(updates[0], good, strict=True):
        assert demo.answer in decode(ids)
    assert len(bad) == 4
    assert all("Sorry." in decode(ids) for ids in bad)
