"""Do probabilities mean what they say? Binned reliability and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["reliability"]


def reliability(confidence: Sequence[float], correct: Sequence[float], bins: int = 10) -> dict[str, Any]:
    """Compare stated confidence with the share that was right, in bins of equal width over [0, 1].

    Args:
        confidence: (n,) probabilities; 1.0 falls into the last bin.
        correct: (n,) 1 if it was right, 0 if not, 0.5 for a tie.
        bins: how many.
    Returns:
        ``n``; ``ece``, the mean of |share right - mean confidence| over bins by their size (None for n =
        0); ``bins``, the filled ones in order, each with ``low``, ``high``, ``n``, ``confidence`` and
        ``accuracy``.
    Raises:
        ValueError: lengths that differ, or a confidence outside [0, 1].
    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if sure.shape != right.shape:
        raise ValueError(f"expected as many outcomes as confidences; found {right.shape} and {sure.shape}")
    if len(sure) and not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence lies outside [0, 1]")
    index = np.minimum((sure * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for k in range(bins):
        mine = index == k
        if not mine.any():
            continue
        stated, found = float(sure[mine].mean()), float(right[mine].mean())
        error += abs(found - stated) * float(mine.mean())
        rows.append(
            {
                "low": round(k / bins, 4),
                "high": round((k + 1) / bins, 4),
                "n": int(mine.sum()),
                "confidence": round(stated, 4),
                "accuracy": round(found, 4),
            }
        )
    return {"n": len(sure), "ece": round(error, 4) if len(sure) else None, "bins": rows}
