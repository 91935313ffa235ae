"""Sample token ids from a causal LM: shared prompts are read once, finished rows leave the batch.

The same distribution as ``model.generate(do_sample=True)``. What it saves is work: G copies of a prompt share
one prefill, a row that has ended costs nothing any more, and a token is drawn by inverting the cumulative
distribution instead of one exponential variate per vocabulary entry.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

__all__ = ["draw", "sample_ids"]

_COMPACT_SHARE = 0.125
"""Rows leave the batch once this share of it has ended: moving the cache costs about one decoding step."""


def draw(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Draw one index per row from ``softmax(logits / temperature)``, limited to the nucleus ``top_p``.

    Args:
        logits: (B, V) raw scores.
        temperature: above 0.
        top_p: in (0, 1]; the smallest set of tokens whose probability reaches it.
    Returns:
        (B,) indices, drawn with torch's global random state.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)  # (B, V)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.double().cumsum(-1)  # (B, V); double: no token is lost to rounding
    point = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp_(max=logits.shape[-1] - 1)


@torch.no_grad()
def sample_ids(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    pad_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    logps: list[list[float]] | None = None,
) -> list[list[int]]:
    """Sample one completion for every row of ``prompt_ids``; equal rows share their prefill.

    Args:
        model: a transformers causal LM; evaluation mode while sampling.
        prompt_ids: B prompts as token ids; give a prompt G times for G completions.
        end_ids: a completion ends with the first of these, which is kept as its last token.
        logps: a list to fill with the log-probabilities of each completion's tokens at ``temperature``.
    Returns:
        B lists of at most ``max_new_tokens`` ids. A completion whose last id is no end id was cut off.
    """
    was_training = model.training
    model.eval()
    try:
        return _sample(model, prompt_ids, max_new_tokens, sorted(end_ids), pad_id, temperature, top_p, logps)
    finally:
        model.train(was_training)


def _sample(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: list[int],
    pad_id: int,
    temperature: float,
    top_p: float,
    logps: list[list[float]] | None,
) -> list[list[int]]:
    device = model.device
    unique = {tuple(ids): None for ids in prompt_ids}
    place = {ids: i for i, ids in enumerate(unique)}
    width = max(len(ids) for ids in unique)
    tokens = torch.full((len(unique), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(unique), width, dtype=torch.long)
    for i, ids in enumerate(unique):  # left padding
        tokens[i, width - len(ids) :] = torch.tensor(ids)
        mask[i, width - len(ids) :] = 1
    tokens, mask = tokens.to(device), mask.to(device)
    position = (mask.cumsum(-1) - 1).clamp_(min=0)
    cache = DynamicCache(config=model.config)
    out = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows = torch.tensor([place[tuple(ids)] for ids in prompt_ids], device=device)  # (B,)
    if len(unique) < len(prompt_ids):
        cache.batch_select_indices(rows)
    logits, mask, position = out.logits[:, -1][rows], mask[rows], position[rows, -1:]
    end = torch.tensor(end_ids, device=device)
    results = torch.full((len(prompt_ids), max_new_tokens), -1, dtype=torch.long, device=device)
    scores = torch.zeros(results.shape, device=device)
    owner = torch.arange(len(prompt_ids), device=device)  # the result row of each row still in the batch
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        token = draw(logits, temperature, top_p)  # (rows,)
        results[owner, step] = torch.where(alive, token, results[owner, step])
        if logps is not None:
            chosen = torch.log_softmax(logits.float() / temperature, dim=-1).gather(-1, token[:, None])
            scores[owner, step] = chosen.squeeze(-1)
        alive = alive & ~torch.isin(token, end)
        ended = len(alive) - int(alive.sum())
        if ended == len(alive) or step + 1 == max_new_tokens:
            break
        if ended >= _COMPACT_SHARE * len(alive):
            keep = alive.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            token, mask, position, owner, alive = (
                token[keep],
                mask[keep],
                position[keep],
                owner[keep],
                alive[keep],
            )
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position + 1
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    found = [[token for token in row if token >= 0] for row in results.tolist()]
    if logps is not None:
        logps += [row[: len(ids)] for row, ids in zip(scores.tolist(), found, strict=True)]
    return found
