"""Greedy coordinate gradient: a suffix, one token swapped at a time (Zou et al. 2023, arXiv 2307.15043).

Per step (their algorithm 1): the gradient of the target loss with respect to the one-hot suffix names, for
every position, the ``top_k`` tokens of steepest descent; ``candidates`` suffixes with one random swap among
these are scored exactly; the best replaces the suffix. Deviations: a suffix is replaced only by a better one,
so the loss never rises; a candidate whose text would be read as other tokens is not tried, because the policy
would never see it; one prompt each, no universal suffix.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drirl.attack.scorer import Scorer
from drirl.attack.search import generator
from drirl.attack.settings import GcgSettings
from drirl.errors import DrirlError

__all__ = ["Gcg", "swaps"]

_OVERSAMPLE = 4
"""Swaps drawn per wanted candidate: many do not survive being written out and read again."""


def swaps(
    suffix: Tensor, gradient: Tensor, allowed: Tensor, *, top_k: int, count: int, random: torch.Generator
) -> Tensor:
    """Return ``count`` copies of the suffix with one token swapped in each, (count, S).

    Positions are visited evenly, in random order; the token is one of the position's ``top_k`` allowed tokens
    of most negative gradient.

    Args:
        suffix: (S,) token ids.
        gradient: (S, V) gradient of the loss.
        allowed: (V,) true for tokens that may be swapped in.
    """
    top_k = min(top_k, int(allowed.sum()))
    best = gradient.masked_fill(~allowed, torch.inf).topk(top_k, dim=-1, largest=False).indices  # (S, k)
    position = torch.arange(count) % len(suffix)
    position = position[torch.randperm(count, generator=random)]
    rank = torch.randint(top_k, (count,), generator=random)
    tried = suffix.repeat(count, 1)
    tried[torch.arange(count), position] = best[position, rank]
    return tried


class Gcg:
    """The search on N prompts; see :class:`drirl.attack.search.Search`.

    Args:
        items: rows with ``text`` and ``item_id``.
        seed: every prompt draws from a generator of its own.

    Raises:
        DrirlError: the first suffix is not read as a part of its own, or a prompt leaves no room.
    """

    def __init__(
        self, scorer: Scorer, items: Sequence[dict[str, Any]], settings: GcgSettings, seed: int
    ) -> None:
        self.scorer, self.settings = scorer, settings
        self.random = [generator(seed, item["item_id"]) for item in items]
        self.before = [scorer.encode(scorer.head + item["text"]) for item in items]
        self.after = scorer.encode(scorer.tail)
        first = scorer.encode(" " + settings.suffix.strip())
        self.texts = [str(item["text"]) for item in items]
        self.suffixes = [list(first) for _ in items]
        for i, item in enumerate(items):
            ids = [*self.before[i], *first, *self.after]
            if self._survivors(i, [first]) != [first]:
                raise DrirlError(
                    f"attack.gcg.suffix: {settings.suffix!r} after prompt {item['item_id']} is read as other "
                    "tokens than alone; choose plain words"
                )
            if len(ids) > scorer.room:
                raise DrirlError(
                    f"attack.gcg: prompt {item['item_id']} with the suffix has {len(ids)} tokens, the "
                    f"context leaves {scorer.room}; shorten attack.gcg.suffix or lower attack.max_new_tokens"
                )
        self.messages = [self._message(i, first) for i in range(len(items))]
        self.losses = [torch.inf] * len(items)
        self.forward_passes, self.gradient_passes = [0] * len(items), [0] * len(items)
        self.allowed = self._allowed()

    def advance(self, live: Sequence[int]) -> None:
        """One step of algorithm 1 for every prompt in ``live``; its first step scores its first suffix."""
        fresh = [i for i in live if self.losses[i] == torch.inf]
        for i, loss in zip(
            fresh, self.scorer.losses([self._ids(i, self.suffixes[i]) for i in fresh]), strict=True
        ):
            self.losses[i] = loss
            self.forward_passes[i] += 1
        live = sorted(set(live) - set(fresh))
        if not live:
            return
        rows = [self._ids(i, self.suffixes[i]) for i in live]
        gradients = self.scorer.suffix_gradients(rows, len(self.after), len(self.suffixes[live[0]])).cpu()
        tried: list[tuple[int, list[int]]] = []
        for i, gradient in zip(live, gradients, strict=True):
            self.gradient_passes[i] += 1
            drawn = swaps(
                torch.tensor(self.suffixes[i]),
                gradient,
                self.allowed,
                top_k=self.settings.top_k,
                count=self.settings.candidates * _OVERSAMPLE,
                random=self.random[i],
            )
            unique = {tuple(row): None for row in drawn.tolist() if row != self.suffixes[i]}
            survivors = self._survivors(i, [list(row) for row in unique])[: self.settings.candidates]
            tried += [(i, suffix) for suffix in survivors]
        losses = self.scorer.losses([self._ids(i, suffix) for i, suffix in tried])
        for (i, suffix), loss in zip(tried, losses, strict=True):
            self.forward_passes[i] += 1
            if loss < self.losses[i]:
                self.losses[i], self.suffixes[i] = loss, suffix
                self.messages[i] = self._message(i, suffix)

    def _ids(self, i: int, suffix: Sequence[int]) -> list[int]:
        return [*self.before[i], *suffix, *self.after]

    def _message(self, i: int, suffix: Sequence[int]) -> str:
        return self.texts[i] + str(self.scorer.tokenizer.decode(suffix, clean_up_tokenization_spaces=False))

    def _survivors(self, i: int, suffixes: Sequence[list[int]]) -> list[list[int]]:
        """Return the suffixes that are read as the same tokens again when the message is written out."""
        if not suffixes:
            return []
        messages = [self._message(i, suffix) for suffix in suffixes]
        ids = self.scorer.prompt_ids(messages)
        return [
            suffix
            for suffix, message, found in zip(suffixes, messages, ids, strict=True)
            if found == self._ids(i, suffix) and message == message.strip()
        ]

    def _allowed(self) -> Tensor:
        """(V,) no special tokens, nothing that is no text by itself."""
        tokenizer = self.scorer.tokenizer
        rows = len(self.scorer.policy.get_input_embeddings().weight)
        special = set(tokenizer.all_special_ids)
        texts = tokenizer.batch_decode([[k] for k in range(min(rows, len(tokenizer)))])
        allowed = torch.zeros(rows, dtype=torch.bool)
        for k, text in enumerate(texts):
            plain = set(text) <= set(string.printable) if self.settings.ascii_only else "\ufffd" not in text
            allowed[k] = k not in special and plain and text.strip() != "" and text.isprintable()
        return allowed
