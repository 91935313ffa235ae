"""A genetic search over wrapper sentences, after AutoDAN (Liu et al. 2023, arXiv 2310.04451).

A wrapper is a few sentences before and after the prompt. Fitness is the log-likelihood of the target. A
generation keeps its elites, draws parents by softmax of the fitness, lets two parents exchange sentences, and
replaces sentences by others of the pool or words by synonyms. Deviations: sentences are generic ones written
for this project (``pieces.yaml``) instead of a prompt found in the wild, and synonyms come from there instead
of a language model and WordNet; the momentum word scores of AutoDAN-HGA are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml

from drirl.attack.scorer import Scorer
from drirl.attack.search import generator
from drirl.attack.settings import AutodanSettings
from drirl.errors import DrirlError

__all__ = ["Autodan", "Pieces", "crossover", "mutate", "pieces"]

Wrapper = tuple[str, ...]
"""One sentence (or none) per slot; the prompt stands before the last slot."""

BEFORE, AFTER = 2, 1


class Pieces:
    """The pool: sentences that may stand before and after a prompt, and words that may be swapped."""

    def __init__(self, before: list[str], after: list[str], synonyms: list[list[str]]) -> None:
        self.slots = [*[before] * BEFORE, *[after] * AFTER]
        self.synonyms = {word: [w for w in group if w != word] for group in synonyms for word in group}


@lru_cache(maxsize=1)
def pieces() -> Pieces:
    """Read the pool that comes with the package."""
    return Pieces(**yaml.safe_load((Path(__file__).parent / "pieces.yaml").read_text(encoding="utf-8")))


def crossover(
    first: Wrapper, second: Wrapper, chance: float, random: torch.Generator
) -> tuple[Wrapper, Wrapper]:
    """With probability ``chance``, exchange each sentence of two parents with probability one half."""
    if _uniform(random) >= chance:
        return first, second
    swapped = [_uniform(random) < 0.5 for _ in first]
    pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(first, second, swapped, strict=True)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def mutate(wrapper: Wrapper, pool: Pieces, chance: float, random: torch.Generator) -> Wrapper:
    """With probability ``chance`` each, replace a sentence.

    Half of the time it becomes another of its slot, else one of its words becomes a synonym.
    """
    changed = []
    for sentence, slot in zip(wrapper, pool.slots, strict=True):
        if _uniform(random) < chance:
            if _uniform(random) < 0.5:
                sentence = _draw(slot, random)
            else:
                sentence = _swap_word(sentence, pool, random)
        changed.append(sentence)
    return tuple(changed)


class Autodan:
    """The search on N prompts; see :class:`drirl.attack.search.Search`.

    Args:
        items: rows with ``text`` and ``item_id``.
        seed: every prompt draws from a generator of its own.

    Raises:
        DrirlError: a prompt leaves no room, or fewer wrappers than elites.
    """

    def __init__(
        self, scorer: Scorer, items: Sequence[dict[str, Any]], settings: AutodanSettings, seed: int
    ) -> None:
        if settings.elites >= settings.population:
            raise DrirlError(
                f"attack.autodan: elites ({settings.elites}) should be fewer than population "
                f"({settings.population})"
            )
        self.scorer, self.settings, self.pool = scorer, settings, pieces()
        self.random = [generator(seed, item["item_id"]) for item in items]
        self.texts = [str(item["text"]) for item in items]
        lengths = [len(ids) for ids in scorer.prompt_ids(self.texts)]
        for item, length in zip(items, lengths, strict=True):
            if length > scorer.room:
                raise DrirlError(
                    f"attack.autodan: prompt {item['item_id']} has {length} tokens, the context leaves "
                    f"{scorer.room}; lower attack.max_new_tokens"
                )
        self.scores: list[dict[str, float]] = [{} for _ in items]
        self.populations: list[list[Wrapper]] = [[] for _ in items]
        self.messages = list(self.texts)
        self.losses = [torch.inf] * len(items)
        self.forward_passes, self.gradient_passes = [0] * len(items), [0] * len(items)

    def advance(self, live: Sequence[int]) -> None:
        """One generation for every prompt in ``live``; its first step scores one wrapper of the pool."""
        for i in live:
            if not self.populations[i]:
                self.populations[i] = self._drawn(i, 1)
            elif len(self.populations[i]) < self.settings.population:
                self.populations[i] += self._drawn(i, self.settings.population - 1)
            else:
                self.populations[i] = self._next(i)
        fitted = self._fit(live)
        new = [
            (i, message)
            for i in live
            for message in dict.fromkeys(fitted[i])
            if message not in self.scores[i]
        ]
        losses = self.scorer.losses(self.scorer.prompt_ids([message for _, message in new]))
        for (i, message), loss in zip(new, losses, strict=True):
            self.scores[i][message] = loss
            self.forward_passes[i] += 1
        for i in live:
            ranked = sorted(
                zip(fitted[i], self.populations[i], strict=True), key=lambda pair: self.scores[i][pair[0]]
            )
            self.populations[i] = [wrapper for _, wrapper in ranked]
            best = ranked[0][0]
            if self.scores[i][best] < self.losses[i]:
                self.losses[i], self.messages[i] = self.scores[i][best], best

    def _drawn(self, i: int, count: int) -> list[Wrapper]:
        return [tuple(_draw(slot, self.random[i]) for slot in self.pool.slots) for _ in range(count)]

    def _next(self, i: int) -> list[Wrapper]:
        """Return the next generation; the population is sorted, the best first."""
        settings, random, old = self.settings, self.random[i], self.populations[i]
        scores = [self.scores[i][self._message(i, wrapper)] for wrapper in old]
        chances = torch.softmax(-torch.tensor(scores, dtype=torch.float64), dim=0)
        children: list[Wrapper] = []
        while len(children) < settings.population - settings.elites:
            pair = torch.multinomial(chances, 2, replacement=True, generator=random).tolist()
            for child in crossover(old[pair[0]], old[pair[1]], settings.crossover, random):
                children.append(mutate(child, self.pool, settings.mutation, random))
        return [*old[: settings.elites], *children[: settings.population - settings.elites]]

    def _fit(self, live: Sequence[int]) -> dict[int, list[str]]:
        """Return the messages of the populations; first sentences leave until a message fits."""
        for _ in range(BEFORE + AFTER):
            places = [(i, k) for i in live for k in range(len(self.populations[i]))]
            messages = [self._message(i, self.populations[i][k]) for i, k in places]
            long = [
                place
                for place, ids in zip(places, self.scorer.prompt_ids(messages), strict=True)
                if len(ids) > self.scorer.room
            ]
            if not long:
                break
            for i, k in long:
                wrapper = list(self.populations[i][k])
                wrapper[next(n for n, sentence in enumerate(wrapper) if sentence)] = ""
                self.populations[i][k] = tuple(wrapper)
        return {i: [self._message(i, wrapper) for wrapper in self.populations[i]] for i in live}

    def _message(self, i: int, wrapper: Wrapper) -> str:
        return " ".join(part for part in (*wrapper[:BEFORE], self.texts[i], *wrapper[BEFORE:]) if part)


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand((), generator=random))


def _draw(options: Sequence[str], random: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (), generator=random))]


def _swap_word(sentence: str, pool: Pieces, random: torch.Generator) -> str:
    """Replace one word that has synonyms; its capital is kept."""
    found = [match for match in re.finditer(r"[A-Za-z']+", sentence) if match[0].lower() in pool.synonyms]
    if not found:
        return sentence
    match = found[int(torch.randint(len(found), (), generator=random))]
    word = _draw(pool.synonyms[match[0].lower()], random)
    word = word.capitalize() if match[0][0].isupper() else word
    return sentence[: match.start()] + word + sentence[match.end() :]
