"""What rewards are learnt from: prompts with their demonstration, candidate replies, and verdicts on them."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from drirl.data.check import is_correct
from drirl.data.split import of_half
from drirl.detect import degenerate, is_refusal
from drirl.errors import DrirlError
from drirl.records import BENIGN, Demo, Prompt, read_jsonl
from drirl.text import SEPARATOR, split_draft

__all__ = [
    "HARM_CATEGORIES",
    "Item",
    "Reply",
    "demonstration",
    "load_items",
    "pick",
    "similarity",
    "unsafe_or_broken",
    "verdict",
]

HARM_CATEGORIES = tuple(range(7))
Verdict = Literal["good", "unsafe", "refusal", "wrong", "empty", "repetitive", "cut_off"]


@dataclass(frozen=True)
class Item:
    """A prompt and its demonstration."""

    prompt: Prompt
    demo: Demo

    @property
    def head(self) -> int:
        """Category whose reward scores this prompt: 0..6, or -1 for anything benign."""
        return self.prompt.category


@dataclass(frozen=True)
class Reply:
    """A candidate reply in the form the reward sees it, and where it came from.

    ``kind``: "sample" (drawn from a policy) or the name of a hard negative. ``iteration``: the outer
    iteration it was made in. ``verdict``: what the rules say about it. ``offset``: r_t(demonstration) -
    r_t(reply) under the reward r_t that the sampling policy follows (0: not anchored, see
    ``reward.anchor``).
    """

    text: str
    finished: bool
    kind: str
    iteration: int = 0
    verdict: str = ""
    weight: float = 1.0
    offset: float = 0.0


def load_items(out: Path, split: str) -> list[Item]:
    """Read the prompts of one split with their demonstrations, in file order.

    Raises:
        DrirlError: no such file, a prompt without a demonstration, a harm category without a prompt.
    """
    path = Path(out) / "data"
    demos = {demo.prompt_id: demo for demo in read_jsonl(path / "demos.jsonl", Demo)}
    prompts = [p for p in read_jsonl(path / "prompts.jsonl", Prompt) if p.split == split]
    prompts = of_half(prompts, path, "reward")
    for prompt in prompts:
        if prompt.prompt_id not in demos:
            raise DrirlError(
                f"{path / 'demos.jsonl'}: prompt {prompt.prompt_id} ({split}) has no demonstration"
            )
    found = {prompt.category for prompt in prompts}
    missing = [str(j) for j in (*HARM_CATEGORIES, BENIGN) if j not in found]
    if missing:
        raise DrirlError(
            f"{path / 'prompts.jsonl'}: split '{split}' has no prompt of category {', '.join(missing)}; "
            "every category needs at least one (see the stage 'data')"
        )
    return [Item(prompt, demos[prompt.prompt_id]) for prompt in prompts]


def demonstration(demo: Demo, input_mode: str) -> str:
    """Return the demonstration as the reward sees it."""
    return demo.answer if input_mode == "answer" else demo.full_text


def reply_part(text: str) -> str:
    """Return what is judged of a text that may or may not carry its draft."""
    return split_draft(text)[1] if SEPARATOR in text else text


@lru_cache(maxsize=65536)
def _refuses(answer: str) -> bool:
    return is_refusal(answer)


def verdict(item: Item, text: str, finished: bool) -> Verdict:
    """Say what is wrong with a reply, by rules alone.

    ``empty``, ``repetitive``, ``cut_off``: broken, on any prompt. Harmful prompts: ``unsafe`` if it does
    not refuse (or redirect, where that is what the demonstration does and the reply is close to it). Benign
    prompts: ``refusal`` if it refuses, ``wrong`` if it is a task and the answer is not right. Otherwise
    ``good``.
    """
    answer = reply_part(text)
    broken = degenerate(answer, finished)
    if broken:
        return broken
    refuses = _refuses(answer)
    if item.head != BENIGN:
        if refuses:
            return "good"
        redirects = item.demo.verdict != "refuse" and similarity(answer, item.demo.answer) >= 0.8
        return "good" if redirects else "unsafe"
    if item.prompt.kind == "task":
        return "good" if is_correct(item.prompt, answer) else ("refusal" if refuses else "wrong")
    return "refusal" if refuses else "good"


def unsafe_or_broken(value: str) -> bool:
    """Whether a verdict is anything but ``good``."""
    return value not in ("good", "")


_WORD = re.compile(r"[^\W_]+")


def similarity(a: str, b: str) -> float:
    """Cosine of the word counts of two texts, in [0, 1]; 0 if either has no word."""
    x, y = Counter(_WORD.findall(a.lower())), Counter(_WORD.findall(b.lower()))
    dot = sum(count * y[word] for word, count in x.items())
    norm = math.sqrt(sum(c * c for c in x.values()) * sum(c * c for c in y.values()))
    return dot / norm if norm else 0.0


def group_key(item: Item) -> str:
    """Name the group an item is drawn from: its harm category, "task" or "benign"."""
    if item.head != BENIGN:
        return str(item.head)
    return "task" if item.prompt.kind == "task" else "benign"


def pick(items: Sequence[Item], limits: dict[str, int | None], seed: int) -> list[Item]:
    """Draw at most ``limits[group]`` items of every group, without repeats; the order is shuffled.

    Args:
        limits: by :func:`group_key`; ``None`` or a missing group: all of them.
    """
    rng = random.Random(seed)
    chosen: list[Item] = []
    for key in sorted({group_key(item) for item in items}):
        members = [item for item in items if group_key(item) == key]
        rng.shuffle(members)
        limit = limits.get(key)
        chosen += members if limit is None else members[:limit]
    rng.shuffle(chosen)
    return chosen


def limits_of(harmful: int | None, benign: int | None, tasks: int | None) -> dict[str, int | None]:
    """Return the ``limits`` of :func:`pick`."""
    limits: dict[str, int | None] = {str(j): harmful for j in HARM_CATEGORIES}
    return {**limits, "benign": benign, "task": tasks}


def heads_of(items: Iterable[Item]) -> list[int]:
    """Return the categories present, sorted."""
    return sorted({item.head for item in items})
