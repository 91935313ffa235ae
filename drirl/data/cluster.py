"""Embeddings, k-means clusters and a classifier for prompts without a category (paper section 3, step 3)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drirl.data.raw import UNLABELLED, RawPrompt
from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError

__all__ = ["Embedder", "classify", "cluster_ids"]

Encode = Callable[[list[str]], np.ndarray]


class Embedder:
    """The frozen sentence encoder, loaded on first use; each text is encoded once.

    Texts go through sorted by their number of tokens, so that hardly any padding is computed, and in one
    thread: the same settings always make the same batches. Linear layers run in oneDNN where torch has it
    (:func:`_use_onednn`).
    """

    batch_size = 32

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        self._model: Any = None
        self._rows: dict[str, np.ndarray] = {}

    @property
    def encoded(self) -> int:
        """Return how many different texts were encoded."""
        return len(self._rows)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit rows, shape (n, d)."""
        missing = sorted({text for text in texts if text not in self._rows})
        if missing:
            vectors = self._encode(missing)
            self._rows.update(zip(missing, vectors, strict=True))
        if not texts:
            return np.zeros((0, 1), dtype=np.float32)
        return np.stack([self._rows[text] for text in texts])  # (n, d)

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bits depend on the number of threads
        try:
            if self._model is None:
                from drirl.hardness.encoder import load_encoder

                self._model = _use_onednn(load_encoder(self.settings).model)
            lengths = [len(ids) for ids in self._model.tokenizer(texts, verbose=False)["input_ids"]]
            order = sorted(range(len(texts)), key=lambda i: (lengths[i], texts[i]))
            parts = [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]
            vectors = [self._encode_batch([texts[i] for i in part]) for part in parts]
        finally:
            torch.set_num_threads(threads)
        return np.concatenate(vectors)[np.argsort(order)]  # (n, d)

    def _encode_batch(self, texts: list[str]) -> np.ndarray:
        vectors = self._model.encode(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)  # (<=batch_size, d)


def _use_onednn(model: Any) -> Any:
    """Run the model's linear layers in oneDNN; in place.

    torch's own float32 product goes through MKL, which leaves AVX-512 unused on some processors: 92 against
    205 GFLOP/s for MiniLM's shapes on one core of an AMD EPYC. Vectors differ by 3e-7 at most.
    """
    import torch
    from torch.utils import mkldnn

    return mkldnn.to_mkldnn(model) if torch.backends.mkldnn.is_available() else model


def _k_means(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return a label 0..k-1 per row; one thread, so that the result does not depend on the machine's load."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return KMeans(n_clusters=k, n_init=4, random_state=seed).fit(vectors).labels_


def cluster_ids(prompts: Sequence[RawPrompt], *, encode: Encode, seed: int) -> list[int]:
    """Number the cluster of every prompt; a cluster never crosses kind or category.

    A prompt with an intent belongs to the cluster of that intent. The others of one kind and category
    are clustered by k-means on their embeddings with k = round(sqrt(n)); prompts that a source fixes to
    different splits are clustered apart.
    """
    names: list[tuple[str, int, str]] = [(p.kind, p.category, p.intent) for p in prompts]
    loose: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        if not prompt.intent:
            loose[prompt.kind, prompt.category, prompt.split].append(i)
    for group in sorted(loose):
        members = loose[group]
        k = max(1, round(len(members) ** 0.5))
        labels = (
            _k_means(encode([prompts[i].text for i in members]), k, seed) if k > 1 else [0] * len(members)
        )
        kind, category, split = group
        for i, label in zip(members, labels, strict=True):
            names[i] = (kind, category, f"k-means {split} {label:04d}")
    number = {name: index for index, name in enumerate(sorted(set(names)))}
    return [number[name] for name in names]


def classify(
    prompts: Sequence[RawPrompt], *, encode: Encode, seed: int, sure: float = 0.5
) -> list[RawPrompt]:
    """Give unlabelled prompts a category by logistic regression on the labelled ones' embeddings.

    They become ``category_origin="classified"``; a prediction below probability ``sure`` is weak.

    Raises:
        DrirlError: there are unlabelled prompts and fewer than two categories to learn from.
    """
    unknown = [i for i, p in enumerate(prompts) if p.category == UNLABELLED]
    if not unknown:
        return list(prompts)
    known = [i for i, p in enumerate(prompts) if p.category >= 0]
    if len({prompts[i].category for i in known}) < 2:
        raise DrirlError(
            f"data.sources: {len(unknown)} prompts have no category and there are no labelled prompts of two "
            "categories to learn from; add a labelled source or write their 'category'"
        )
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)
        model.fit(encode([prompts[i].text for i in known]), [prompts[i].category for i in known])
        chances = model.predict_proba(encode([prompts[i].text for i in unknown]))  # (n, classes)
    out = list(prompts)
    for i, row in zip(unknown, chances, strict=True):
        best = int(np.argmax(row))
        out[i] = dataclasses.replace(
            prompts[i],
            category=int(model.classes_[best]),
            category_origin="classified",
            weak_map=bool(row[best] < sure),
        )
    return out
