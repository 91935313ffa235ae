"""Training in phases: each starts from the policy that the one before leaves, which is also its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drirl.align.interface import Inputs
from drirl.errors import DrirlError

if TYPE_CHECKING:
    from pathlib import Path

    from drirl.align.setup import Policy

__all__ = ["phase_arguments", "phase_folder", "phase_trainer", "split_updates", "train_phases"]


def split_updates(total: int, shares: Sequence[float]) -> list[int]:
    """Split ``total`` updates into phases in the ratio of ``shares``; a phase ends at the nearest update."""
    ends = [round(total * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def phase_folder(inputs: Inputs, phase: int) -> Path:
    """Return where the policy that a phase leaves is kept until ``finish`` removes it."""
    return inputs.out / "trainer" / f"phase{phase}"


def phase_arguments(
    inputs: Inputs, policy: Policy, updates: Sequence[Sequence[dict[str, Any]]], lr: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a TRL configuration and of its trainer for one phase on given rows.

    Args:
        updates: the dataset's rows of each update, trained on in this order.
    Raises:
        DrirlError: ``align.shared.micro_batch`` does not divide the rows of an update.
    """
    from datasets import Dataset

    from drirl.align.setup import common_arguments, micro_batches, peft_config

    size, accumulation = micro_batches(len(updates[0]), inputs.shared)
    arguments = {
        **common_arguments(inputs, lr),
        "max_steps": len(updates),
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "max_length": None,
        "train_sampling_strategy": "sequential",
    }
    parts = {
        "model": policy.model,
        "processing_class": policy.tokenizer,
        "train_dataset": Dataset.from_list([row for update in updates for row in update]),
        "peft_config": peft_config(inputs.shared),
    }
    return arguments, parts


def phase_trainer(
    inputs: Inputs,
    policy: Policy,
    updates: Sequence[Sequence[dict[str, Any]]],
    *,
    lr: float,
    beta: float,
    dpo_class: Any = None,
) -> Any:
    """Return TRL's trainer for one phase: DPO if its rows have a chosen side, else SFT on completions.

    Args:
        updates: the dataset's rows of each update; of pairs ``chosen`` and ``rejected``, or their token ids.
        beta: implicit KL penalty of DPO.
        dpo_class: the trainer of pairs, if it is not ``DPOTrainer`` itself.
    """
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    arguments, parts = phase_arguments(inputs, policy, updates, lr)
    if {"chosen", "chosen_ids"} & set(updates[0][0]):
        config = DPOConfig(beta=beta, loss_type=["sigmoid"], **arguments)
        return (dpo_class or DPOTrainer)(args=config, **parts)
    return SFTTrainer(args=SFTConfig(packing=False, completion_only_loss=True, **arguments), **parts)


def train_phases(
    inputs: Inputs,
    counts: Sequence[int],
    make_trainer: Callable[[Inputs, int, int, int], Any],
    names: Sequence[str] | None = None,
) -> Any:
    """Train the phases in turn and return the last trainer, with the log of all of them, for ``finish``.

    Args:
        counts: updates of each phase; a phase of none is left out.
        make_trainer: returns a phase's trainer from ``(inputs, phase, first, count)``: ``inputs.policy_path``
            is the policy to start from, ``first`` the number of updates before it, ``count`` its own.
        names: what messages call the phases; by their numbers from 0 if absent.
    Raises:
        DrirlError: categories are to come one after another.
    """
    from drirl.align.logs import quiet
    from drirl.align.setup import skip_padding
    from drirl.models import save_policy

    if inputs.shared.harmful_order == "sequential":
        raise DrirlError(
            f"{inputs.label}: align.shared.harmful_order 'sequential' is not for methods that train in "
            "phases, each of which would see some of the categories; use 'mixed' or leave it out of "
            "run.methods"
        )
    trainer: Any = None
    start, history, done = inputs, [], 0
    for phase, count in enumerate(counts):
        if count == 0:
            continue
        trainer = make_trainer(start, phase, done, count)
        skip_padding(trainer)
        quiet(trainer, f"{inputs.label} {names[phase] if names else f'phase {phase}'}")
        trainer.train()
        data = trainer.train_dataset
        for column in {"chosen_ids", "rejected_ids", "completion_ids", "labels"} & set(data.column_names):
            inputs.meter.trained_tokens += sum(token != -100 for row in data[column] for token in row)
        history += [{**e, "step": e["step"] + done} for e in trainer.state.log_history if "loss" in e]
        done += count
        if done < sum(counts):
            folder = phase_folder(inputs, phase)
            save_policy(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, folder)
            start = replace(inputs, policy_path=folder, revision=None)
    trainer.state.log_history, trainer.state.global_step = history, done
    return trainer
