"""Which category is a prompt of? A frozen sentence encoder with a calibrated linear head.

Dimension letters: n texts, C classes, d width of the encoder.

The head is a multinomial logistic regression on the unit-length sentence vectors of the train split. Its
probabilities are softmax(logits / T). Its regularisation and the temperature T are chosen on logits that each
come from a head that never saw the prompt's cluster: the train split itself is fitted too well to tell how
sure to be.
Source: paper section 10, question 7; temperature scaling: Guo et al. 2017 (arXiv:1706.04599).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError
from drirl.records import Prompt, atomic_dir, read_json, read_jsonl, write_json
from drirl.reward.reliability import reliability

__all__ = ["Encode", "Router", "train_router"]

Array = NDArray[np.float64]
Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts to (n, d) vectors."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Inverse regularisations C of the logistic regression that are tried; the last one where nothing can be
held out.
"""
FOLDS = 5
_FILES = ("router.json", "router.safetensors")


class Router:
    """Probabilities of the categories of a prompt.

    Attributes:
        classes: the categories in column order: 0..6, or -1 for a benign prompt.
        weight, bias: (C, d) and (C,), the linear head.
        temperature: T > 0.
        info: what it was made from; JSON-able, saved with it.
    """

    def __init__(
        self,
        classes: Sequence[int],
        weight: Array,
        bias: Array,
        temperature: float,
        encode: Encode,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.classes = [int(c) for c in classes]
        self.weight, self.bias = np.ascontiguousarray(weight, float), np.ascontiguousarray(bias, float)
        self.temperature = temperature
        self.encode = encode
        self.info: dict[str, Any] = dict(info or {})

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        categories: Sequence[int],
        *,
        encode: Encode,
        clusters: Sequence[int] | None = None,
        seed: int = 0,
        info: dict[str, Any] | None = None,
    ) -> Router:
        """Learn from labelled prompts.

        Args:
            texts: n prompts; categories: n labels.
            clusters: n numbers; the folds that choose C and T keep a cluster together. None: every prompt
                is its own cluster. With fewer than two clusters in a class T stays 1.
        Raises:
            DrirlError: fewer than two classes, or lengths that differ.
        """
        groups = list(range(len(texts))) if clusters is None else list(clusters)
        if not len(texts) == len(categories) == len(groups):
            raise DrirlError(
                f"expected one label and one cluster per prompt; found {len(texts)} prompts, "
                f"{len(categories)} labels, {len(groups)} clusters"
            )
        labels = np.asarray(categories, int)
        if len(set(categories)) < 2:
            raise DrirlError(
                f"a router needs prompts of at least two categories; found {sorted(set(categories))}"
            )
        vectors = np.asarray(encode(texts), float)  # (n, d)
        strength, temperature = _chosen(vectors, labels, np.asarray(groups), seed)
        classes, weight, bias = _head(vectors, labels, strength, seed)
        return cls(classes, weight, bias, temperature, encode, {**(info or {}), "strength": strength})

    def logits(self, texts: Sequence[str]) -> Array:
        """Return the head's raw scores, (n, C)."""
        return np.asarray(self.encode(texts), float) @ self.weight.T + self.bias

    def probabilities(self, texts: Sequence[str]) -> Array:
        """Return the calibrated probabilities, (n, C); every row adds up to 1."""
        return _softmax(self.logits(texts) / self.temperature)

    def categories(self, texts: Sequence[str]) -> list[int]:
        """Return the most probable category of each text (hard routing); the first of equals."""
        return [self.classes[int(k)] for k in self.probabilities(texts).argmax(1)]

    def evaluate(self, texts: Sequence[str], categories: Sequence[int]) -> dict[str, Any]:
        """Return accuracy, recall per category, mean negative log-likelihood and reliability on labelled
        prompts; a label that is no class of the router counts as wrong and has no likelihood.
        """
        chances = self.probabilities(texts)
        best = chances.argmax(1)
        right = [float(self.classes[int(k)] == c) for k, c in zip(best, categories)]
        column = {c: k for k, c in enumerate(self.classes)}
        surprise = [
            -math.log(max(row[column[c]], 1e-12)) for row, c in zip(chances, categories) if c in column
        ]
        recall = {}
        for category in sorted(set(categories)):
            mine = [hit for hit, c in zip(right, categories) if c == category]
            recall[str(category)] = {"recall": round(sum(mine) / len(mine), 4), "n": len(mine)}
        return {
            "n": len(right),
            "accuracy": round(float(np.mean(right)), 4) if right else None,
            "nll": round(float(np.mean(surprise)), 4) if surprise else None,
            "categories": recall,
            "reliability": reliability([float(row.max()) for row in chances], right),
        }

    def save(self, path: Path) -> None:
        """Write ``router.json`` and ``router.safetensors`` into a folder. Atomic."""
        from safetensors.numpy import save_file

        with atomic_dir(Path(path)) as folder:
            save_file({"weight": self.weight, "bias": self.bias}, folder / "router.safetensors")
            write_json(
                folder / "router.json",
                {"classes": self.classes, "temperature": self.temperature, "info": self.info},
            )

    @classmethod
    def load(cls, path: str | Path, encode: Encode | None = None, cache: Path | None = None) -> Router:
        """Read a folder written by :meth:`save`.

        Args:
            encode: None loads the encoder the router was made with; ``cache`` is its embedding cache.
        Raises:
            DrirlError: the folder is missing or incomplete, or the encoder gives vectors of another width.
        """
        from safetensors.numpy import load_file

        folder = Path(path)
        for name in _FILES:
            if not (folder / name).is_file():
                raise DrirlError(
                    f"{folder} is not a router: {name} is missing; run 'drirl route' in the project once"
                )
        values, tensors = read_json(folder / "router.json"), load_file(folder / "router.safetensors")
        if encode is None:
            from drirl.hardness.encoder import load_encoder

            encode = load_encoder(EncoderSettings(**values["info"].get("encoder", {})), cache).encode
        router = cls(
            values["classes"],
            tensors["weight"],
            tensors["bias"],
            values["temperature"],
            encode,
            values["info"],
        )
        width = int(np.asarray(encode(["."])).shape[1])
        if width != router.weight.shape[1]:
            raise DrirlError(
                f"{folder}: the router was made for vectors of {router.weight.shape[1]} numbers, this "
                f"encoder gives {width}; make the router again"
            )
        return router


def train_router(out: Path, encoder: EncoderSettings, *, seed: int, path: Path | None = None) -> Router:
    """Return the router of a project: the one on disk if it fits the data, else a new one, which is saved.

    Fitted on the prompts of the train split; the figures of the val split are kept in ``info``. The test
    split is not read.

    Args:
        out: folder of the stage outputs, with ``data/prompts.jsonl`` in it.
        path: folder of the router; default ``<out>/route/router``.
    Raises:
        DrirlError: the stage ``data`` has not run, or the train split has fewer than two categories.
    """
    from drirl.hardness.encoder import load_encoder

    folder = Path(path) if path else Path(out) / "route" / "router"
    source = Path(out) / "data" / "prompts.jsonl"
    prompts = [p for p in read_jsonl(source, Prompt) if p.split in ("train", "val")]
    wanted = {"encoder": encoder.model_dump(), "seed": seed, "prompts": _digest(prompts)}
    encode = load_encoder(encoder, Path(out) / "cache").encode
    if all((folder / name).is_file() for name in _FILES):
        known = Router.load(folder, encode)
        if {key: known.info.get(key) for key in wanted} == wanted:
            return known
    train = [p for p in prompts if p.split == "train"]
    router = Router.fit(
        [p.text for p in train],
        [p.category for p in train],
        encode=encode,
        clusters=[p.cluster_id for p in train],
        seed=seed,
        info=wanted,
    )
    val = [p for p in prompts if p.split == "val"]
    router.info["train_prompts"] = len(train)
    if val:
        router.info["val"] = router.evaluate([p.text for p in val], [p.category for p in val])
    router.save(folder)
    return router


def _head(vectors: Array, labels: NDArray[Any], strength: float, seed: int) -> tuple[list[int], Array, Array]:
    """Fit the logistic regression; return the classes, (C, d) weights and (C,) biases."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # the result does not depend on the machine's load
        model = LogisticRegression(C=strength, max_iter=1000, random_state=seed).fit(vectors, labels)
    weight, bias = np.asarray(model.coef_, float), np.asarray(model.intercept_, float)
    if len(weight) == 1:  # two classes: scikit-learn keeps the log-odds of the second only
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    return [int(c) for c in model.classes_], weight, bias


def _chosen(vectors: Array, labels: NDArray[Any], groups: NDArray[Any], seed: int) -> tuple[float, float]:
    """Return the (C, T) under which held-out clusters are most likely."""
    from sklearn.model_selection import StratifiedGroupKFold

    classes = sorted(set(labels.tolist()))
    folds = min(FOLDS, *(len(set(groups[labels == c].tolist())) for c in classes))
    if folds < 2:
        return STRENGTHS[-1], 1.0
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(vectors, labels, groups))
    # A fold may lack a class whose clusters all fell into the held-out part: it cannot be compared.
    parts = [(seen, held) for seen, held in parts if len(set(labels[seen].tolist())) == len(classes)]
    if not parts:
        return STRENGTHS[-1], 1.0
    index = np.searchsorted(classes, labels)
    tried = []
    for strength in STRENGTHS:
        logits, rows = [], []
        for seen, held in parts:
            _, weight, bias = _head(vectors[seen], labels[seen], strength, seed)
            logits.append(vectors[held] @ weight.T + bias)
            rows += held.tolist()
        stacked = np.concatenate(logits)
        temperature = _temperature(stacked, index[rows])
        tried.append((_surprise(stacked / temperature, index[rows]), strength, temperature))
    _, strength, temperature = min(tried)
    return strength, temperature


def _temperature(logits: Array, index: NDArray[Any]) -> float:
    """Return the T in [0.05, 20] that makes the labels most likely under softmax(logits / T).

    Args:
        logits: (n, C); index: (n,), the column of the true class.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: _surprise(logits / math.exp(log_t), index),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return float(round(math.exp(found.x), 6))


def _surprise(logits: Array, index: NDArray[Any]) -> float:
    """Return the mean negative log-likelihood of the labels, nats."""
    chances = _softmax(logits)[np.arange(len(index)), index]
    return float(-np.log(np.maximum(chances, 1e-300)).mean())


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), float)


def _digest(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(f"{p.split}\t{p.category}\t{p.cluster_id}\t{p.text}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]
