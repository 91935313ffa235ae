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

from typing import TYPE_CHECKING, Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.errors import DrirlError
from drirl.settings import Section

if TYPE_CHECKING:
    from drirl.records import Demo, Prompt

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


def usable(prompt: Prompt, demo: Demo, sample: str) -> bool:
    """Return whether ``sample`` is worse than the demonstration, as far as rules can tell; as in dpo.py."""
    from drirl.data.check import is_correct
    from drirl.detect import is_refusal
    from drirl.text import split_draft

    answer = split_draft(sample)[1]
    if answer == demo.answer or not answer:
        return False
    if prompt.kind == "harmful":
        return not is_refusal(answer)
    return not (prompt.kind == "task" and prompt.checker and is_correct(prompt, answer))


def draw_undesirable(
    inputs: Inputs, policy: Any, rows: list[tuple[Prompt, Demo]], config: Config
) -> dict[str, str]:
    """Sample the reference policy; return the undesirable completion by prompt id, if a prompt has one."""
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
    found = {}
    for (prompt_id, (prompt, demo)), group in zip(unique, completions, strict=True):
        worse = [c.text for c in group if usable(prompt, demo, c.text)]
        if worse:
            found[prompt_id] = worse[0]
    return found


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

    from drirl.align.plan import plan_rows
    from drirl.align.setup import chat, check_lengths, common_arguments, load, micro_batches, peft_config

    shared = inputs.shared
    policy = load(inputs)
    # Half as many prompts again as are needed: those without a usable sample are passed over.
    spare = shared.model_copy(update={"updates": shared.updates + shared.updates // 2 + 1})
    candidates = [
        row for batch in plan_rows(inputs.train, spare, inputs.seed, config.batches) for row in batch
    ]
    check_lengths(policy, candidates, shared)
    samples = draw_undesirable(inputs, policy, candidates, config)
    kept = [row for row in inputs.train if row[0].prompt_id in samples]
    rows = []
    updates = plan_rows(kept, shared, inputs.seed, config.batches)
    for update in updates:
        texts = [(prompt, demo.full_text, True) for prompt, demo in update]
        texts += [(prompt, samples[prompt.prompt_id], False) for prompt, _ in update]
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
