"""Section ``reward`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drirl.settings import Section

__all__ = ["RewardSettings"]


class RewardSettings(Section):
    """Maximum-likelihood IRL (docs/paper.md section 4)."""

    sharing: Literal["heads"] = Field("heads", description="one trunk with a linear head per category")
    iterations: int = Field(2, ge=1, description="outer IRL iterations T_irl")
    samples: int = Field(2, ge=1, description="policy completions per prompt, K")
    loss: Literal["logistic"] = "logistic"
    update: Literal["reweight", "grpo", "none"] = Field("reweight", description="policy update between iterations")
    beta: float = Field(1.0, gt=0, description="temperature of the IRL policy in reward units")
    penalty: float = Field(1e-3, ge=0, description="weight of mean(r(y)^2 + r(y~)^2)")
    lr: float = Field(5e-4, gt=0)
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(48, gt=0, description="pairs per optimiser step")
    hard_negatives: int = Field(1, ge=0, description="hard negatives per prompt and iteration")
    max_new_tokens: int = Field(40, gt=0)
    input_mode: Literal["answer", "full"] = "answer"
