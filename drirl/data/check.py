"""Is a reply to a helpfulness task correct? One rule per ``Prompt.checker``, standard library only.

==============  ====================================================================================
checker         the reply is correct if
==============  ====================================================================================
``exact``       it equals the reference, or its last words do (as many words as the reference has)
``contains``    the reference occurs in it as whole word(s); ``a|b`` accepts either
``number``      the last number in it equals the reference
``number_list`` its numbers, in order, are those of the reference
``starts``      its first words are the reference
``format:NAME`` it has the form NAME (below) and, with a reference, contains the reference
==============  ====================================================================================

Forms: ``upper``, ``lower``, ``title``, ``quoted``, ``brackets``, ``yes_no``, ``one_word``, ``number``,
``question``, ``exclaim``, ``list:K`` (K comma-separated items), ``lines:K``, ``words:K``, ``sentences:K``.

Except for ``format``, case, white space, outer quotes and closing punctuation do not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from drirl.errors import DrirlError, nearest
from drirl.records import Prompt

__all__ = ["check_answer", "checker_names", "is_correct", "normalise_answer"]

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_EDGE = " \t\n\r\"'“”‘’`.,;:!?()[]"


def is_correct(prompt: Prompt, answer: str) -> bool:
    """Return whether ``answer`` (the reply after the separator) solves the task ``prompt``.

    Raises:
        DrirlError: the prompt has no checker or an unknown one.
    """
    return check_answer(prompt.checker, prompt.reference, answer, where=f"prompt {prompt.prompt_id}")


def check_answer(checker: str, reference: str, answer: str, where: str = "checker") -> bool:
    """As :func:`is_correct`, from the two fields alone; an empty answer is never correct."""
    name, _, argument = checker.partition(":")
    if name == "format":
        return _check_format(argument, reference, answer, where)
    if name not in _RULES:
        raise DrirlError(f"{where}: unknown checker '{checker}'; {nearest(name, checker_names())}")
    if not reference.strip():
        raise DrirlError(f"{where}: checker '{checker}' needs a reference")
    return bool(answer.strip()) and _RULES[name](reference, answer)


def checker_names() -> list[str]:
    """Return the names a ``checker`` may have, sorted."""
    return sorted([*_RULES, *(f"format:{name}" for name in _FORMS), *(f"format:{n}:K" for n in _COUNTED)])


def normalise_answer(text: str) -> str:
    """Lower-case, collapse white space, drop outer quotes and closing punctuation."""
    return " ".join(text.lower().replace("’", "'").split()).strip(_EDGE)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))


def _numbers(text: str) -> list[Fraction]:
    return [Fraction(m.replace(",", "").replace("−", "-")) for m in _NUMBER.findall(text)]


def _exact(reference: str, answer: str) -> bool:
    if normalise_answer(answer) == normalise_answer(reference):
        return True
    wanted, found = _words(reference), _words(answer)
    return bool(wanted) and found[-len(wanted) :] == wanted


def _contains(reference: str, answer: str) -> bool:
    found = f" {' '.join(_words(answer))} "
    options = [" ".join(_words(option)) for option in reference.split("|")]
    return any(option and f" {option} " in found for option in options)


def _number(reference: str, answer: str) -> bool:
    wanted, found = _numbers(reference), _numbers(answer)
    return bool(wanted) and bool(found) and found[-1] == wanted[-1]


def _number_list(reference: str, answer: str) -> bool:
    wanted = _numbers(reference)
    return bool(wanted) and _numbers(answer) == wanted


def _starts(reference: str, answer: str) -> bool:
    wanted = _words(reference)
    return bool(wanted) and _words(answer)[: len(wanted)] == wanted


_RULES: dict[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "number": _number,
    "number_list": _number_list,
    "starts": _starts,
}


def _letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _wrapped(text: str, pairs: tuple[str, ...]) -> bool:
    body = text.rstrip(".")
    return len(body) > 2 and any(body[0] == pair[0] and body[-1] == pair[1] for pair in pairs)


_FORMS: dict[str, Callable[[str], bool]] = {
    "upper": lambda text: _letters(text) and text == text.upper(),
    "lower": lambda text: _letters(text) and text == text.lower(),
    "title": lambda text: (
        _letters(text) and all(w[0].isupper() for w in _WORD.findall(text) if w[0].isalpha())
    ),
    "quoted": lambda text: _wrapped(text, ('""', "“”", "''")),
    "brackets": lambda text: _wrapped(text, ("[]", "()")),
    "yes_no": lambda text: normalise_answer(text) in {"yes", "no"},
    "one_word": lambda text: len(_WORD.findall(text)) == 1,
    "number": lambda text: re.fullmatch(_NUMBER.pattern, text.rstrip(".")) is not None,
    "question": lambda text: text.endswith("?"),
    "exclaim": lambda text: text.endswith("!"),
}


def _items(text: str) -> int:
    parts = re.split(r",|\band\b", text.strip().rstrip("."))
    return len([part for part in parts if part.strip()])


_COUNTED: dict[str, Callable[[str], int]] = {
    "list": _items,
    "lines": lambda text: len([line for line in text.splitlines() if line.strip()]),
    "words": lambda text: len(_WORD.findall(text)),
    "sentences": lambda text: len([s for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]),
}


def _check_format(form: str, reference: str, answer: str, where: str) -> bool:
    text = answer.strip()
    name, _, count = form.partition(":")
    if name in _COUNTED:
        if not count.isdigit():
            raise DrirlError(f"{where}: checker 'format:{form}' needs a number, as in 'format:{name}:3'")
        fits = bool(text) and _COUNTED[name](text) == int(count)
    elif form in _FORMS:
        fits = bool(text) and _FORMS[form](text)
    else:
        raise DrirlError(
            f"{where}: unknown checker 'format:{form}'; {nearest(f'format:{form}', checker_names())}"
        )
    return fits and (not reference.strip() or _contains(reference, text))
