"""Section ``align`` of params.yaml."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from drirl.settings import Section

__all__ = ["AlignSettings", "Lora", "Shared"]


class Lora(Section):
    """Low-rank adapters on every linear layer but the output head; merged when the policy is saved."""

    r: int = Field(16, gt=0, description="rank")
    alpha: int = Field(32, gt=0, description="scale is alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)


class Shared(Section):
    """What every method shares, so that a comparison is fair."""

    updates: int = Field(60, gt=0, description="optimiser steps of every trained method")
    harmful_per_update: int = Field(7, gt=0, description="harmful prompts per update")
    harmful_shares: Literal["equal", "data"] = Field(
        "equal", description="shares of the categories among them: equal, or those of the training prompts"
    )
    harmful_order: Literal["mixed", "sequential"] = Field(
        "mixed",
        description="every update has all categories, or one category is trained after another (not for "
        "sacpo, self_rewarding and stair)",
    )
    benign_per_update: int = Field(7, ge=0, description="benign, contrast and task prompts per update")
    benign_reward: bool = Field(
        True,
        description="GRPO and RLOO: false leaves benign prompts the KL term alone, their reward is 0 "
        "(PPO: an error)",
    )
    benign_mix: dict[Literal["benign", "contrast", "task"], float] = Field(
        default={"benign": 3.0, "contrast": 2.0, "task": 2.0},
        description="shares of the kinds among benign_per_update; kinds the data lacks are left out",
    )
    group_size: int = Field(6, ge=2, description="completions per prompt, G")
    beta: float = Field(0.04, ge=0, description="KL coefficient to the reference policy")
    epsilon: float = Field(0.2, gt=0, description="clip range of the policy ratio")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(40, gt=0)
    max_prompt_tokens: int = Field(64, gt=0, description="a longer prompt, template included, is an error")
    schedule: Literal["constant", "linear"] = Field("constant", description="learning rate over the updates")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    micro_batch: int | None = Field(
        None, gt=0, description="sequences per forward pass; null: a whole update; smaller needs less memory"
    )
    gradient_checkpointing: bool = Field(False, description="trade time for memory")
    sampler: Literal["shared", "trl"] = Field(
        "shared", description="shared: prompts are read once per group and ended rows leave; trl: TRL's own"
    )
    lora: Lora | None = Field(None, description="null: all weights are trained")
    vllm: dict[str, Any] | None = Field(
        None, description="vllm_* options of TRL without the prefix, e.g. {mode: colocate}; null: not used"
    )


class AlignSettings(Section):
    """Shared budget and one section per method; each baseline file checks its own."""

    shared: Shared
    methods: dict[str, dict[str, Any]]
