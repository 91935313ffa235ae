"""Section ``base`` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from drirl.settings import Section

__all__ = ["BaseModelSpec", "BaseSettings", "SmallModel"]


class SmallModel(Section):
    """A small causal LM trained from scratch by the stage ``base``."""

    architecture: str = Field(description="transformers model type: llama or qwen2")
    vocab_size: int = Field(description="size of the BPE vocabulary, special tokens included")
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    context: int = Field(description="longest sequence, tokens")
    steps: int = Field(description="optimiser steps")
    batch_size: int = Field(description="sequences per step")
    lr: float = Field(description="peak learning rate (one-cycle)")
    weight_decay: float = 0.01


class BaseModelSpec(Section):
    """One base LLM: either ``path`` (hub id or folder) or ``train``."""

    path: str | None = Field(None, description="hub id or folder of a transformers model")
    revision: str | None = Field(None, description="pinned revision of a hub id")
    family: str = Field("", description="name printed in tables")
    train: SmallModel | None = None


class BaseSettings(Section):
    """The base LLMs by name."""

    models: dict[str, BaseModelSpec]
