"""Clusters and the classifier on planted vectors, and the real encoder on a few texts."""

from __future__ import annotations

import numpy as np
import pytest

from drirl.data.cluster import Embedder, classify, cluster_ids
from drirl.data.raw import UNLABELLED, RawPrompt
from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError


def planted(texts: list[str]) -> np.ndarray:
    """One axis per first letter, a little noise from the number that follows."""
    rows = np.zeros((len(texts), 6), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[ord(text[0]) - ord("a")] = 1
        row[5] = 0.01 * int(text[1:])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_intents_are_clusters_within_kind_and_category() -> None:
    prompts = [
        RawPrompt("1", category=0, intent="x"),
        RawPrompt("2", category=0, intent="x"),
        RawPrompt("3", category=1, intent="x"),
        RawPrompt("4", kind="contrast", intent="x"),
    ]
    first, second, third, fourth = cluster_ids(prompts, encode=planted, seed=0)
    assert first == second
    assert len({first, third, fourth}) == 3


def test_k_means_finds_planted_groups() -> None:
    prompts = [RawPrompt(f"{letter}{i}", category=2) for letter in "abc" for i in range(3)]  # k = 3
    ids = cluster_ids(prompts, encode=planted, seed=0)
    assert [len(set(ids[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]
    assert len(set(ids)) == 3
    assert ids == cluster_ids(prompts, encode=planted, seed=0)


def test_classify_planted_groups() -> None:
    known = [RawPrompt(f"a{i}", category=0) for i in range(5)] + [
        RawPrompt(f"b{i}", category=3) for i in range(5)
    ]
    out = classify([*known, RawPrompt("b9", category=UNLABELLED)], encode=planted, seed=0)
    assert out[:10] == known
    assert (out[10].category, out[10].category_origin, out[10].weak_map) == (3, "classified", False)
    unsure = classify([*known, RawPrompt("e0", category=UNLABELLED)], encode=planted, seed=0, sure=0.9)
    assert unsure[10].weak_map


def test_classify_needs_labels() -> None:
    with pytest.raises(DrirlError, match="1 prompts have no category"):
        classify([RawPrompt("a1", category=UNLABELLED), RawPrompt("a2", category=0)], encode=planted, seed=0)


def test_embedder_encodes_each_text_once() -> None:
    embed = Embedder(EncoderSettings())
    texts = ["How do I bake bread?", "Tell me how to bake a loaf.", "How do I bake bread?"]
    vectors = embed(texts)
    assert vectors.shape == (3, 384)
    assert embed.encoded == 2
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[2]).all()
    assert vectors[0] @ vectors[1] > vectors[0] @ embed(["The stock market fell."])[0]
