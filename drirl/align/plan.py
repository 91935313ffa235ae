"""The batch plan: which prompts every update sees, the same for every method at a given seed.

A stratum (a harm category, or a kind of benign prompt) is walked in a seeded permutation, without replacement
until it is used up, then in the next one. Strata take turns, so that every update has equal numbers of them;
as options, categories get the shares they have in the data, or come one after another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar

from drirl.align.settings import Shared
from drirl.errors import DrirlError
from drirl.records import BENIGN, Demo, Prompt

__all__ = ["batch_plan", "plan_rows"]

Row = tuple[Prompt, Demo]
K = TypeVar("K", int, str)


def batch_plan(
    prompts: Sequence[Prompt],
    *,
    updates: int,
    harmful: int,
    benign: int,
    mix: Mapping[str, float],
    seed: int,
    shares: Literal["equal", "data"] = "equal",
    order: Literal["mixed", "sequential"] = "mixed",
    joined: int = 1,
) -> list[list[int]]:
    """Return the indices of each update's prompts.

    Args:
        prompts: the training prompts; their order does not matter, the plan goes by ``prompt_id``.
        updates: U.
        harmful: prompts per update, dealt to the categories in turn (7 with 7 categories: one of each).
        benign: prompts per update of category -1, dealt to their kinds by the weights ``mix``.
        seed: the same seed gives the same plan.
        shares: of the categories among harmful prompts: equal, or those they have in ``prompts``.
        order: every update has all categories (``mixed``), or updates are divided among the categories
            in blocks as long as their shares (``sequential``).
        joined: as many of these updates in a row make one of a method's; a block does not end within it.
    Returns:
        U lists of ``harmful + benign`` indices into ``prompts``.
    Raises:
        DrirlError: no harmful prompt, no benign one though ``benign`` asks for some, or fewer updates than
            blocks.
    Source: paper section 6 (routing).
    """
    by_category: dict[int, list[int]] = {}
    by_kind: dict[str, list[int]] = {}
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i].prompt_id):
        if prompts[i].category != BENIGN:
            by_category.setdefault(prompts[i].category, []).append(i)
        elif mix.get(prompts[i].kind, 0.0) > 0:
            by_kind.setdefault(prompts[i].kind, []).append(i)
    if not by_category:
        raise DrirlError("the train split has no harmful prompt; rerun the stage 'data'")
    if benign and not by_kind:
        kinds = ", ".join(sorted(mix))
        raise DrirlError(
            f"align.shared.benign_per_update is {benign}, but the train split has no prompt of the kinds "
            f"{kinds}; set it to 0 or rerun the stage 'data'"
        )
    harm_streams = {c: _walk(rows, f"{seed}/{c}") for c, rows in sorted(by_category.items())}
    kind_streams = {k: _walk(rows, f"{seed}/{k}") for k, rows in sorted(by_kind.items())}
    weights = {c: float(len(by_category[c])) if shares == "data" else 1.0 for c in harm_streams}
    harm_turns = _turns(weights)
    kind_turns = _turns({k: mix[k] for k in kind_streams})
    blocks = _blocks(weights, updates // joined) if order == "sequential" else []
    blocks = [category for category in blocks for _ in range(joined)]
    return [
        [next(harm_streams[blocks[u] if blocks else next(harm_turns)]) for _ in range(harmful)]
        + [next(kind_streams[next(kind_turns)]) for _ in range(benign)]
        for u in range(updates)
    ]


def plan_rows(rows: Sequence[Row], shared: Shared, seed: int, batches: int = 1) -> list[list[Row]]:
    """Return each update's (prompt, demonstration) pairs, joining ``batches`` plan steps into an update."""
    plan = batch_plan(
        [prompt for prompt, _ in rows],
        updates=shared.updates * batches,
        harmful=shared.harmful_per_update,
        benign=shared.benign_per_update,
        mix={str(kind): weight for kind, weight in shared.benign_mix.items()},
        seed=seed,
        shares=shared.harmful_shares,
        order=shared.harmful_order,
        joined=batches,
    )
    return [
        [rows[i] for step in plan[u * batches : (u + 1) * batches] for i in step]
        for u in range(shared.updates)
    ]


def _walk(items: Sequence[int], seed: str) -> Iterator[int]:
    generator = random.Random(seed)
    while True:
        order = list(items)
        generator.shuffle(order)
        yield from order


def _blocks(weights: Mapping[int, float], updates: int) -> list[int]:
    """Return the category of every update: one block of updates each, in their order, at least one long."""
    if updates < len(weights):
        raise DrirlError(
            f"align.shared.harmful_order 'sequential' needs an update for each of {len(weights)} categories; "
            f"found {updates}; raise align.shared.updates or use 'mixed'"
        )
    turns = _turns(weights)
    counts = dict.fromkeys(weights, 1)
    for _ in range(updates - len(weights)):
        counts[next(turns)] += 1
    return [category for category, count in counts.items() for _ in range(count)]


def _turns(weights: Mapping[K, float]) -> Iterator[K]:
    """Name strata in turn so that their shares follow the weights as closely as whole numbers allow."""
    credit = dict.fromkeys(weights, 0.0)
    total = sum(weights.values())
    while True:
        for key, weight in weights.items():
            credit[key] += weight
        best = max(credit, key=lambda key: credit[key])
        credit[best] -= total
        yield best
