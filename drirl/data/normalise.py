"""Normalised text, exact duplicates and near-duplicates (paper section 3, step 1)."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from drirl.data.raw import RawPrompt
from drirl.records import prompt_id

__all__ = ["NearIndex", "drop_duplicates", "jaccard", "ngrams", "normalise_text", "with_text", "words"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+(?:['’][^\W_{_HAN}]+)*")
_SPLIT_RANK = {"test": 0, "val": 1, "": 2, "train": 3}
NEAR_N = 5
"""Words of the n-grams that near-duplicates are judged by."""


def normalise_text(text: str) -> str:
    """Return NFC text without control characters, spaces collapsed, blank lines dropped."""
    text = unicodedata.normalize("NFC", text).replace("\u00a0", " ").replace("\ufeff", "")
    lines = (
        " ".join("".join(c for c in line if c.isprintable() or c == "\t").split())
        for line in text.splitlines()
    )
    return "\n".join(line for line in lines if line)


def words(text: str) -> list[str]:
    """Return the lower-cased words of ``text``, without punctuation; each Chinese character is a word."""
    return _WORD.findall(text.lower().replace("’", "'"))


def ngrams(tokens: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """Return the set of n-grams; a shorter text gives one gram, itself; no words give none."""
    if len(tokens) <= n:
        return {tuple(tokens)} if tokens else set()
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Return |a & b| / |a | b|, 0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def drop_duplicates(
    prompts: Sequence[RawPrompt],
    *,
    threshold: float,
    cosine: float | None = None,
    encode: Callable[[list[str]], np.ndarray] | None = None,
) -> tuple[list[RawPrompt], Counter[str]]:
    """Drop exact and near-duplicates; the order is kept.

    Of two copies the one fixed to test wins over val, then undecided, then train; then the earlier one.
    Near-duplicates are looked for among prompts without an intent, and within one intent otherwise:
    sentences that share a frame but ask for different acts are not copies.

    Args:
        prompts: with normalised text.
        threshold: Jaccard similarity of word 5-grams from which two prompts are near-duplicates.
        cosine: embedding cosine from which two prompts without an intent are, too; needs ``encode``
            (texts -> (n, d), unit rows).
    Returns:
        The kept prompts, and counts ``empty``, ``exact``, ``near_jaccard``, ``near_cosine``.
    """
    order = sorted(range(len(prompts)), key=lambda i: (_SPLIT_RANK[prompts[i].split], i))
    counts: Counter[str] = Counter()
    kept: list[int] = []
    seen: set[str] = set()
    index = NearIndex(threshold)
    for i in order:
        key = prompt_id(prompts[i].text)
        tokens = words(prompts[i].text)
        if not tokens:
            counts["empty"] += 1
        elif key in seen:
            counts["exact"] += 1
        elif not index.add(_scope(prompts[i]), ngrams(tokens, NEAR_N)):
            counts["near_jaccard"] += 1
        else:
            seen.add(key)
            kept.append(i)
    if cosine is not None and encode is not None:
        kept, dropped = _drop_cosine(prompts, kept, cosine, encode)
        counts["near_cosine"] += dropped
    return [prompts[i] for i in sorted(kept)], counts


def _scope(prompt: RawPrompt) -> tuple[str, int, str]:
    return (prompt.kind, prompt.category, prompt.intent) if prompt.intent else ("", 0, "")


class NearIndex:
    """Gram sets seen so far; exact Jaccard search by prefix filtering.

    Two sets of similarity >= t share one of the first ``len - ceil(t * len) + 1`` grams in any common
    order, so only those are looked up.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.sets: list[set[tuple[str, ...]]] = []
        self.where: dict[tuple[object, tuple[str, ...]], list[int]] = defaultdict(list)

    def add(self, scope: object, grams: set[tuple[str, ...]]) -> bool:
        """Add ``grams``; return False, adding nothing, if a near-duplicate is there."""
        prefix = sorted(grams)[: len(grams) - ceil(self.threshold * len(grams) - 1e-9) + 1]
        for j in sorted({j for gram in prefix for j in self.where.get((scope, gram), ())}):
            if jaccard(grams, self.sets[j]) >= self.threshold:
                return False
        for gram in prefix:
            self.where[scope, gram].append(len(self.sets))
        self.sets.append(grams)
        return True


def _drop_cosine(
    prompts: Sequence[RawPrompt],
    order: list[int],
    threshold: float,
    encode: Callable[[list[str]], np.ndarray],
) -> tuple[list[int], int]:
    members = [i for i in order if not prompts[i].intent]
    vectors = encode([prompts[i].text for i in members])  # (n, d)
    gone: set[int] = set()
    for start in range(0, len(members), 1024):
        close = vectors[start : start + 1024] @ vectors.T >= threshold  # (<=1024, n)
        for row, i in enumerate(members[start : start + 1024]):
            if any(members[column] not in gone for column in np.flatnonzero(close[row, : start + row])):
                gone.add(i)
    return [i for i in order if i not in gone], len(gone)


def with_text(prompt: RawPrompt) -> RawPrompt:
    """Return the prompt with normalised text."""
    return dataclasses.replace(prompt, text=normalise_text(prompt.text))
