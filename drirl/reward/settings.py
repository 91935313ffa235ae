"""Section ``reward`` of params.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drirl.settings import Section

__all__ = ["AdapterSettings", "ImplicitSettings", "PolicyUpdate", "RewardSettings", "StaticSettings"]


class AdapterSettings(Section):
    """The LoRA adapters of ``sharing: adapters``; no dropout."""

    rank: int = Field(16, gt=0, description="rank of every adapter")
    alpha: int = Field(32, gt=0, description="LoRA alpha: an adapter is scaled by alpha / rank")
    targets: str = Field(
        "all-linear", description="layers with an adapter: all-linear, or a pattern their names match"
    )


class ImplicitSettings(Section):
    """The policy-as-reward of ``loss: implicit``."""

    beta: float = Field(0.1, gt=0, description="beta_i: reward per nat of the log-ratio to pi_ref")
    lr: float = Field(2e-4, gt=0, description="peak learning rate, in place of reward.lr")


class PolicyUpdate(Section):
    """The short policy update between two outer iterations (method (b): a few GRPO steps on the reward)."""

    steps: int = Field(25, gt=0, description="optimiser steps from the reference policy")
    prompts: int = Field(14, gt=0, description="prompts per step, spread evenly over the heads")
    group_size: int = Field(6, ge=2, description="completions per prompt")
    lr: float = Field(6e-4, gt=0)
    beta: float = Field(
        0.04, ge=0, description="KL coefficient to the reference policy; 0: no reference pass"
    )


class StaticSettings(Section):
    """The one Bradley-Terry reward that plain GRPO and PPO use; fitted once, never refreshed."""

    steps: int = Field(240, gt=0, description="optimiser steps")
    refusal_pairs: bool = Field(True, description="benign prompts: a refusal is the rejected reply")


class RewardSettings(Section):
    """Maximum-likelihood IRL (docs/paper.md section 4)."""

    sharing: Literal["heads", "adapters", "separate", "single"] = Field(
        "heads",
        description="one trunk with a linear head per category, with an adapter per category, a full model "
        "per category, or one reward for everything",
    )
    adapters: AdapterSettings = AdapterSettings()
    iterations: int = Field(2, ge=1, description="outer IRL iterations, T_irl")
    keep_iterations: bool = Field(
        False, description="keep every finished outer iteration, for rewards that begin alike"
    )
    prompts_per_category: int | None = Field(
        None, gt=0, description="training prompts a harm category adds to an iteration; None: all"
    )
    benign_prompts: int | None = Field(None, gt=0, description="the same for benign and contrast prompts")
    task_prompts: int | None = Field(None, gt=0, description="the same for tasks")
    samples: int = Field(2, ge=1, description="policy completions per prompt and iteration, K")
    replay: int = Field(1, ge=0, description="negatives kept per prompt from earlier iterations' samples")
    safe_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of a policy sample that is itself good but no copy of the demonstration",
    )
    near_duplicate: float = Field(
        0.95, gt=0, le=1, description="a good sample with this word cosine to the demonstration has weight 0"
    )
    hard_negatives: int = Field(2, ge=0, description="hard negatives per prompt and iteration")
    wrong_answers: int = Field(3, ge=0, description="made-up wrong answers per task and iteration")
    loss: Literal["logistic", "infonce", "implicit"] = Field(
        "logistic", description="implicit: the log-ratio of a policy is the reward (IRFT, SPIN)"
    )
    implicit: ImplicitSettings = ImplicitSettings()
    anchor: bool = Field(
        False,
        description="measure margins relative to the reward of the sampling policy (exact)",
    )
    update: Literal["grpo", "reweight", "none"] = Field(
        "grpo", description="policy update between iterations"
    )
    beta: float = Field(1.0, gt=0, description="temperature of the IRL policy in reward units")
    penalty: float = Field(1e-3, ge=0, description="weight of the regulariser")
    penalty_form: Literal["each", "sum"] = Field(
        "each", description="each: mean(r(y)^2 + r(y~)^2); sum: mean((r(y) + r(y~))^2)"
    )
    lr: float = Field(5e-4, gt=0, description="peak learning rate (short warm-up, then cosine to a tenth)")
    weight_decay: float = Field(0.01, ge=0)
    steps: int = Field(150, gt=0, description="optimiser steps of one fit")
    batch_prompts: int = Field(
        24, gt=0, description="prompts (each with all its negatives) per optimiser step"
    )
    checks: int = Field(
        4, ge=1, description="times per fit that validation accuracy is measured; the best is kept"
    )
    max_new_tokens: int = Field(40, gt=0)
    temperature: float = Field(1.0, gt=0)
    sample_batch: int = Field(192, gt=0, description="sequences decoded at once")
    input_mode: Literal["answer", "full"] = "answer"
    policy: PolicyUpdate = PolicyUpdate()
    static: StaticSettings = StaticSettings()
    report_split: Literal["val", "test"] = Field("val", description="held-out prompts of the report")
    report_pairs: int = Field(100, gt=0, description="pairs per cell of the report that are aimed for")
    report_prompts: int = Field(60, gt=0, description="held-out prompts per head drawn for the report")
    report_rounds: int = Field(4, ge=1, description="most rounds of sampling to reach report_pairs")
    bootstrap: int = Field(1000, gt=0, description="bootstrap draws of the report's intervals")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.loss == "implicit" and self.sharing in ("adapters", "separate"):
            raise ValueError(
                "loss 'implicit' has one policy for all categories and no reward network: "
                f"set sharing to heads or single, not '{self.sharing}'"
            )
        return self
