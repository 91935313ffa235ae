"""Several replies to one prompt in one row, so that a causal LM reads the prompt once.

The replies stand side by side after the prompt; each sees the prompt and itself only, and its positions go on
from the prompt. Rows are padded on the right; attention is causal, so padding never reaches a real token.
Dimension letters: P rows (packs), T tokens, B replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["PACK", "Pack", "lay_out"]

Pack = tuple[list[int], list[list[int]]]
"""Token ids of a prompt and of its replies."""
PACK = 8
"""Most replies that share one row."""


def lay_out(
    packs: Sequence[Pack],
    *,
    pad: int,
    device: torch.device | str,
    dtype: torch.dtype,
    context: int | None = None,
) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """Return the inputs of a causal LM, and where each reply stands: row, first token, one past the last.

    An empty reply stands at the end of its prompt and holds no token. If no pack has two replies there is no
    mask and there are no positions: the model's own causal ones do.

    Args:
        pad: token id of the padding.
        dtype: number format of the mask, that of the model's weights.
        context: most tokens of a prompt with one reply; the rest of a reply is cut off. None: nothing is.
    Returns:
        ``input_ids`` (P, T), ``position_ids`` (P, T) or None, and with two replies in any pack
        ``attention_mask`` (P, 1, T, T), 0 where a token is seen; B triples, pack after pack.
    """
    rows: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    spans: list[tuple[int, int, int]] = []
    for prompt, replies in packs:
        row, place, segment = [*prompt], [*range(len(prompt))], [0] * len(prompt)
        for k, whole in enumerate(replies, 1):
            reply = whole if context is None else whole[: context - len(prompt)]
            row += reply
            place += range(len(prompt), len(prompt) + len(reply))
            segment += [k] * len(reply)
            stop = len(row) if reply else len(prompt)
            spans.append((len(rows), stop - len(reply), stop))
        rows.append(row)
        positions.append(place)
        segments.append(segment)
    width = max(len(row) for row in rows)
    inputs: dict[str, Any] = {"input_ids": _padded(rows, width, pad, device), "position_ids": None}
    if any(len(replies) > 1 for _, replies in packs):
        inputs["position_ids"] = _padded(positions, width, 0, device)
        own = _padded(segments, width, -1, device)  # (P, T)
        seen = (own[:, :, None] == own[:, None, :]) | (own[:, None, :] == 0)  # (P, T, T)
        seen &= torch.ones(width, width, dtype=torch.bool, device=device).tril()
        blocked = torch.zeros(seen.shape, dtype=dtype, device=device)
        blocked.masked_fill_(~seen, torch.finfo(dtype).min)
        inputs["attention_mask"] = blocked[:, None]  # (P, 1, T, T)
    return inputs, spans


def _padded(rows: Sequence[list[int]], width: int, value: int, device: torch.device | str) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device)
