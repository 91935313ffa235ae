"""Texts as counts of words, for pages that compare texts without the encoder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["vocabulary_of", "word_vectors", "words_of"]

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def vocabulary_of(words: Iterable[Sequence[str]]) -> dict[str, int]:
    """Return a column for every word, in the order in which words come."""
    return {word: k for k, word in enumerate(dict.fromkeys(word for own in words for word in own))}


def word_vectors(words: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> NDArray[np.float32]:
    """Return (n, V) unit vectors of word counts; a word outside the vocabulary counts in the length only.

    A text without words is a zero vector.
    """
    vectors = np.zeros((len(words), len(vocabulary)), np.float32)
    lengths = np.zeros(len(words), np.float32)
    for row, own in enumerate(words):
        for word, count in Counter(own).items():
            lengths[row] += count * count
            if word in vocabulary:
                vectors[row, vocabulary[word]] = count
    return np.asarray(vectors / np.sqrt(np.maximum(lengths, 1))[:, None], np.float32)
