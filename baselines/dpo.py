"""DPO: the demonstration preferred to a sample of the reference policy, without a reward model.

    L = - log sigmoid( beta * [ log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x) ] )

with y_w the demonstration as written (Chain-of-Draft notes included) and y_l ~ pi_ref(.|x) for the same
prompt. A prompt leaves the plan if every sample drawn for it is as good as the demonstration: the same
reply, a refusal of a harmful prompt, or a correct answer to a task.

Equations: docs/paper.md section 7; arXiv:2305.18290, equation 7. The loss is TRL's ``DPOTrainer``.
Deviations: the paper's own preference data are not known; these pairs come from the same prompts and
demonstrations that every other method sees.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.align.pairs import pair_plan
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2305.18290"
USES = ()
PRELOAD = ("trl.trainer.dpo_trainer", "drirl.align.setup")


class Config(Section):
    """Section ``align.methods.dpo``; the number of updates and the decoding of samples are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    beta: float = Field(0.1, gt=0, description="strength of the implicit KL penalty")
    batches: int = Field(
        1,
        ge=1,
        description="plan steps joined into one update: 1 gives the prompts per update of the RL methods",
    )
    samples: int = Field(
        1, ge=1, description="reference samples drawn per prompt; the first usable one is rejected"
    )


def train(inputs: Inputs, config: Config) -> None:
    """Make the pairs, fit them in the order of the shared plan, and save the policy."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from drirl.align.logs import quiet
    from drirl.align.setup import (
        chat,
        common_arguments,
        finish,
        load,
        micro_batches,
        peft_config,
        skip_padding,
    )

    shared = inputs.shared
    policy = load(inputs)
    updates, rejected = pair_plan(inputs, policy, config.batches, config.samples)
    rows = [row for batch in updates for row in batch]
    size, accumulation = micro_batches(len(updates[0]), shared)
    arguments = DPOConfig(
        **common_arguments(inputs, config.lr),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        beta=config.beta,
        loss_type=["sigmoid"],
        max_length=None,
        train_sampling_strategy="sequential",
    )
    pairs = [
        {
            "prompt": chat(prompt.text),
            "chosen": chat(demo.full_text, "assistant"),
            "rejected": chat(rejected[prompt.prompt_id].text, "assistant"),
        }
        for prompt, demo in rows
    ]
    trainer = DPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        peft_config=peft_config(shared),
    )
    skip_padding(trainer)
    quiet(trainer, inputs.label)
    trainer.train()
    data: Any = trainer.train_dataset
    inputs.meter.trained_tokens = sum(
        len(row) for name in ("chosen_ids", "rejected_ids") for row in data[name]
    )
    finish(inputs, trainer, policy.tokenizer)
