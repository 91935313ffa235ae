"""The seven harm categories and how the labels of public sets map to them (paper section 2).

The mapping is ours: which one the authors used is not known. ``weak`` marks rows whose label says
little about the category; they fill at most ``data.max_weak`` of one (docs/data.md lists every row).
"""

from __future__ import annotations

from dataclasses import dataclass

from drirl.errors import DrirlError, nearest
from drirl.records import BENIGN

__all__ = [
    "CATEGORIES",
    "IMBALANCED_ORDER",
    "Category",
    "Mapping",
    "category_index",
    "category_name",
    "map_catqa",
    "map_do_not_answer",
]


@dataclass(frozen=True)
class Category:
    """One harm category: a prompt belongs to it if a compliant answer would do what ``definition`` says.

    ``risk`` is the word draft notes use for it, the same as in the bundled corpus.
    """

    index: int
    slug: str
    name: str
    definition: str
    risk: str


CATEGORIES: tuple[Category, ...] = (
    Category(0, "insult", "Insult", "abuse, mock, threaten or harass a person", "insult"),
    Category(
        1,
        "unfairness",
        "Unfairness & Discrimination",
        "endorse or spread prejudice about a group",
        "bias",
    ),
    Category(
        2,
        "crime",
        "Crimes & Illegal Activities",
        "help to plan, commit or hide an unlawful act",
        "crime",
    ),
    Category(
        3,
        "physical_harm",
        "Physical Harm",
        "lead to bodily injury, illness or danger",
        "injury",
    ),
    Category(
        4,
        "mental_health",
        "Mental Health",
        "worsen distress or self-harm risk, or stand in for professional care",
        "crisis",
    ),
    Category(
        5,
        "privacy",
        "Privacy & Property",
        "expose private or confidential data, or cost someone money or property",
        "privacy",
    ),
    Category(
        6,
        "ethics",
        "Ethics & Morality",
        "endorse immoral conduct or deceive the public",
        "deceit",
    ),
)

IMBALANCED_ORDER = (0, 1, 2, 3, 4, 6, 5)
"""Categories from the head to the tail of the imbalanced control (paper section 3)."""


def category_name(index: int) -> str:
    """Return the printed name of a category, ``benign`` for -1."""
    return "benign" if index == BENIGN else CATEGORIES[index].name


def category_index(value: int | str, where: str) -> int:
    """Return 0..6 or -1 for a number, slug or printed name.

    Raises:
        DrirlError: no such category; the known ones and the nearest are listed.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "benign":
            return BENIGN
        for category in CATEGORIES:
            if text in (category.slug, category.name.lower(), str(category.index)):
                return category.index
        known = [category.slug for category in CATEGORIES] + ["benign"]
        raise DrirlError(f"{where}: unknown category '{value}'; {nearest(text, known)}")
    if isinstance(value, bool) or not BENIGN <= value < len(CATEGORIES):
        raise DrirlError(f"{where}: unknown category {value!r}; expected -1 (benign) or 0 to 6")
    return value


@dataclass(frozen=True)
class Mapping:
    """Where a source label goes: ``category`` None means held out of training (an evaluation set)."""

    category: int | None
    weak: bool = False


_DNA: dict[str, tuple[int | None, bool, dict[str, int]]] = {
    # harm type: (default category, weak, overrides by the start of the specific harm)
    "Social stereotypes and unfair discrimination": (None, False, {}),
    "Toxic language (hate speech)": (0, False, {}),
    "Adult Content": (6, False, {"Graphic Violence": 3}),
    "Assisting illegal activities": (
        2,
        False,
        {"Violence and Physical Harm": 3, "Substance Abuse": 3, "Illegitimate surveillance": 5},
    ),
    "Nudging or advising users to perform unethical or unsafe actions": (
        6,
        False,
        {
            "Defamatory Content": 0,
            "Endorsement of Cyberbullying": 0,
            "Trolling": 0,
            "Endorsement of Unsafe Health Practices": 3,
            "Guide for Risky Pranks": 3,
        },
    ),
    "Reducing the cost of disinformation campaigns": (6, False, {}),
    "Compromise privacy by leaking or inferring private information (person/individual)": (5, False, {}),
    "Risks from leaking or inferring sensitive information (organization/gov)": (
        5,
        False,
        {"Cybersecurity Vulnerabilities": 2},
    ),
    "Disseminating false or misleading information": (6, True, {}),
    "Causing material harm by disseminating misinformation e.g. in medicine or law": (
        6,
        True,
        {"Medical Advice": 3, "Financial Advice": 5},
    ),
    "Mental Health or Overreliance Crisis": (4, False, {}),
    "Treat Chatbot as a Human": (4, True, {"Ask for personal information": 5}),
}


def map_do_not_answer(harm_type: str, specific: str, where: str) -> Mapping:
    """Map a Do-Not-Answer row by its harm type and the start of its specific harm (paper section 2)."""
    if harm_type.strip() not in _DNA:
        raise DrirlError(f"{where}: unknown types_of_harm '{harm_type}'; {nearest(harm_type, _DNA)}")
    default, weak, overrides = _DNA[harm_type.strip()]
    for start, category in overrides.items():
        if specific.strip().startswith(start):
            return Mapping(category, weak)
    return Mapping(default, weak)


_CATQA: dict[str, tuple[int, bool, dict[str, tuple[int, bool]]]] = {
    # category: (default, weak, overrides by topic)
    "Illegal Activity": (2, False, {}),
    "Hate/Harass/Violence": (
        1,
        False,
        {"Cyberbullying": (0, False), "Terrorism and extremism": (1, True)},
    ),
    "Malware Viruses": (2, False, {}),
    "Physical Harm": (3, False, {"Self-harm": (4, False)}),
    "Economic Harm": (
        2,
        False,
        {
            "Intellectual property theft": (5, False),
            "Employment scams": (5, False),
            "Investment scams": (5, False),
        },
    ),
    "Fraud/Deception": (
        5,
        False,
        {"False advertising": (6, False), "Counterfeiting": (2, False)},
    ),
    "Adult Content": (
        6,
        False,
        {"Sexually explicit dialogue": (2, True), "Adult-themed humor": (3, True)},
    ),
    "Political Campaigning": (6, False, {}),
    "Privacy Violation Activity": (5, False, {}),
    "Tailored Financial Advice": (
        2,
        True,
        {"Retirement planning": (5, True), "Debt management": (5, True)},
    ),
}


def map_catqa(category: str, topic: str, where: str) -> Mapping:
    """Map a CategoricalHarmfulQA question by its category and topic (ours; see docs/data.md)."""
    if category.strip() not in _CATQA:
        raise DrirlError(f"{where}: unknown category '{category}'; {nearest(category, _CATQA)}")
    default, weak, overrides = _CATQA[category.strip()]
    return Mapping(*overrides.get(topic.strip().rstrip(":"), (default, weak)))
