"""The small world of the align tests, a loader of method files, and losses on given numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drirl.align.interface import find_method

from ..align.conftest import banks, make_inputs, rows

__all__ = ["Fixed", "WordVectors", "banks", "make_inputs", "method_file", "rows", "tokens"]

FOLDER = Path(__file__).resolve().parents[3] / "baselines"


@pytest.fixture(scope="session")
def method_file() -> Callable[[str], ModuleType]:
    """Return the module of a method by name."""
    import sys

    def load(name: str) -> ModuleType:
        find_method(name, FOLDER)
        return sys.modules[f"drirl_baselines.{name}"]

    return load


class Fixed:
    """Stands where a trainer calls its model: returns given log-probabilities, call after call.

    Each item is (B, L - 1), one value per token after the first; the last item answers all further calls.
    """

    def __init__(self, *log_probs: torch.Tensor) -> None:
        self.log_probs = list(log_probs)

    def __call__(self, **batch: Any) -> Any:
        values = self.log_probs.pop(0) if len(self.log_probs) > 1 else self.log_probs[0]
        nothing = torch.zeros_like(values.detach())
        return SimpleNamespace(
            log_probs=values, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool(), loss=None
        )


def tokens(rows: int, length: int = 2) -> dict[str, torch.Tensor]:
    """A batch of ``rows`` sequences of one prompt token and ``length - 1`` completion tokens."""
    mask = torch.ones(rows, length, dtype=torch.long)
    completion = mask.clone()
    completion[:, 0] = 0
    return {"input_ids": mask * 5, "attention_mask": mask, "completion_mask": completion}


class WordVectors:
    """Bag of words as unit vectors; texts without a common word are orthogonal (one axis per known word)."""

    def __init__(self) -> None:
        self.axes: dict[str, int] = {}

    def encode(self, texts: Any) -> np.ndarray:
        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().strip(".").split():
                row[self.axes.setdefault(word, len(self.axes))] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def was_cut(self, text: str) -> bool:
        return False
