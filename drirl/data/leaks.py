"""Nothing near to an evaluation prompt is trained on (paper section 3, leak checks).

Training prompts that come too near are removed and counted first; :func:`verify` then fails the build if
any rule is still broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from drirl.data.normalise import ngrams, words
from drirl.data.settings import LeakSettings
from drirl.errors import DrirlError
from drirl.records import Prompt, prompt_id

__all__ = ["LeakIndex", "verify"]


class LeakIndex:
    """Evaluation items, indexed for the three tests: exact text, n-gram share, embedding cosine."""

    def __init__(
        self,
        items: Sequence[tuple[str, str]],
        *,
        settings: LeakSettings,
        encode: Callable[[list[str]], np.ndarray],
    ) -> None:
        """``items``: (name, text) of every evaluation item; ``encode``: texts -> (n, d) unit rows."""
        self.names = [name for name, _ in items]
        self.settings = settings
        self.encode = encode
        self._exact = {prompt_id(text): index for index, (_, text) in reversed(list(enumerate(items)))}
        self._grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, (_, text) in enumerate(items):
            for gram in ngrams(words(text), settings.ngram):
                self._grams[gram].append(index)
        self._vectors = encode([text for _, text in items]) if items and settings.cosine is not None else None

    def find(self, texts: Sequence[str]) -> list[tuple[str, str] | None]:
        """Return per text ``(rule, name of the evaluation item)``, or None if it is far from all of them.

        Rules in the order tried: ``exact``; ``ngram``, at least ``share`` of the text's n-grams are in one
        item; ``cosine``.
        """
        found: list[tuple[str, str] | None] = []
        for text in texts:
            item = self._exact.get(prompt_id(text))
            rule = "exact"
            if item is None:
                item, rule = self._ngram_match(text), "ngram"
            found.append(None if item is None else (rule, self.names[item]))
        rest = [i for i, hit in enumerate(found) if hit is None]
        if self._vectors is not None and rest:
            vectors = self.encode([texts[i] for i in rest])  # (n, d)
            for start in range(0, len(rest), 1024):
                cosines = vectors[start : start + 1024] @ self._vectors.T  # (<=1024, items)
                best = cosines.argmax(axis=1)
                for row, column in enumerate(best):
                    if cosines[row, column] >= self.settings.cosine:
                        found[rest[start + row]] = ("cosine", self.names[column])
        return found

    def _ngram_match(self, text: str) -> int | None:
        grams = ngrams(words(text), self.settings.ngram)
        hits = Counter(index for gram in grams for index in self._grams.get(gram, ()))
        if not hits:
            return None
        index, count = min(hits.items(), key=lambda pair: (-pair[1], pair[0]))
        return index if count >= self.settings.share * len(grams) else None


def verify(prompts: Sequence[Prompt], index: LeakIndex) -> None:
    """Fail the build if an id or cluster is in two splits or a train prompt is near an evaluation item.

    Raises:
        DrirlError: with the first offender of the first broken rule.
    """
    for field in ("prompt_id", "cluster_id"):
        split_of: dict[object, str] = {}
        for prompt in prompts:
            value = getattr(prompt, field)
            first = split_of.setdefault(value, prompt.split)
            if first != prompt.split:
                raise DrirlError(
                    f"leak: {field} {value} is in {first} and {prompt.split} ('{prompt.text[:60]}'); "
                    "a cluster belongs to one split: check the splits of the sources"
                )
    train = [prompt for prompt in prompts if prompt.split == "train"]
    for prompt, hit in zip(train, index.find([prompt.text for prompt in train]), strict=True):
        if hit is not None:
            raise DrirlError(
                f"leak: training prompt {prompt.prompt_id} ('{prompt.text[:60]}') is too near to "
                f"{hit[1]} by rule {hit[0]}; remove it from its source"
            )
