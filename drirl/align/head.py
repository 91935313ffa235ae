"""Log-probabilities of completion tokens without the padding, for training on a CPU.

TRL scores every position of the padded batch there (on Triton devices it skips masked ones in the output
head). On a small model that is most of the work: prompts differ in length and are the same for a whole group,
completions end early. Here completions of one prompt share a row (:mod:`drirl.packs`), rows are grouped by
length, and only labelled positions reach the output head. Same numbers up to rounding;
``tests/unit/align/test_head.py`` holds both together. B rows, L columns, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from drirl.packs import PACK, Pack, lay_out

__all__ = ["length_groups", "packed_rows", "selected_logps", "use_compact_head"]

_ROWS = 24
"""Rows of a group: fewer leave less padding, but make small and many matrix products."""
_TOKENS = 1200
"""Tokens of a group of packs, padding included, at most (or one pack)."""


def length_groups(ids: Tensor, mask: Tensor, rows: int = _ROWS) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the rows of a padded batch in groups of similar length, shifted left to start with a token.

    Args:
        ids, mask: (B, L); the tokens of a row are contiguous, with padding on either side.
        rows: most rows of a group.
    Yields:
        indices of the group's rows in the batch (b,), their ids (b, W) and mask (b, W), W the longest of
        them.
    """
    lengths = mask.sum(1)  # (B,)
    for group in lengths.argsort(stable=True).split(rows):
        width = max(1, int(lengths[group].max()))
        start = mask[group].argmax(1, keepdim=True)  # (b, 1) column of the first token
        columns = (start + torch.arange(width, device=ids.device)).clamp(max=ids.shape[1] - 1)  # (b, W)
        inside = torch.arange(width, device=ids.device) < lengths[group, None]
        yield group, ids[group].gather(1, columns) * inside, inside.to(mask.dtype)


def selected_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, facts: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return log-probability of each target, and what TRL logs about its distribution.

    Args:
        hidden: (N, D) last hidden states at the positions that predict the targets.
        weight: (V, D) output embedding.
        targets: (N,) token ids.
        facts: False leaves the second value empty.
    Returns:
        (N,) log-probabilities, with gradient; without gradient (N,) each: ``entropy`` in nats,
        ``mean_logits``, and ``is_top1``, whether the target is the likeliest token.
    """
    logits = hidden.float() @ weight.float().T / temperature  # (N, V)
    logps = torch.log_softmax(logits, dim=-1)
    chosen = logps.gather(-1, targets[:, None]).squeeze(-1)
    if not facts:
        return chosen, {}
    with torch.no_grad():
        return chosen, {
            "entropy": -(logps.exp() * logps).sum(-1),
            "mean_logits": logits.mean(-1),
            "is_top1": logits.argmax(-1) == targets,
        }


def packed_rows(ids: Tensor, mask: Tensor, scored: Tensor) -> tuple[list[Pack], list[list[int]]]:
    """Join the rows of a padded batch that start alike, as packs.

    Args:
        ids, mask: (B, L), as in :func:`length_groups`.
        scored: (B, L) the tokens that are scored, the last ones of each row; a row without any is left out.
    Returns:
        Packs, the shortest first, and the rows of the batch that each holds, in order.
    """
    where: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    counts = scored.sum(1).tolist()
    for row, (tokens, inside) in enumerate(zip(ids.tolist(), mask.bool().tolist(), strict=True)):
        if counts[row]:
            kept = [token for token, real in zip(tokens, inside, strict=True) if real]
            split = len(kept) - counts[row]
            where.setdefault(tuple(kept[:split]), []).append((row, kept[split:]))
    joined = [
        (([*prompt], [reply for _, reply in part]), [row for row, _ in part])
        for prompt, members in where.items()
        for start in range(0, len(members), PACK)
        for part in [members[start : start + PACK]]
    ]
    joined.sort(key=lambda entry: (_length(entry[0]), entry[1]))
    return [pack for pack, _ in joined], [rows for _, rows in joined]


def _length(pack: Pack) -> int:
    return len(pack[0]) + sum(len(reply) for reply in pack[1])


def use_compact_head(model: Any, temperature: float = 1.0, facts: bool = True) -> None:
    """Answer ``model(..., labels=..., fused_lm_head=True)``, TRL's request, without the padding.

    Any other call is passed on. For plain output heads: a bias, soft-capping or scaled logits keep TRL's
    path; and for full attention in every layer.

    Args:
        facts: False: log-probabilities alone, all that TRL reads of a reference policy.
    """
    head = model.get_output_embeddings()
    scaled = (
        "final_logit_softcapping",
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
    )
    text_config = model.config.get_text_config()
    if head is None or head.bias is not None or any(getattr(text_config, name, None) for name in scaled):
        return
    layers = getattr(text_config, "layer_types", None) or ["full_attention"]
    if set(layers) != {"full_attention"} or (
        getattr(text_config, "layer_types", None) is None and getattr(text_config, "sliding_window", None)
    ):
        return
    inner = model.forward

    @wraps(type(model).forward)  # generate() reads the signature
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any
    ) -> Any:
        plain = kwargs.get("input_ids") is not None and kwargs.get("attention_mask") is not None
        if not (fused_lm_head and labels is not None and plain) or kwargs.get("output_router_logits"):
            if fused_lm_head:
                kwargs["fused_lm_head"] = True
            if labels is not None:
                kwargs["labels"] = labels
            return inner(*args, **kwargs)
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        scored = (labels != -100) & (mask == 1)  # (B, L)
        scored[:, 1:] &= mask[:, :-1] == 1  # a row's first token has nothing to predict it
        scored[:, 0] = False
        real = mask == 1
        after = (scored.int().cumsum(1) > 0) & real  # (B, L) from a row's first scored token on
        if not scored.any() or not torch.equal(after, scored):  # nothing to score, or gaps in it
            return inner(*args, **kwargs, labels=labels, fused_lm_head=True)
        packs, members = packed_rows(ids, mask, scored)
        first = scored.int().argmax(1).tolist()  # column of a row's first scored token
        hidden, places = [], []
        at = 0
        while at < len(packs):
            end = at + 1
            while end < len(packs) and _length(packs[end]) * (end + 1 - at) <= _TOKENS:
                end += 1
            group = packs[at:end]
            inputs, spans = lay_out(group, pad=0, device=ids.device, dtype=self.dtype)
            states = self.base_model(**inputs, use_cache=False).last_hidden_state  # (P, T, D)
            before, targets = [], []
            for (pack, start, stop), row in zip(spans, [r for m in members[at:end] for r in m], strict=True):
                before += [(pack, len(group[pack][0]) - 1), *((pack, t) for t in range(start, stop - 1))]
                targets += [row * scored.shape[1] + first[row] + k for k in range(stop - start)]
            pack_index, token_index = torch.tensor(before, device=ids.device).unbind(1)
            hidden.append(states[pack_index, token_index])
            places.append(torch.tensor(targets, device=ids.device))
            at = end
        place = torch.cat(places)  # (N,) position in the flattened batch
        head = self.get_output_embeddings().weight
        logps, about = selected_logps(torch.cat(hidden), head, labels.reshape(-1)[place], temperature, facts)
        return SimpleNamespace(
            log_probs=_spread(logps, place, scored),
            label_mask=scored[:, 1:],
            loss=-logps.sum() / max(1, len(place)),
            aux_loss=None,
            **{name: _spread(values, place, scored) for name, values in about.items()},
        )

    model.forward = MethodType(forward, model)


def _spread(values: Tensor, place: Tensor, scored: Tensor) -> Tensor:
    """Put (N,) values at their places in a (B, L - 1) tensor of zeros: column t belongs to token t + 1."""
    flat = values.new_zeros(scored.numel()).index_put((place,), values)
    return flat.view(scored.shape)[:, 1:]
