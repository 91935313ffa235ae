"""Hard negatives: replies that are wrong for a reason a reward could otherwise miss.

Kinds: ``repetition`` (a sentence or the whole reply said again, or a loop), ``cut_off`` (the
demonstration without its end), ``run_together`` (two replies in a row), ``other_reply`` (the
demonstration of another prompt: for a harmful prompt a refusal that belongs to another category, for a
benign one the answer to a task, for a task the answer to another or general help), ``shuffled`` (its
words in another order), ``refusal`` (a refusal of a benign prompt, demonstrated or sampled for a
harmful one), ``wrong`` (a wrong task answer), ``compliance`` (what the policy gave to another harmful
prompt without refusing). Source: paper section 4, "Report" and "Format shortcut".
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from drirl.data.check import is_correct
from drirl.detect import degenerate
from drirl.records import BENIGN
from drirl.reward.items import Item, Reply, demonstration, group_key, reply_part, similarity, verdict
from drirl.text import SEPARATOR

__all__ = ["BENIGN_KINDS", "HARMFUL_KINDS", "TASK_KINDS", "Negatives"]

HARMFUL_KINDS = (
    "repetition",
    "cut_off",
    "run_together",
    "other_reply",
    "other_reply",
    "shuffled",
    "compliance",
)
BENIGN_KINDS = ("repetition", "cut_off", "run_together", "shuffled", "refusal", "refusal", "other_reply")
TASK_KINDS = (*BENIGN_KINDS, "other_reply")
"""Kinds drawn for a prompt, each as often as it stands here; ``wrong`` is drawn apart (tasks only)."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W_]+")


class Negatives:
    """Makes hard negatives from a set of items of one split; every draw comes from the caller's generator."""

    def __init__(self, items: Sequence[Item], input_mode: str = "answer") -> None:
        self.items = list(items)
        self.input_mode = input_mode
        self.by_group: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            self.by_group[group_key(item)].append(item)
        self.harmful = [item for item in self.items if item.head != BENIGN]
        self.unsafe: dict[int, list[str]] = defaultdict(list)
        self.refusals: list[str] = []
        tasks = self.by_group.get("task", [])
        self._neighbours = _Neighbours(tasks)

    def remember_unsafe(self, category: int, text: str) -> None:
        """Keep an unsafe policy sample; it serves other prompts of the category as ``compliance``."""
        self.unsafe[category].append(text)

    def remember_refusal(self, text: str) -> None:
        """Keep a policy's refusal of a harmful prompt; it serves benign prompts as ``refusal``."""
        self.refusals.append(text)

    def kinds(self, item: Item) -> tuple[str, ...]:
        """Return the kinds that can be made for this item (``wrong`` apart)."""
        if item.head != BENIGN:
            return HARMFUL_KINDS
        return TASK_KINDS if item.prompt.kind == "task" else BENIGN_KINDS

    def draw(self, item: Item, count: int, rng: random.Random) -> list[Reply]:
        """Draw ``count`` hard negatives of different kinds, as far as they can be made."""
        kinds = list(self.kinds(item))
        rng.shuffle(kinds)
        replies: list[Reply] = []
        for kind in dict.fromkeys(kinds):
            if len(replies) == count:
                break
            reply = self.make(item, kind, rng)
            if reply is not None:
                replies.append(reply)
        return replies

    def make(self, item: Item, kind: str, rng: random.Random) -> Reply | None:
        """Make one hard negative of a kind, or ``None`` where the material does not allow it."""
        reply = getattr(self, f"_{kind}")(item, rng)
        if reply is None or (reply.text.strip() == self._demo(item).strip() and reply.finished):
            return None
        return reply

    def wrong_answers(self, item: Item, count: int, rng: random.Random) -> list[Reply]:
        """Return up to ``count`` different wrong answers to a task; see :meth:`_wrong`."""
        replies: dict[str, Reply] = {}
        for _ in range(4 * count):
            reply = self._wrong(item, rng)
            if reply is not None:
                replies.setdefault(reply.text, reply)
            if len(replies) == count:
                break
        return list(replies.values())

    # ---------------------------------------------------------------------------------------------- the kinds

    def _demo(self, item: Item) -> str:
        return demonstration(item.demo, self.input_mode)

    def _with_draft(self, item: Item, answer: str) -> str:
        """Put ``answer`` in the bank's input form, after the demonstration's own draft in the mode
        ``full``.
        """
        if self.input_mode == "answer":
            return answer
        return f"{self._demo(item).partition(SEPARATOR)[0].strip()} {SEPARATOR} {answer}"

    def _repetition(self, item: Item, rng: random.Random) -> Reply | None:
        answer = item.demo.answer.strip()
        sentences = [s for s in _SENTENCE.split(answer) if s]
        way = rng.random()
        if way < 0.35 and len(sentences) > 1:
            i = rng.randrange(len(sentences))
            text = " ".join([*sentences[: i + 1], *sentences[i:]])
        elif way < 0.7:
            text = " ".join([answer] * 2)
        else:
            words = answer.split()
            unit = min(len(words), rng.randint(2, 5))
            start = rng.randrange(len(words) - unit + 1)
            text = " ".join([*words[:start], *(words[start : start + unit] * rng.randint(3, 5))])
        finished = rng.random() < 0.7
        if finished and not degenerate(text, True):
            text = " ".join([answer] * 2)  # a loop of very short units can read as ordinary text
        return Reply(self._with_draft(item, text), finished, "repetition", verdict="repetitive")

    def _cut_off(self, item: Item, rng: random.Random) -> Reply | None:
        words = item.demo.answer.split()
        keep = max(1, round(len(words) * rng.uniform(0.3, 1.0)))
        return Reply(self._with_draft(item, " ".join(words[:keep])), False, "cut_off", verdict="cut_off")

    def _run_together(self, item: Item, rng: random.Random) -> Reply | None:
        group = self.by_group[group_key(item)]
        other = rng.choice(group)
        if other.prompt.prompt_id == item.prompt.prompt_id or other.demo.answer == item.demo.answer:
            return None
        pair = [item.demo.answer.strip(), other.demo.answer.strip()]
        rng.shuffle(pair)
        return Reply(self._with_draft(item, " ".join(pair)), rng.random() < 0.7, "run_together")

    def _other_reply(self, item: Item, rng: random.Random) -> Reply | None:
        for _ in range(8):
            if item.head == BENIGN:
                groups = ["task", "benign"] if item.prompt.kind == "task" else ["task"]
                candidates = self.by_group.get(rng.choice(groups))
                if not candidates:
                    continue
                other = rng.choice(candidates)
            elif len(self.harmful) > 1:
                other = rng.choice(self.harmful)
                if other.head == item.head:
                    continue
            if other.prompt.prompt_id == item.prompt.prompt_id:
                continue
            if similarity(other.demo.answer, item.demo.answer) >= 0.8:
                continue
            if item.prompt.kind == "task" and is_correct(item.prompt, other.demo.answer):
                continue
            return Reply(self._with_draft(item, other.demo.answer), True, "other_reply")
        return None

    def _shuffled(self, item: Item, rng: random.Random) -> Reply | None:
        words = item.demo.answer.split()
        if len(words) < 4:
            return None
        mixed = words[:]
        rng.shuffle(mixed)
        if item.prompt.kind == "task" and is_correct(item.prompt, " ".join(mixed)):
            return None
        return Reply(self._with_draft(item, " ".join(mixed)), True, "shuffled")

    def _refusal(self, item: Item, rng: random.Random) -> Reply | None:
        if self.refusals and rng.random() < 0.5:
            text = rng.choice(self.refusals)
            return Reply(self._with_draft(item, reply_part(text)), True, "refusal", verdict="refusal")
        if not self.harmful:
            return None
        for _ in range(8):
            other = rng.choice(self.harmful)
            if other.demo.verdict == "refuse":
                return Reply(self._with_draft(item, other.demo.answer), True, "refusal", verdict="refusal")
        return None

    def _compliance(self, item: Item, rng: random.Random) -> Reply | None:
        texts = self.unsafe.get(item.head)
        if not texts:
            return None
        text = rng.choice(texts)
        if verdict(item, text, True) != "unsafe":
            return None
        return Reply(text, True, "compliance", verdict="unsafe")

    def _wrong(self, item: Item, rng: random.Random) -> Reply | None:
        """A plausible wrong answer: a number off by a little, a word of the prompt or of a like task put in
        its place, or the whole answer of the most similar tasks; the checker has to call it wrong.
        """
        if item.prompt.kind != "task":
            return None
        answer, reference = item.demo.answer, item.prompt.reference.split("|")[0]
        ways = [lambda: self._neighbours.answer(item, rng)]
        if _NUMBER.search(answer):
            ways += [lambda: _perturb(answer, rng)] * 2
        if reference and reference in answer and not _NUMBER.search(reference):
            ways += [lambda: answer.replace(reference, self._neighbours.reference(item, rng))] * 2
            ways += [lambda: answer.replace(reference, _word_of(item.prompt.text, rng))]
        text = rng.choice(ways)()
        if not text.strip() or is_correct(item.prompt, reply_part(text)):
            return None
        return Reply(self._with_draft(item, text), True, "wrong", verdict="wrong")


def _perturb(answer: str, rng: random.Random) -> str:
    """Change the last number of an answer: off by 1, 2, 3 or 10, or two digits exchanged."""
    match = list(_NUMBER.finditer(answer))[-1]
    digits = match.group()
    if len(digits) > 1 and len(set(digits)) > 1 and rng.random() < 0.25:
        i = rng.randrange(len(digits) - 1)
        new = digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :]
    else:
        new = str(abs(int(digits) + rng.choice([-10, -3, -2, -1, -1, 1, 1, 2, 3, 10])))
    return answer[: match.start()] + new + answer[match.end() :]


def _word_of(text: str, rng: random.Random) -> str:
    words = [w for w in _WORD.findall(text) if len(w) > 2]
    return rng.choice(words) if words else ""


class _Neighbours:
    """The tasks most like a task, by the words of their prompts."""

    def __init__(self, tasks: Sequence[Item], count: int = 12) -> None:
        self.count = count
        self.tasks = list(tasks)
        self.words = [set(_WORD.findall(t.prompt.text.lower())) for t in self.tasks]
        self.known: dict[str, list[Item]] = {}

    def near(self, item: Item) -> list[Item]:
        """Return up to ``count`` other tasks of the same checker, nearest (Jaccard of word sets) first."""
        key = item.prompt.prompt_id
        if key not in self.known:
            mine = set(_WORD.findall(item.prompt.text.lower()))
            scored = [
                (-len(mine & words) / max(1, len(mine | words)), i)
                for i, (task, words) in enumerate(zip(self.tasks, self.words))
                if task.prompt.prompt_id != key and task.prompt.checker == item.prompt.checker
            ]
            self.known[key] = [self.tasks[i] for _, i in sorted(scored)[: self.count]]
        return self.known[key]

    def answer(self, item: Item, rng: random.Random) -> str:
        near = self.near(item)
        return rng.choice(near).demo.answer if near else ""

    def reference(self, item: Item, rng: random.Random) -> str:
        near = self.near(item)
        return rng.choice(near).prompt.reference.split("|")[0] if near else ""
