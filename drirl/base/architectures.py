"""Small causal LMs of the families that transformers ships, by configuration only."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from drirl.base.settings import SmallModel
from drirl.errors import DrirlError, nearest

__all__ = ["build_model"]

_FAMILIES = ("llama", "qwen2", "mistral", "qwen3")


def build_model(spec: SmallModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a randomly initialised model; seed torch first.

    Raises:
        DrirlError: an architecture that is not one of the families this was written for.
    """
    if spec.architecture not in _FAMILIES:
        raise DrirlError(
            f"base: unknown architecture '{spec.architecture}'; {nearest(spec.architecture, _FAMILIES)}"
        )
    config = AutoConfig.for_model(
        spec.architecture,
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config)
