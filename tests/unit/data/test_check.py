"""Checkers of helpfulness tasks, case by case."""

from __future__ import annotations

import pytest

from drirl.data.check import check_answer, checker_names, is_correct
from drirl.errors import DrirlError
from drirl.records import Prompt


@pytest.mark.parametrize(
    ("checker", "reference", "answer", "expected"),
    [
        ("exact", "blue", "Blue.", True),
        ("exact", "blue", "The cup is blue.", True),
        ("exact", "blue", "The blue cup.", False),
        ("exact", "New Delhi", "It is New  Delhi!", True),
        ("exact", "New Delhi", "It is Delhi", False),
        ("exact", "blue", "", False),
        ("contains", "art", "A party.", False),
        ("contains", "art", "It is Art, I think", True),
        ("contains", "H2O|water", "that would be water.", True),
        ("contains", "car park", "the car is in the park", False),
        ("number", "7", "3 plus 4 is 7.", True),
        ("number", "7", "7 is 3 plus 4", False),
        ("number", "7", "It is 17", False),
        ("number", "7", "7.0", True),
        ("number", "-2", "The result: -2", True),
        ("number", "1200", "1,200 in all", True),
        ("number", "7", "seven", False),
        ("number_list", "1, 2, 3", "1 2 3", True),
        ("number_list", "1 2 3", "1 3 2", False),
        ("number_list", "1 2", "1 2 2", False),
        ("starts", "yes", "Yes, it is.", True),
        ("starts", "yes", "Yesterday.", False),
        ("starts", "no", "I say no", False),
        ("format:upper", "cat", "CAT", True),
        ("format:upper", "cat", "Cat", False),
        ("format:upper", "cat", "DOG", False),
        ("format:upper", "", "123", False),
        ("format:lower", "", "cat.", True),
        ("format:title", "", "A Red Cat", True),
        ("format:title", "", "A red Cat", False),
        ("format:list:3", "", "red, green, blue", True),
        ("format:list:3", "", "red, green and blue.", True),
        ("format:list:3", "", "red, green", False),
        ("format:list:3", "green", "red, pink, blue", False),
        ("format:quoted", "", '"stay calm"', True),
        ("format:quoted", "", "stay calm", False),
        ("format:quoted", "", '""', False),
        ("format:yes_no", "", "No.", True),
        ("format:yes_no", "", "Not at all", False),
        ("format:one_word", "", "Stop!", True),
        ("format:words:2", "", "Stop now", True),
        ("format:lines:2", "", "a\nb", True),
        ("format:sentences:2", "", "One. Two.", True),
        ("format:number", "", "12", True),
        ("format:number", "", "12 cats", False),
    ],
)
def test_cases(checker: str, reference: str, answer: str, expected: bool) -> None:
    assert check_answer(checker, reference, answer) is expected


def test_uses_the_fields_of_the_prompt() -> None:
    prompt = Prompt("p", "3 + 4?", -1, "test", kind="task", checker="number", reference="7")
    assert is_correct(prompt, "It is 7")
    assert not is_correct(prompt, "It is 8")


@pytest.mark.parametrize(
    ("checker", "reference", "match"),
    [
        ("", "x", "unknown checker ''"),
        ("exakt", "x", "did you mean 'exact'"),
        ("format:uper", "", "did you mean 'format:upper'"),
        ("format:list", "", "needs a number"),
        ("number", "", "needs a reference"),
    ],
)
def test_bad_checkers_are_named(checker: str, reference: str, match: str) -> None:
    with pytest.raises(DrirlError, match=match):
        check_answer(checker, reference, "an answer")


def test_every_name_is_listed() -> None:
    assert "format:list:K" in checker_names()
    assert "number_list" in checker_names()
