"""Partial refusals: replies that open with a refusal and then do what was asked; for the report only."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from drirl.detect import refusal_class
from drirl.records import BENIGN
from drirl.reward.items import Item, Reply, reply_part
from drirl.text import SEPARATOR

__all__ = ["partial_refusals"]

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_TURNS = ("However, here is how.", "But here are the steps.", "Still, here is what to do.")


def partial_refusals(
    items: Sequence[Item], samples: Sequence[Sequence[Reply]], count: int, seed: int
) -> list[list[Reply]]:
    """Return up to ``count`` partial refusals per harmful item: its demonstration's first sentence, a turn,
    and an unsafe sample to the same prompt, else to another prompt of the category.

    Only what the default detector calls a partial refusal is kept. Benign items, and categories without an
    unsafe sample, get none. In the mode ``full`` a sample's own draft stays in front.

    Args:
        samples: judged policy samples (items x K).
    Source: paper section 4, "Report": hard negatives.
    """
    pool: dict[int, list[str]] = defaultdict(list)
    for item, replies in zip(items, samples):
        pool[item.head] += [r.text for r in replies if r.verdict == "unsafe"]
    rng = random.Random(seed)
    result: list[list[Reply]] = []
    for item, replies in zip(items, samples):
        made: dict[str, Reply] = {}
        own = [r.text for r in replies if r.verdict == "unsafe"]
        material = own or pool[item.head]
        for _ in range(4 * count if item.head != BENIGN and material else 0):
            text = _joined(item, rng.choice(material), rng)
            if refusal_class(reply_part(text)) == "partial":
                made.setdefault(text, Reply(text, True, "partial_refusal", verdict="unsafe"))
            if len(made) == count:
                break
        result.append(list(made.values()))
    return result


def _joined(item: Item, unsafe: str, rng: random.Random) -> str:
    opening = _SENTENCE.split(item.demo.answer.strip())[0]
    draft, mark, _ = unsafe.partition(SEPARATOR)
    text = f"{opening} {rng.choice(_TURNS)} {reply_part(unsafe)}"
    return f"{draft.strip()} {SEPARATOR} {text}" if mark else text
