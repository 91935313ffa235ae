"""Supervised fine-tuning on the demonstrations: cross-entropy on the completion, prompt masked.

    L = - sum_t log pi(y_t | x, y_<t) / number of completion tokens in the batch

with y the demonstration as written, Chain-of-Draft notes, separator and reply, and its end token.

Equations: docs/paper.md section 7. The loss is TRL's ``SFTTrainer``.
Deviations: none known; the learning rate and budget of the paper are not.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2203.02155"
USES = ()
PRELOAD = ("trl.trainer.sft_trainer", "drirl.align.setup")


class Config(Section):
    """Section ``align.methods.sft``; the number of updates is shared."""

    lr: float = Field(3e-4, gt=0, description="learning rate of AdamW")
    batches: int = Field(
        1,
        ge=1,
        description="plan steps joined into one update: 1 gives the prompts per update of the RL methods",
    )


def train(inputs: Inputs, config: Config) -> None:
    """Fit the demonstrations of the shared plan and save the policy."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from drirl.align.logs import quiet
    from drirl.align.plan import plan_rows
    from drirl.align.setup import (
        chat,
        check_lengths,
        common_arguments,
        finish,
        load,
        micro_batches,
        peft_config,
        skip_padding,
    )

    shared = inputs.shared
    policy = load(inputs)
    updates = plan_rows(inputs.train, shared, inputs.seed, config.batches)
    rows = [row for batch in updates for row in batch]
    check_lengths(policy, rows, shared)
    size, accumulation = micro_batches(len(updates[0]), shared)
    arguments = SFTConfig(
        **common_arguments(inputs, config.lr),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        max_length=None,
        packing=False,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
    )
    trainer = SFTTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": chat(p.text), "completion": chat(d.full_text, "assistant")} for p, d in rows]
        ),
        peft_config=peft_config(shared),
    )
    skip_padding(trainer)
    quiet(trainer, inputs.label)
    trainer.train()
    data: Any = trainer.train_dataset
    inputs.meter.trained_tokens = sum(int(label != -100) for row in data["labels"] for label in row)
    finish(inputs, trainer, policy.tokenizer)
