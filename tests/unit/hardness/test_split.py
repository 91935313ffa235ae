"""The rule-based sub-sentence splitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl.hardness.split import count_words, split_sentences


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I cannot do that. It would hurt someone!", ["I cannot do that.", "It would hurt someone!"]),
        (
            "Is it safe here? One two three; four five six",
            ["Is it safe here?", "One two three;", "four five six"],
        ),
        (
            "first line here\nsecond line here\r\n\nthird line here",
            ["first line here", "second line here", "third line here"],
        ),
        # short pieces join the next one, the last short one joins the one before it
        ("No. I will not help. Sorry.", ["No. I will not help. Sorry."]),
        ("I will not help. No! Ask a friend instead.", ["I will not help.", "No! Ask a friend instead."]),
        ("No. Sorry.", ["No. Sorry."]),
        ("Stop", ["Stop"]),
        # a full stop inside a number ends nothing; a run of marks ends one piece; closing quotes stay
        ("It costs 3.50 for two. Pay at the door.", ["It costs 3.50 for two.", "Pay at the door."]),
        ("Wait for me?! I am coming now...", ["Wait for me?!", "I am coming now..."]),
        ('He said "leave me alone." Then he left town.', ['He said "leave me alone."', "Then he left town."]),
        ("这个我不能帮忙。请找医生！好的", ["这个我不能帮忙。", "请找医生！好的"]),
        ("我不能；你也不能？大家都不能", ["我不能；", "你也不能？", "大家都不能"]),
        # no word at all: K = 0
        ("", []),
        ("  \n ", []),
        ("... !! ?", []),
        # marks without a word at the end are no piece of their own
        ("I will not help. ...", ["I will not help."]),
    ],
)
def test_hand_worked(text: str, pieces: list[str]) -> None:
    assert split_sentences(text) == pieces


def test_keeps_at_most_max_pieces_from_the_start() -> None:
    text = " ".join(f"this is piece{i}." for i in range(20))
    assert split_sentences(text) == [f"this is piece{i}." for i in range(16)]
    assert split_sentences(text, max_pieces=2) == ["this is piece0.", "this is piece1."]
    assert len(split_sentences(text, max_pieces=None)) == 20


def test_min_words_one_never_merges() -> None:
    assert split_sentences("No. Sorry. Bye.", min_words=1) == ["No.", "Sorry.", "Bye."]


def test_count_words() -> None:
    assert count_words("I can't re-do it, 3.5 times") == 7  # I can't re-do it 3 5 times
    assert count_words("你好 world") == 3


@given(st.text(alphabet="ab c.!?;\n。3", max_size=80), st.integers(1, 4))
def test_pieces_cover_every_word_once_and_are_long_enough(text: str, least: int) -> None:
    pieces = split_sentences(text, least, max_pieces=None)
    assert (
        "".join("".join(pieces).split()).rstrip(".!?;。") == "".join(text.split()).rstrip(".!?;。")
        or not pieces
    )
    assert sum(map(count_words, pieces)) == count_words(text)
    assert all(count_words(p) >= least for p in pieces) or len(pieces) == 1
