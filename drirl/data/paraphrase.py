"""Paraphrases by an LLM that fill a short category (paper section 3, step 5)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from drirl.data.balance import Candidate
from drirl.data.generators import TextGenerator
from drirl.data.normalise import NEAR_N, NearIndex, ngrams, normalise_text, words
from drirl.data.settings import DataSettings
from drirl.data.templates import ask_paraphrase, read_paraphrase
from drirl.detect import refusal_class
from drirl.records import prompt_id
from drirl.text import SEPARATOR

__all__ = ["Paraphraser"]

ROUNDS = 6
"""Times that every seed prompt is asked about, at most; as many as there are manners."""


class Paraphraser:
    """Rewords training prompts and keeps what is new, short, near its seed and no refusal.

    Attributes:
        counts: ``asked``, ``kept`` and, by reason, what was turned down.
    """

    def __init__(
        self,
        generator: TextGenerator,
        settings: DataSettings,
        *,
        encode: Callable[[list[str]], np.ndarray],
        known: Iterable[str],
        seed: int,
    ) -> None:
        """``known``: every collected text; ``encode``: texts -> (n, d) unit rows."""
        self.generator = generator
        self.settings = settings
        self.encode = encode
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._near = NearIndex(settings.duplicate_jaccard)
        for text in known:
            self._ids.add(prompt_id(text))
            self._near.add("", ngrams(words(text), NEAR_N))

    def fill(self, seeds: Sequence[Candidate], missing: int, turn: int) -> list[Candidate]:
        """Ask once about ``missing`` seeds (at most all) in the manner of ``turn``; return what is kept.

        A paraphrase is ``synthetic`` and keeps its seed's cluster, category, split and weak mark.
        """
        start = turn * missing % max(1, len(seeds))
        chosen = [seeds[(start + k) % len(seeds)] for k in range(min(missing, len(seeds)))]
        limit = self.settings.max_prompt_words or 60
        requests = [
            self.generator.request(
                ask_paraphrase(c.raw.text, c.raw.category, limit=limit, turn=turn),
                self.seed,
                "paraphrase",
                turn,
            )
            for c in chosen
        ]
        self.counts["asked"] += len(requests)
        texts = [normalise_text(read_paraphrase(reply.text)) for reply in self.generator.replies(requests)]
        kept: list[Candidate] = []
        near_seed = self._similarity([c.raw.text for c in chosen], texts)
        for c, text, cosine in zip(chosen, texts, near_seed, strict=True):
            reason = self._reason(text, limit, cosine)
            self.counts[reason or "kept"] += 1
            if not reason:
                self._ids.add(prompt_id(text))
                kept.append(self._candidate(c, text, turn))
        return kept

    def _similarity(self, seeds: list[str], texts: list[str]) -> list[float]:
        if not texts or self.settings.fill_similarity == 0:
            return [1.0] * len(texts)
        vectors = self.encode([*seeds, *texts])  # (2n, d)
        return [float(a @ b) for a, b in zip(vectors[: len(seeds)], vectors[len(seeds) :], strict=True)]

    def _reason(self, text: str, limit: int, cosine: float) -> str:
        """Return why ``text`` is turned down, or "" and remember its n-grams."""
        tokens = words(text)
        if len(tokens) < 3 or SEPARATOR in text:
            return "malformed"
        if len(tokens) > limit:
            return "too_long"
        if refusal_class(text) != "none":
            return "refused"
        if cosine < self.settings.fill_similarity:
            return "off_topic"
        if prompt_id(text) in self._ids or not self._near.add("", ngrams(tokens, NEAR_N)):
            return "duplicate"
        return ""

    def _candidate(self, c: Candidate, text: str, turn: int) -> Candidate:
        raw = dataclasses.replace(
            c.raw,
            text=text,
            source=f"paraphrase-{c.raw.source}",
            source_id=f"{c.raw.source_id}#{turn}",
            wording="",
            synthetic=True,
            split=c.split,
            demo=None,
            answers=(),
        )
        return Candidate(raw, prompt_id(text), c.cluster, c.split)
