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

from typing import TYPE_CHECKING, Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

if TYPE_CHECKING:
    from drirl.records import Demo, Prompt

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


def usable(prompt: Prompt, demo: Demo, sample: str) -> bool:
    """Return whether ``sample`` is worse than the demonstration, as far as rules can tell."""
    from drirl.data.check import is_correct
    from drirl.detect import is_refusal
    from drirl.text import split_draft

    answer = split_draft(sample)[1]
    if answer == demo.answer or not answer:
        return False
    if prompt.kind == "harmful":
        return not is_refusal(answer)
    return not (prompt.kind == "task" and prompt.checker and is_correct(prompt, answer))


def draw_rejected(
    inputs: Inputs, policy: Any, rows: list[tuple[Prompt, Demo]], config: Config
) -> dict[str, str]:
    """Sample the reference policy; return the rejected completion by prompt id, for prompts that have one."""
    from drirl.generate import complete

    unique = sorted({prompt.prompt_id: (prompt, demo) for prompt, demo in rows}.items())
    completions = complete(
        policy.model,
        policy.tokenizer,
        [prompt.text for _, (prompt, _) in unique],
        max_new_tokens=inputs.shared.max_new_tokens,
        temperature=inputs.shared.temperature,
        num_return=config.samples,
        seed=inputs.seed,
    )
    inputs.meter.generated_tokens += sum(c.n_tokens for group in completions for c in group)
    rejected = {}
    for (prompt_id, (prompt, demo)), group in zip(unique, completions, strict=True):
        texts = [c.text for c in group if usable(prompt, demo, c.text)]
        if texts:
            rejected[prompt_id] = texts[0]
    return rejected


def train(inputs: Inputs, config: Config) -> None:
    """Make the pairs, fit them in the order of the shared plan, and save the policy."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

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
    # Half as many prompts again as are needed: those without a usable sample are passed over.
    spare = shared.model_copy(update={"updates": shared.updates + shared.updates // 2 + 1})
    candidates = [
        row for batch in plan_rows(inputs.train, spare, inputs.seed, config.batches) for row in batch
    ]
    check_lengths(policy, candidates, shared)
    rejected = draw_rejected(inputs, policy, candidates, config)
    kept = [row for row in inputs.train if row[0].prompt_id in rejected]
    updates = plan_rows(kept, shared, inputs.seed, config.batches)
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
            "rejected": chat(rejected[prompt.prompt_id], "assistant"),
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
