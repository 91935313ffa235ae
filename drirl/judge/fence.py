"""Judged text as data: fences that the text cannot close, and nothing in it that a chat template would obey.

A prompt or completion is written by nobody the judge may trust. Four things keep it from instructing one:

1. it stands between markers that carry a nonce, 16 hex digits from a hash of the item and of the judge;
2. runs of ``<`` or ``>`` that could imitate a marker are broken up, and so are the special tokens of chat
   templates (``<|im_end|>``, ``[INST]``, ``</s>`` and, for a local model, all that its tokenizer knows);
3. control and invisible characters are written out (``<U+202E>``);
4. the answer must repeat a check code, 16 digits of another such hash, so an answer copied from the text is
   malformed (:mod:`drirl.judge.templates`).

The nonce and the code depend on the content alone: the same item gives the same request, which a cache needs.
No text can hold its own nonce, since the nonce is a hash of the text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["check_code", "fence", "neutralise", "nonce", "special_tokens"]

_SPECIAL = re.compile(
    r"<\|[^|<>\n]{0,64}\|>"
    r"|<[｜|][^<>\n]{0,64}[｜|]>"
    r"|</?s>|</?(?:start|end)_of_(?:turn|text|image)>|<(?:bos|eos|pad|unk)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS)\]|<</?SYS>>"
    r"|</?think>",
    re.IGNORECASE,
)
_RUN = re.compile(r"<{2,}|>{2,}")
_KEEP = "\n\t"


def nonce(parts: Sequence[str], salt: str) -> str:
    """Return 16 hex digits from a hash of ``parts``; ``salt`` is the judge's."""
    return _digest("fence", parts, salt)[:16]


def check_code(parts: Sequence[str], salt: str) -> str:
    """Return the 16 digits that an answer must repeat; they say nothing of the nonce.

    They follow from the text, whose writer may know the salt: a shorter code could be found by trying texts
    until one holds its own.
    """
    return f"{int(_digest('code', parts, salt)[:32], 16) % (9 * 10**15) + 10**15}"


def _digest(use: str, parts: Sequence[str], salt: str) -> str:
    digest = hashlib.sha256()
    for part in (use, salt, *parts):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def neutralise(text: str, special: Iterable[str] = ()) -> str:
    """Return the text with what could act on a judge broken up; ordinary text stays as it is.

    Args:
        special: further strings that must not stand in the result, such as a tokenizer's special tokens.
    """
    text = text.replace("\r\n", "\n")
    text = "".join(c if _plain(c) else f"<U+{ord(c):04X}>" for c in text)
    text = _SPECIAL.sub(_apart, text)
    for token in sorted(set(special), key=lambda token: (-len(token), token)):
        if len(token) > 1 and not token.isspace():
            text = text.replace(token, _spaced(token))
    return _RUN.sub(_apart, text)


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return all that a transformers tokenizer reads as a special token, sorted."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*map(str, tokenizer.all_special_tokens), *added}))


def _plain(c: str) -> bool:
    return c in _KEEP or unicodedata.category(c) not in ("Cc", "Cf", "Cs")


def _apart(match: re.Match[str]) -> str:
    return _spaced(match.group())


def _spaced(token: str) -> str:
    """Put a space after the first character and between equal neighbours: ``<|x|>`` to ``< |x|>``."""
    if len(set(token)) == 1:
        return " ".join(token)
    return f"{token[0]} {token[1:]}"


def fence(name: str, text: str, mark: str) -> str:
    """Return neutralised ``text`` between its markers; ``mark`` is the nonce."""
    return f"<<<{name} {mark}>>>\n{text}\n<<<END {name} {mark}>>>"
