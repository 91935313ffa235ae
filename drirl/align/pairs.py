"""Demonstrations against samples of the reference policy: what the methods on pairs learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drirl.align.interface import Inputs
    from drirl.align.plan import Row
    from drirl.generate import Completion
    from drirl.records import Demo, Prompt

__all__ = ["draw", "draw_rejected", "pair_plan", "usable"]


def usable(prompt: Prompt, demo: Demo, sample: str) -> bool:
    """Return whether ``sample`` is worse than the demonstration, as far as rules can tell.

    It is not if it is the same reply, refuses a harmful prompt, or solves a task.
    """
    from drirl.data.check import is_correct
    from drirl.detect import is_refusal
    from drirl.text import split_draft

    answer = split_draft(sample)[1]
    if answer == demo.answer or not answer:
        return False
    if prompt.kind == "harmful":
        return not is_refusal(answer)
    return not (prompt.kind == "task" and prompt.checker and is_correct(prompt, answer))


def draw(
    inputs: Inputs, policy: Any, rows: Sequence[Row], samples: int, seed: int
) -> list[tuple[Row, list[Completion]]]:
    """Draw ``samples`` completions of ``policy`` for each distinct prompt, in the order of their ids."""
    from drirl.generate import complete

    unique = [row for _, row in sorted({row[0].prompt_id: row for row in rows}.items())]
    groups = complete(
        policy.model,
        policy.tokenizer,
        [prompt.text for prompt, _ in unique],
        max_new_tokens=inputs.shared.max_new_tokens,
        temperature=inputs.shared.temperature,
        num_return=samples,
        seed=seed,
    )
    inputs.meter.generated_tokens += sum(c.n_tokens for group in groups for c in group)
    return list(zip(unique, groups, strict=True))


def draw_rejected(inputs: Inputs, policy: Any, rows: Sequence[Row], samples: int) -> dict[str, Completion]:
    """Return the first usable of ``samples`` completions by prompt id, for prompts that have one."""
    rejected = {}
    for (prompt, demo), group in draw(inputs, policy, rows, samples, inputs.seed):
        worse = [c for c in group if usable(prompt, demo, c.text)]
        if worse:
            rejected[prompt.prompt_id] = worse[0]
    return rejected


def pair_plan(
    inputs: Inputs, policy: Any, batches: int, samples: int
) -> tuple[list[list[Row]], dict[str, Completion]]:
    """Return each update's rows in the order of the shared plan, and the rejected completion by prompt id.

    Args:
        batches: plan steps joined into one update.
        samples: completions of ``policy`` drawn per prompt.
    Raises:
        DrirlError: a prompt longer than ``align.shared.max_prompt_tokens``.
    """
    from drirl.align.plan import plan_rows
    from drirl.align.setup import check_lengths

    shared = inputs.shared
    # Half as many prompts again as are needed: those without a usable sample are passed over.
    spare = shared.model_copy(update={"updates": shared.updates + shared.updates // 2 + 1})
    candidates = [row for update in plan_rows(inputs.train, spare, inputs.seed, batches) for row in update]
    check_lengths(policy, candidates, shared)
    rejected = draw_rejected(inputs, policy, candidates, samples)
    kept = [row for row in inputs.train if row[0].prompt_id in rejected]
    return plan_rows(kept, shared, inputs.seed, batches), rejected
