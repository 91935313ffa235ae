"""Normalised text and duplicates."""

from __future__ import annotations

import random

import numpy as np
import pytest

from drirl.data.normalise import drop_duplicates, jaccard, ngrams, normalise_text, words
from drirl.data.raw import RawPrompt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  How\u00a0do   I\tbake? ", "How do I bake?"),
        ("one\n\n  two \r\nthree", "one\ntwo\nthree"),
        ("cafe\u0301\u0007", "café"),
        ("\ufeffx", "x"),
    ],
)
def test_normalise_text(text: str, expected: str) -> None:
    assert normalise_text(text) == expected


def test_grams_and_jaccard() -> None:
    assert words("I can't stop, it’s late!") == ["i", "can't", "stop", "it's", "late"]
    assert words("怎么做 GPS定位，朋友’s？") == ["怎", "么", "做", "gps", "定", "位", "朋", "友", "s"]
    assert ngrams(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")}
    assert ngrams(["a"], 2) == {("a",)}
    assert ngrams([], 2) == set()
    assert jaccard({("a",), ("b",)}, {("b",), ("c",)}) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) == 0


def raw(text: str, **values: str) -> RawPrompt:
    return RawPrompt(text=text, **values)  # type: ignore[arg-type]


LONG = "please tell me in some detail how one would go about opening a very old rusty door"


def test_exact_and_near_duplicates() -> None:
    # 17 words give 13 5-grams; one more word at the end gives 14 of which 13 are shared: 13/14 > 0.8
    prompts = [raw(LONG), raw(LONG.upper() + "!"), raw(LONG + " today"), raw("open the door"), raw(" ! ")]
    kept, counts = drop_duplicates(prompts, threshold=0.8)
    assert [p.text for p in kept] == [LONG, "open the door"]
    assert counts == {"near_jaccard": 2, "empty": 1}  # "!" makes another id, the words are the same
    kept, counts = drop_duplicates([raw("A b"), raw("a  B")], threshold=0.8)
    assert (len(kept), counts) == (1, {"exact": 1})


def test_the_held_out_copy_stays() -> None:
    prompts = [raw(LONG, split="train"), raw(LONG, split="test")]
    kept, _ = drop_duplicates(prompts, threshold=0.8)
    assert [p.split for p in kept] == ["test"]


def test_near_duplicates_of_other_intents_stay() -> None:
    prompts = [raw(LONG, intent="a"), raw(LONG + " now", intent="b"), raw(LONG + " today", intent="a")]
    kept, counts = drop_duplicates(prompts, threshold=0.8)
    assert [p.intent for p in kept] == ["a", "b"]
    assert counts["near_jaccard"] == 1


def test_prefix_filter_finds_what_brute_force_finds() -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(60):
        tokens = [rng.choice("abc") for _ in range(rng.randint(1, 14))]
        texts += [" ".join(tokens), " ".join([*tokens, "d"])]
    prompts = [raw(text, source_id=str(i)) for i, text in enumerate(texts)]
    for threshold in (0.5, 0.8, 1.0):
        kept, _ = drop_duplicates(prompts, threshold=threshold)
        expected: list[str] = []
        sets: list[set[tuple[str, ...]]] = []
        for p in prompts:
            grams = ngrams(words(p.text), 5)
            if all(jaccard(grams, other) < threshold for other in sets):
                sets.append(grams)
                expected.append(p.source_id)
        assert [p.source_id for p in kept] == expected


def test_cosine_duplicates() -> None:
    vectors = {"one": [1.0, 0.0], "two": [0.96, 0.28], "three": [0.0, 1.0], "four": [1.0, 0.0]}
    prompts = [raw("one"), raw("two"), raw("three"), raw("four", intent="its own")]
    kept, counts = drop_duplicates(
        prompts, threshold=0.8, cosine=0.95, encode=lambda texts: np.array([vectors[t] for t in texts])
    )
    assert [p.text for p in kept] == ["one", "three", "four"]
    assert counts["near_cosine"] == 1
