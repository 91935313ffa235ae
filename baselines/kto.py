"""KTO: demonstrations are desirable, samples of the reference policy undesirable; no pairs in the loss.

    h(x, y) = beta * ( log pi(y|x)/pi_ref(y|x) - z ),   z = max(0, batch mean of log pi(y'|x)/pi_ref(y'|x))
    L = w_D * (1 - sigmoid( h)) for a demonstration y
        w_U * (1 - sigmoid(-h)) for a sample y

y' is a completion written for another prompt of the batch, and z carries no gradient. The completions are
those of DPO's pairs, so both methods see the same texts; here the two of a prompt never meet.

Equations: docs/paper.md section 7; arXiv:2402.01306, equation 7. The loss is TRL's ``KTOTrainer``.
Deviations: desirable and undesirable completions come in equal numbers, one of each per prompt. Within an
update the demonstrations stand before the samples, so that no y' comes from its own prompt.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.align.pairs import pair_plan
from drirl.errors import DrirlError
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2402.01306"
USES = ()
PRELOAD = ("trl.trainer.kto_trainer", "drirl.align.setup")


class Config(Section):
    """Section ``align.methods.kto``; the number of updates and the decoding of samples are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    beta: float = Field(0.1, gt=0, description="strength of the implicit KL penalty")
    desirable_weight: float = Field(1.0, ge=0, description="weight of demonstrations, w_D")
    undesirable_weight: float = Field(1.0, ge=0, description="weight of samples, w_U")
    batches: int = Field(
        1,
        ge=1,
        description="plan steps joined into one update: 1 gives the prompts per update of the RL methods",
    )
    samples: int = Field(
        1, ge=1, description="reference samples drawn per prompt; the first usable one is undesirable"
    )


def trainer_class() -> Any:
    """Return TRL's KTOTrainer with its KL logged under a name of its own."""
    from trl import KTOTrainer

    class OurKTOTrainer(KTOTrainer):
        """TRL logs z, per completion, as ``kl``; other methods here use that name for a KL per token."""

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            metrics = self._metrics["train"]
            if "kl" in metrics:
                metrics["drirl/kl_of_other_prompts"] = metrics.pop("kl")
            super().log(logs, start_time)

    return OurKTOTrainer


def build(inputs: Inputs, config: Config) -> tuple[Any, Any]:
    """Make the labelled completions; return the trainer and the tokenizer.

    Raises:
        DrirlError: a forward pass of one sequence, which has no other prompt for z.
    """
    from datasets import Dataset
    from trl import KTOConfig

    from drirl.align.setup import chat, common_arguments, load, micro_batches, peft_config

    shared = inputs.shared
    policy = load(inputs)
    updates, samples = pair_plan(inputs, policy, config.batches, config.samples)
    rows = []
    for update in updates:
        texts = [(prompt, demo.full_text, True) for prompt, demo in update]
        texts += [(prompt, samples[prompt.prompt_id].text, False) for prompt, _ in update]
        rows += [
            {"prompt": chat(prompt.text), "completion": chat(text, "assistant"), "label": label}
            for prompt, text, label in texts
        ]
    size, accumulation = micro_batches(2 * len(updates[0]), shared)
    if size < 2:
        raise DrirlError(
            "align.shared.micro_batch: KTO estimates a KL from other prompts of the forward pass and needs 2 "
            "or more sequences in it, found 1; raise it or leave 'kto' out of run.methods"
        )
    trainer = trainer_class()(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=KTOConfig(
            **common_arguments(inputs, config.lr),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            loss_type="kto",
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
            max_length=None,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=peft_config(shared),
    )
    return trainer, policy.tokenizer


def train(inputs: Inputs, config: Config) -> None:
    """Fit the labelled completions in the order of the shared plan, and save the policy."""
    from drirl.align.logs import quiet
    from drirl.align.setup import finish, skip_padding

    trainer, tokenizer = build(inputs, config)
    skip_padding(trainer)
    quiet(trainer, inputs.label)
    trainer.train()
    inputs.meter.trained_tokens = sum(len(row) for row in trainer.train_dataset["completion_ids"])
    finish(inputs, trainer, tokenizer)
