"""SACPO: preference optimisation in two steps, first for helpfulness, then for safety from that policy.

    step 1:  L = - log sigmoid( beta_h * [ log pi/pi_ref(y_w|x) - log pi/pi_ref(y_l|x) ] ),  benign x
    step 2:  L = - log sigmoid( beta_s * [ log pi/pi_1(y_w|x)   - log pi/pi_1(y_l|x)   ] ),  harmful x

pi_1 is the policy that step 1 leaves: it starts step 2 and is its reference. ``safety_loss: kto`` takes KTO
(arXiv:2402.01306, equation 7) in step 2, without pairs. y_w is the demonstration, y_l ~ pi_ref(.|x) for both
steps. With ``merge`` below 1 the weights are q * pi_2 + (1 - q) * pi_1 in the end (P-SACPO).

The shared plan's prompts are regrouped: benign ones fill the first updates, harmful ones the rest, as many
per update as in every other method; together they are the plan's number of updates.

Equations: docs/paper.md section 7; arXiv:2404.11049. The losses are TRL's ``DPOTrainer`` and ``KTOTrainer``.
Deviations: one update per batch instead of 3 epochs; our prompts and pairs instead of PKU-SafeRLHF-30K, whose
pairs carry both labels on the same prompt: here helpfulness is learnt on benign prompts, safety on harmful
ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.align.pairs import draw_rejected
from drirl.errors import DrirlError
from drirl.settings import Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from drirl.generate import Completion
    from drirl.records import Demo, Prompt

PAPER = "https://arxiv.org/abs/2404.11049"
USES = ()
PRELOAD = ("trl.trainer.dpo_trainer", "trl.trainer.kto_trainer", "drirl.align.setup")


class Config(Section):
    """Section ``align.methods.sacpo``; the number of updates and the decoding of samples are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW, both steps")
    beta_helpful: float = Field(0.1, gt=0, description="implicit KL penalty of step 1")
    beta_safe: float = Field(0.1, gt=0, description="implicit KL penalty of step 2")
    safety_loss: Literal["dpo", "kto"] = Field("dpo", description="loss of step 2")
    merge: float = Field(
        1.0, ge=0, le=1, description="weight of step 2's policy in the result, q; below 1: P-SACPO"
    )
    samples: int = Field(
        1, ge=1, description="reference samples drawn per prompt; the first usable one is rejected"
    )


def step_updates(updates: int, harmful: int, benign: int) -> tuple[int, int]:
    """Return the updates of step 1 and step 2: in the ratio of benign to harmful prompts, at least one each.

    Raises:
        DrirlError: no benign prompts, or a single update: there would be no two steps.
    """
    if benign == 0 or updates < 2:
        raise DrirlError(
            "align.shared: SACPO has a helpfulness and a safety step: benign_per_update must be above 0 and "
            f"updates at least 2, found {benign} and {updates}; leave 'sacpo' out of run.methods otherwise"
        )
    first = min(updates - 1, max(1, round(updates * benign / (harmful + benign))))
    return first, updates - first


def step_rows(
    inputs: Inputs, rows: Sequence[tuple[Prompt, Demo]], updates: int, harmful: int, benign: int
) -> list[list[tuple[Prompt, Demo]]]:
    """Return each update's rows; a stratum is walked as in the shared plan, so its prompts are the same."""
    from drirl.align.plan import batch_plan

    plan = batch_plan(
        [prompt for prompt, _ in rows],
        updates=updates,
        harmful=harmful,
        benign=benign,
        mix={str(kind): weight for kind, weight in inputs.shared.benign_mix.items()},
        seed=inputs.seed,
        shares=inputs.shared.harmful_shares,
    )
    return [[rows[i] for i in step] for step in plan]


def merge_weights(first: Mapping[str, Tensor], second: Mapping[str, Tensor], q: float) -> dict[str, Tensor]:
    """Return (1 - q) * first + q * second, name by name (P-SACPO)."""
    return {name: first[name].lerp(second[name].to(first[name]), q) for name in first}


def build(
    inputs: Inputs,
    config: Config,
    updates: list[list[tuple[Prompt, Demo]]],
    rejected: dict[str, Completion],
    loss: str,
    beta: float,
) -> Any:
    """Return the trainer of one step; ``inputs.policy_path`` is start and reference.

    Raises:
        DrirlError: KTO with a forward pass of one sequence, which has no other prompt for its KL.
    """
    from trl import KTOConfig, KTOTrainer

    from drirl.align.phases import phase_arguments, phase_trainer
    from drirl.align.setup import chat, load

    policy = load(inputs)
    rows: list[list[dict[str, Any]]] = []
    for update in updates:
        texts = [(chat(p.text), chat(d.full_text, "assistant")) for p, d in update]
        worse = [chat(rejected[p.prompt_id].text, "assistant") for p, _ in update]
        pairs = list(zip(texts, worse, strict=True))
        if loss == "dpo":
            rows.append([{"prompt": x, "chosen": y, "rejected": bad} for (x, y), bad in pairs])
        else:  # demonstrations first: KTO's KL pairs a prompt with the completion of the row before
            good = [{"prompt": x, "completion": y, "label": True} for (x, y), _ in pairs]
            rows.append(good + [{"prompt": x, "completion": bad, "label": False} for (x, _), bad in pairs])
    if loss == "dpo":
        return phase_trainer(inputs, policy, rows, lr=config.lr, beta=beta)
    arguments, parts = phase_arguments(inputs, policy, rows, config.lr)
    if arguments["per_device_train_batch_size"] < 2:
        raise DrirlError("align.shared.micro_batch: KTO needs 2 or more sequences in a forward pass, found 1")
    arguments |= {"beta": beta, "loss_type": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.0}
    return KTOTrainer(args=KTOConfig(**arguments), **parts)


def train(inputs: Inputs, config: Config) -> None:
    """Fit the benign pairs, then the harmful ones from the policy that this leaves, and save the policy."""
    from drirl.align.phases import phase_folder, train_phases
    from drirl.align.setup import check_lengths, finish, load
    from drirl.models import load_policy

    shared = inputs.shared
    size = shared.harmful_per_update + shared.benign_per_update
    counts = step_updates(shared.updates, shared.harmful_per_update, shared.benign_per_update)
    wanted = [(0, size), (size, 0)]  # harmful and benign prompts per update of each step
    losses, betas = ("dpo", config.safety_loss), (config.beta_helpful, config.beta_safe)
    policy = load(inputs)
    # Half as many prompts again as are needed: those without a usable sample are passed over.
    candidates = [
        row
        for updates, (harmful, benign) in zip(counts, wanted, strict=True)
        for update in step_rows(inputs, inputs.train, updates + updates // 2 + 1, harmful, benign)
        for row in update
    ]
    check_lengths(policy, candidates, shared)
    rejected = draw_rejected(inputs, policy, candidates, config.samples)
    kept = [row for row in inputs.train if row[0].prompt_id in rejected]
    del policy

    def make_trainer(start: Inputs, step: int, _: int, count: int) -> Any:
        updates = step_rows(inputs, kept, count, *wanted[step])
        return build(start, config, updates, rejected, losses[step], betas[step])

    trainer = train_phases(inputs, counts, make_trainer, ("step 1", "step 2"))
    if config.merge < 1:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        helpful, _ = load_policy(phase_folder(inputs, 0), model.device, inputs.dtype)
        model.load_state_dict(merge_weights(helpful.state_dict(), model.state_dict(), config.merge))
        trainer.model = model
    finish(inputs, trainer, trainer.processing_class)
