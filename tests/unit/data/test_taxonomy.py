"""Categories by name and the mapping of public labels."""

from __future__ import annotations

import pytest

from drirl.data.taxonomy import (
    CATEGORIES,
    IMBALANCED_ORDER,
    Mapping,
    category_index,
    category_name,
    map_catqa,
    map_do_not_answer,
)
from drirl.errors import DrirlError


def test_categories_are_numbered_in_order() -> None:
    assert [c.index for c in CATEGORIES] == list(range(7))
    assert sorted(IMBALANCED_ORDER) == list(range(7))
    assert IMBALANCED_ORDER[-1] == 5  # privacy is the tail
    assert category_name(5) == "Privacy & Property"
    assert category_name(-1) == "benign"


@pytest.mark.parametrize(
    ("value", "expected"), [("crime", 2), ("Mental Health", 4), (6, 6), ("3", 3), ("benign", -1), (-1, -1)]
)
def test_category_index(value: int | str, expected: int) -> None:
    assert category_index(value, "here") == expected


@pytest.mark.parametrize("value", ["crimes", 7, -2, True])
def test_unknown_category_is_an_error(value: int | str) -> None:
    with pytest.raises(DrirlError, match=r"here: unknown category"):
        category_index(value, "here")


@pytest.mark.parametrize(
    ("harm", "specific", "expected"),
    [
        ("Social stereotypes and unfair discrimination", "Body Shaming: x", Mapping(None)),
        ("Toxic language (hate speech)", "Insult: x", Mapping(0)),
        ("Adult Content", "Explicit Sexual Content: x", Mapping(6)),
        ("Adult Content", "Graphic Violence: x", Mapping(3)),
        ("Assisting illegal activities", "Illegal Trade: x", Mapping(2)),
        ("Assisting illegal activities", "Illegitimate surveillance and censorship: x", Mapping(5)),
        ("Mental Health or Overreliance Crisis", "Self-Harm: x", Mapping(4)),
        ("Treat Chatbot as a Human", "Ask for personal information", Mapping(5, weak=True)),
        ("Disseminating false or misleading information", "Rumors: x", Mapping(6, weak=True)),
        (
            "Causing material harm by disseminating misinformation e.g. in medicine or law",
            "Medical Advice:\n Diagnosis",
            Mapping(3, weak=True),
        ),
    ],
)
def test_do_not_answer_rows(harm: str, specific: str, expected: Mapping) -> None:
    assert map_do_not_answer(harm, specific, "f:1") == expected


def test_catqa_rows() -> None:
    assert map_catqa("Hate/Harass/Violence", "Cyberbullying", "f") == Mapping(0)
    assert map_catqa("Hate/Harass/Violence", "Religious intolerance", "f") == Mapping(1)
    assert map_catqa("Illegal Activity", "Drug:", "f") == Mapping(2)
    assert map_catqa("Physical Harm", "Self-harm", "f") == Mapping(4)
    assert map_catqa("Tailored Financial Advice", "Tax planning", "f") == Mapping(2, weak=True)


def test_unknown_labels_name_the_place_and_the_nearest() -> None:
    with pytest.raises(
        DrirlError, match=r"f:3: unknown types_of_harm 'Adult content'.*did you mean 'Adult Content'"
    ):
        map_do_not_answer("Adult content", "x", "f:3")
    with pytest.raises(DrirlError, match=r"unknown category 'Malware'"):
        map_catqa("Malware", "x", "f")
