from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from drirl.align.interface import Inputs
from drirl.align.phases import phase_folder, phase_trainer, split_updates, train_phases
from drirl.align.setup import chat, load
from drirl.errors import DrirlError

from .conftest import SMALL

Make = Callable[..., Inputs]


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [(50, [0.2, 0.4, 0.4], [10, 20, 20]), (2, [0.2, 0.4, 0.4], [0, 1, 1]), (7, [0.0, 1.0], [0, 7])],
)
def test_phases_share_the_updates(total: int, shares: list[float], expected: list[int]) -> None:
    assert split_updates(total, shares) == expected


def test_phases_always_add_up() -> None:
    for total in range(1, 40):
        for iterations in range(1, 6):
            counts = split_updates(total, [0.2] + [0.8 / iterations] * iterations)
            assert sum(counts) == total
            assert min(counts) >= 0


def rows(kind: str, updates: int = 3, size: int = 2) -> list[list[dict[str, Any]]]:
    """Rows with a number in their prompt that says where they belong."""
    sides = {"chosen": "So.", "rejected": "No."} if kind == "pairs" else {"completion": "So."}
    return [
        [
            {
                "prompt": chat(f"How {u * size + k}?"),
                **{name: chat(text, "assistant") for name, text in sides.items()},
            }
            for k in range(size)
        ]
        for u in range(updates)
    ]


@pytest.mark.parametrize(("kind", "expected"), [("pairs", "DPOTrainer"), ("completions", "SFTTrainer")])
def test_the_rows_decide_the_loss(make_inputs: Make, kind: str, expected: str) -> None:
    inputs = make_inputs(shared=SMALL.model_copy(update={"updates": 9, "micro_batch": 1}))
    policy = load(inputs)
    trainer = phase_trainer(inputs, policy, rows(kind), lr=0.02, beta=0.3)
    assert type(trainer).__name__ == expected
    arguments = trainer.args
    assert (arguments.max_steps, arguments.learning_rate) == (3, 0.02)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (1, 2)
    assert arguments.max_length is None
    if kind == "pairs":
        assert trainer.beta == 0.3
    seen = [policy.tokenizer.decode(batch["input_ids"][0]) for batch in trainer.get_train_dataloader()]
    assert [f"How {k}?" in text for k, text in enumerate(seen)] == [True] * 6  # in the order given


def test_another_trainer_of_pairs_and_rows_that_do_not_divide(make_inputs: Make) -> None:
    from trl import DPOTrainer

    class Other(DPOTrainer):
        pass

    inputs = make_inputs(shared=SMALL.model_copy(update={"micro_batch": 2}))
    trainer = phase_trainer(inputs, load(inputs), rows("pairs"), lr=0.1, beta=0.1, dpo_class=Other)
    assert type(trainer) is Other
    with pytest.raises(DrirlError, match=r"align\.shared\.micro_batch"):
        phase_trainer(inputs, load(inputs), rows("pairs", size=3), lr=0.1, beta=0.1)


class Stub:
    """A trainer that takes ``count`` steps and does nothing else."""

    def __init__(self, phase: int, count: int, columns: dict[str, list[list[int]]]) -> None:
        self.model = self.processing_class = f"policy{phase}"
        self.count, self.labels = count, []
        self.train_dataset = Dataset.from_dict(columns)
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        self.state = SimpleNamespace(log_history=[], global_step=0)

    def remove_callback(self, callback: Any) -> None:
        pass

    def add_callback(self, callback: Any) -> None:
        self.labels.append(callback.label)

    def train(self) -> None:
        self.state.log_history = [{"step": k + 1, "loss": float(k)} for k in range(self.count)]
        self.state.log_history.append({"step": self.count, "train_runtime": 1.0})
        self.state.global_step = self.count


def test_each_phase_starts_from_what_the_one_before_leaves(
    make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[Any, Any, Path]] = []
    monkeypatch.setattr("drirl.models.save_policy", lambda *arguments: saved.append(arguments))
    monkeypatch.setattr("drirl.align.setup.skip_padding", lambda trainer: None)
    inputs = make_inputs(revision="main", shared=SMALL.model_copy(update={"updates": 6}))
    columns = {
        0: {"labels": [[-100, 4, 5]], "input_ids": [[3, 4, 5]]},  # 2 tokens are trained on
        2: {"chosen_ids": [[4], [4, 5]], "rejected_ids": [[6], [7]], "prompt_ids": [[1], [1]]},  # 5
        3: {"completion_ids": [[4, 5, 6]], "KL_completion_ids": [[4, 5, 6]]},  # 3
    }
    calls, made = [], []

    def make_trainer(start: Inputs, phase: int, first: int, count: int) -> Stub:
        calls.append((start.policy_path, start.revision, phase, first, count))
        made.append(Stub(phase, count, columns[phase]))
        return made[-1]

    last = train_phases(inputs, [1, 0, 2, 3], make_trainer)
    assert calls == [
        (inputs.policy_path, "main", 0, 0, 1),
        (phase_folder(inputs, 0), None, 2, 1, 2),
        (phase_folder(inputs, 2), None, 3, 3, 3),
    ]
    assert saved == [(f"policy{k}", f"policy{k}", phase_folder(inputs, k)) for k in (0, 2)]
    assert last is made[-1]
    assert [entry["step"] for entry in last.state.log_history] == [1, 2, 3, 4, 5, 6]
    assert [entry["loss"] for entry in last.state.log_history] == [0.0, 0.0, 1.0, 0.0, 1.0, 2.0]
    assert last.state.global_step == 6
    assert inputs.meter.trained_tokens == 2 + 5 + 3
    assert [stub.labels for stub in made] == [[f"{inputs.label} phase {k}"] for k in (0, 2, 3)]
    train_phases(inputs, [1], make_trainer, ["warm-up"])
    assert made[-1].labels == [f"{inputs.label} warm-up"]


def test_categories_one_after_another_are_not_for_phases(make_inputs: Make) -> None:
    inputs = make_inputs("phases", shared=SMALL.model_copy(update={"harmful_order": "sequential"}))
    with pytest.raises(DrirlError, match="'sequential' is not for methods that train in phases"):
        train_phases(inputs, [1, 1], lambda *_: pytest.fail("nothing is trained"))
