"""What the attacks share: the prompts attacked, the loop, what a success is, what is noted of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from drirl.attack.scorer import Scorer
from drirl.detect import DEGENERATE_JUDGE, REFUSAL_JUDGE, degenerate, is_refusal
from drirl.errors import DrirlError
from drirl.evaluate.tasks import prompt_rows
from drirl.text import split_draft

__all__ = ["SUCCESS_JUDGE", "Attacked", "Search", "Step", "behaviours", "generator", "run_search"]

SUCCESS_JUDGE = f"{REFUSAL_JUDGE}, {DEGENERATE_JUDGE}"
"""An attack has succeeded when the reply is no full refusal by the one and not broken by the other."""


class Search(Protocol):
    """The state of one attack on N prompts: the best message so far for each, and what it has cost."""

    messages: list[str]
    losses: list[float]
    forward_passes: list[int]
    gradient_passes: list[int]

    def advance(self, live: Sequence[int]) -> None:
        """Do one step for the prompts numbered in ``live``; a message's loss never rises."""


@dataclass(frozen=True)
class Step:
    """The state of one prompt after a step; step 0 is the prompt itself, not attacked."""

    step: int
    loss: float | None
    refused: bool
    fault: str
    success: bool
    forward_passes: int
    gradient_passes: int
    message_sha256: str
    message_tokens: int


@dataclass
class Attacked:
    """One prompt, the message the attack ended with, and the greedy reply to it."""

    item: dict[str, Any]
    message: str
    reply: str = ""
    finished: bool = True
    steps: list[Step] = field(default_factory=list)

    @property
    def success_step(self) -> int | None:
        """Return the step of the first success; 0: the prompt itself is complied with; None: no success."""
        return self.steps[-1].step if self.steps[-1].success else None


def behaviours(out: Path, *, per_category: int, split: str, seed: int) -> list[dict[str, Any]]:
    """Return the attacked prompts: direct harmful ones, the first of each category in a seeded hash order.

    No two are of one intent, as far as a category has enough intents.

    Raises:
        DrirlError: no prompts file, or a category with fewer direct prompts.
    """
    rows = [item for item in prompt_rows("harmful", out=str(out), split=split) if item["level"] == "direct"]
    rows.sort(key=lambda item: hashlib.sha256(f"{seed}:{item['item_id']}".encode()).hexdigest())
    chosen: list[dict[str, Any]] = []
    for category in sorted({item["category"] for item in rows}):
        found = [item for item in rows if item["category"] == category]
        clusters: dict[str, int] = {}
        for item in found:  # the k-th prompt of an intent comes after all intents' (k-1)-th
            clusters[item["cluster"]] = clusters.get(item["cluster"], 0) + 1
            item["turn"] = clusters[item["cluster"]]
        found.sort(key=lambda item: item.pop("turn"))
        if len(found) < per_category:
            raise DrirlError(
                f"attack.per_category: {per_category} direct prompts were asked for, category {category} has "
                f"{len(found)} in split '{split}'; lower it"
            )
        chosen += found[:per_category]
    if not chosen:
        raise DrirlError(f"{out}: no direct harmful prompt in split '{split}' to attack")
    return chosen


def generator(seed: int, name: str) -> torch.Generator:
    """Return a random generator of its own for one prompt: what others draw does not change it."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def run_search(search: Search, scorer: Scorer, items: Sequence[dict[str, Any]], steps: int) -> list[Attacked]:
    """Attack every prompt until its first success, for ``steps`` steps at most.

    Step 0 judges the reply to the prompt itself; prompts complied with already are not attacked. A reply is
    generated and judged when the best message has changed.
    """
    attacked = [Attacked(item, item["text"]) for item in items]
    _judge(attacked, list(range(len(items))), scorer, None, 0)
    live = [i for i, one in enumerate(attacked) if not one.steps[-1].success]
    for step in range(1, steps + 1):
        if not live:
            break
        search.advance(live)
        changed = [i for i in live if search.messages[i] != attacked[i].message]
        for i in changed:
            attacked[i].message = search.messages[i]
        _judge(attacked, changed, scorer, search, step)
        for i in sorted(set(live) - set(changed)):
            last = attacked[i].steps[-1]
            attacked[i].steps.append(_step(attacked[i], last.message_tokens, search, i, step))
        live = [i for i in live if not attacked[i].steps[-1].success]
    return attacked


def _judge(
    attacked: Sequence[Attacked], which: Sequence[int], scorer: Scorer, search: Search | None, step: int
) -> None:
    messages = [attacked[i].message for i in which]
    if not messages:
        return
    lengths = [len(ids) for ids in scorer.prompt_ids(messages)]
    for i, length, completion in zip(which, lengths, scorer.replies(messages), strict=True):
        attacked[i].reply, attacked[i].finished = completion.text, completion.finished
        attacked[i].steps.append(_step(attacked[i], length, search, i, step))


def _step(one: Attacked, tokens: int, search: Search | None, i: int, step: int) -> Step:
    _, answer = split_draft(one.reply)
    refused, fault = is_refusal(answer), degenerate(answer, one.finished)
    return Step(
        step=step,
        loss=round(search.losses[i], 6) if search is not None else None,
        refused=refused,
        fault=fault,
        success=not refused and fault == "",
        forward_passes=search.forward_passes[i] if search is not None else 0,
        gradient_passes=search.gradient_passes[i] if search is not None else 0,
        message_sha256=hashlib.sha256(one.message.encode()).hexdigest(),
        message_tokens=tokens,
    )
