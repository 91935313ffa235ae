"""Split a reply into sub-sentences by rule (paper section 5; the paper has an LLM do it: ``splitter.py``).

A piece ends at a run of ``. ! ? ;`` or ``。 ！ ？ ；`` or at a line break. A full stop between two digits
(3.5) ends nothing. A piece of fewer than ``min_words`` words joins the next one, the last one the one
before it. Words are runs of letters or digits; each Han, Hiragana or Katakana character counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["count_words", "merge_short", "split_sentences"]

_END = re.compile(r"(?:(?<!\d)\.|\.(?!\d)|[!?;。！？；])+[\"'”’)\]]*|[\n\r]+")
_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿]|[^\W_぀-ヿ㐀-䶿一-鿿]+(?:['’\-][^\W_぀-ヿ㐀-䶿一-鿿]+)*")


def count_words(text: str) -> int:
    """Return how many words ``text`` has; an apostrophe or hyphen inside a word does not end it."""
    return len(_WORD.findall(text))


def split_sentences(text: str, min_words: int = 3, max_pieces: int | None = 16) -> list[str]:
    """Return the sub-sentences of ``text``: substrings with white space collapsed, end marks kept.

    Args:
        text: a reply (no draft).
        min_words: pieces with fewer words are merged with a neighbour.
        max_pieces: how many are kept, from the start; None keeps all.
    Returns:
        K pieces; an empty list (K = 0) if the text has no word at all. A text that is short as a whole is
        one piece.
    """
    pieces = merge_short(text, (match.end() for match in _END.finditer(text)), min_words)
    return pieces if max_pieces is None else pieces[:max_pieces]


def merge_short(text: str, ends: Iterable[int], min_words: int) -> list[str]:
    """Cut ``text`` at ``ends``; a piece that is too short joins the next one, the last one the one before it.

    Args:
        ends: positions in ``text``, ascending; the end of the text need not be among them.
        min_words: pieces have at least so many words, unless the whole text has fewer.
    Returns:
        K pieces with white space collapsed; empty if the text has no word.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for position in [*ends, len(text)]:
        if count_words(text[start:position]) >= min_words:
            spans.append((start, position))
            start = position
    if count_words(text[start:]):
        if spans:
            spans[-1] = (spans[-1][0], len(text))
        else:
            spans.append((start, len(text)))
    return [" ".join(text[a:b].split()) for a, b in spans]
