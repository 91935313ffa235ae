"""Nothing near to an evaluation prompt is trained on (paper section 3, leak checks).

Training prompts that come too near are removed and counted first; :func:`verify` then fails the build if
any rule is still broken.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from drirl.data.normalise import ngrams, words
from drirl.data.settings import LeakSettings
from drirl.errors import DrirlError
from drirl.records import Prompt, prompt_id

__all__ = ["RULES", "LeakIndex", "attack_texts", "verify"]

RULES = ("exact", "ngram", "attack", "cosine")
TEMPLATES = Path("benchmarks/drirl_jailbreak/templates.json")
"""The wrappers of the jailbreak benchmark, below the project's root."""
_ATTACK_WORDS = 8


def attack_texts(templates: Path = TEMPLATES) -> list[str]:
    """Return the fixed sentences of the attacks: the genetic search's pool, and the benchmark's wrappers.

    The pool comes with the package; without the project's folder around it the wrappers are left out.
    """
    pool = yaml.safe_load((files("drirl.attack") / "pieces.yaml").read_text(encoding="utf-8"))
    texts = [*pool["before"], *pool["after"]]
    if templates.is_file():
        texts += _strings(json.loads(templates.read_text(encoding="utf-8")))
    return [text for text in texts if text]


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in inner for text in _strings(item)]


def _fixed_parts(text: str) -> list[list[str]]:
    """Return the words of a wrapper between its places for the prompt: {prompt}, {first}, ..."""
    parts = [words(part.rpartition("}")[2]) for part in text.split("{")]
    return [part for part in parts if len(part) >= _ATTACK_WORDS // 2]


class LeakIndex:
    """Evaluation items, indexed for three tests (exact text, n-gram share, embedding cosine), and attacks."""

    def __init__(
        self,
        items: Sequence[tuple[str, str]],
        *,
        settings: LeakSettings,
        encode: Callable[[list[str]], np.ndarray],
        attacks: Iterable[str] = (),
    ) -> None:
        """Index the texts that training has to keep away from.

        Args:
            items: (name, text) of every evaluation item.
            encode: texts -> (n, d) unit rows.
            attacks: sentences of attacks, see :func:`attack_texts`.
        """
        self.names = [name for name, _ in items]
        self.settings = settings
        self.encode = encode
        self._exact = {prompt_id(text): index for index, (_, text) in reversed(list(enumerate(items)))}
        self._grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, (_, text) in enumerate(items):
            for gram in ngrams(words(text), settings.ngram):
                self._grams[gram].append(index)
        self._attacks: dict[int, dict[tuple[str, ...], str]] = defaultdict(dict)
        for text in attacks:
            for part in _fixed_parts(text):
                for gram in ngrams(part, _ATTACK_WORDS):
                    self._attacks[len(gram)].setdefault(gram, text)
        self._vectors = encode([text for _, text in items]) if items and settings.cosine is not None else None

    def find(self, texts: Sequence[str]) -> list[tuple[str, str] | None]:
        """Return per text ``(rule, name of the evaluation item)``, or None if it is far from all of them.

        Rules in the order tried: ``exact``; ``ngram``, at least ``share`` of the text's n-grams are in one
        item; ``attack``, eight words in a row (or all of a shorter sentence) are an attack's; ``cosine``.
        """
        found: list[tuple[str, str] | None] = []
        for text in texts:
            item = self._exact.get(prompt_id(text))
            rule = "exact"
            if item is None:
                item, rule = self._ngram_match(text), "ngram"
            attack = None if item is not None else self._attack_match(text)
            hit = None if item is None else (rule, self.names[item])
            found.append(("attack", f"the attack '{attack}'") if attack is not None else hit)
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

    def _attack_match(self, text: str) -> str | None:
        tokens = words(text)
        for size, known in sorted(self._attacks.items()):
            if len(tokens) >= size:
                for gram in sorted(ngrams(tokens, size)):
                    if gram in known:
                        return known[gram]
        return None

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
