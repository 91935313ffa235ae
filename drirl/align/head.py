"""Log-probabilities of completion tokens only, where TRL would compute them for every position.

TRL's fused head skips masked positions on Triton devices but scores all of them on a CPU. On a small model
the output head is most of the work, and prompts and padding are most of the positions: leaving them out makes
an update about a fifth cheaper. Same numbers up to rounding; ``tests/unit/align/test_head.py`` holds both
together.
"""

from __future__ import annotations

from functools import wraps
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

__all__ = ["selected_logps", "use_compact_head"]


def selected_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-probability of each target and the entropy of its distribution.

    Args:
        hidden: (N, D) last hidden states at the positions that predict the targets.
        weight: (V, D) output embedding.
        targets: (N,) token ids.
    Returns:
        (N,) log-probabilities, with gradient, and (N,) entropies in nats, without.
    """
    logps = torch.log_softmax(hidden.float() @ weight.float().T / temperature, dim=-1)  # (N, V)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)  # (N,)
    return logps.gather(-1, targets[:, None]).squeeze(-1), entropy


def use_compact_head(model: Any, temperature: float) -> None:
    """Answer ``model(..., labels=..., fused_lm_head=True)``, TRL's request, from labelled positions only.

    Any other call is passed on. For plain output heads: a bias, soft-capping or scaled logits keep TRL's
    path.
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
    inner = model.forward

    @wraps(type(model).forward)  # generate() reads the signature
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if not fused_lm_head or labels is None or kwargs.get("output_router_logits"):
            if fused_lm_head:
                kwargs["fused_lm_head"] = True
            if labels is not None:
                kwargs["labels"] = labels
            return inner(*args, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1]  # (B, L-1, D)
        targets = labels[:, 1:]
        scored = targets != -100
        logps, entropy = selected_logps(
            hidden[scored], self.get_output_embeddings().weight, targets[scored], temperature
        )
        shape = targets.shape
        return SimpleNamespace(
            log_probs=logps.new_zeros(shape).masked_scatter(scored, logps),
            entropy=entropy.new_zeros(shape).masked_scatter(scored, entropy),
            loss=-logps.sum() / scored.sum().clamp(min=1),
            aux_loss=None,
        )

    model.forward = MethodType(forward, model)
