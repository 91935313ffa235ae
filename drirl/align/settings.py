"""Section ``align`` of params.yaml."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drirl.settings import Section

__all__ = ["AlignSettings", "Shared"]


class Shared(Section):
    """What every method shares, so that a comparison is fair."""

    updates: int = Field(60, gt=0, description="optimiser steps of every trained method")
    harmful_per_update: int = Field(7, gt=0, description="harmful prompts per update, equal per category")
    benign_per_update: int = Field(7, ge=0, description="benign, contrast and task prompts per update")
    group_size: int = Field(6, ge=2, description="completions per prompt, G")
    beta: float = Field(0.04, ge=0, description="KL coefficient to the reference policy")
    epsilon: float = Field(0.2, gt=0, description="clip range of the policy ratio")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(40, gt=0)
    max_prompt_tokens: int = Field(64, gt=0)


class AlignSettings(Section):
    """Shared budget and one section per method; each baseline file checks its own."""

    shared: Shared
    methods: dict[str, dict[str, Any]]
