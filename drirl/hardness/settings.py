"""Settings of the hardness coefficient; the section ``hardness`` inside a method's section of params.yaml."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from drirl.data.generator_settings import GeneratorSettings
from drirl.settings import Section

__all__ = ["HardnessSettings"]


class HardnessSettings(Section):
    """How alpha = alpha_D * alpha_M is computed (paper section 5); the defaults are the default reading."""

    similarity: Literal["sub_sentences", "simple_cosine"] = Field(
        "sub_sentences", description="compare piece by piece, or whole replies with one cosine"
    )
    direction: Literal["gen_to_demo", "demo_to_gen", "symmetric"] = Field(
        "gen_to_demo", description="whose pieces look for their best match; symmetric: mean of both"
    )
    min_words: int = Field(3, ge=1, description="pieces with fewer words join a neighbour")
    max_pieces: int = Field(16, ge=1, description="pieces kept of one reply, from its start")
    splitter: Literal["rules", "llm"] = Field(
        "rules", description="what splits replies: rules, or the LLM of 'generator'"
    )
    generator: GeneratorSettings | None = Field(
        None,
        description="splitter llm: as data.generator; greedy, one text at a time, "
        "so its cache, exemplars, temperature, top_p and batch_size are not used",
    )
    combine: Literal["product", "weighted_sum", "only_D", "only_M", "off"] = Field(
        "product", description="how alpha_D and alpha_M make alpha; off: alpha = 1"
    )
    weight: float | None = Field(
        None, ge=0, le=1, description="lambda of weighted_sum: lambda * alpha_D + (1 - lambda) * alpha_M"
    )
    control: Literal["none", "inverse", "shuffled", "constant"] = Field(
        "none", description="ablation arm: 1/alpha, alpha permuted in the batch, batch mean of alpha for all"
    )
    per_completion: bool = Field(False, description="alpha of each completion instead of each prompt")
    recentre: bool = Field(False, description="per_completion only: scaled advantages of a group sum to 0")
    mask: Literal["quantile", "fixed", "gaussian_sampling"] = Field(
        "quantile", description="which reward gaps count as outliers for alpha_M"
    )
    mask_share: float = Field(
        0.2, ge=0, lt=1, description="share masked by quantile and gaussian_sampling (rounded down)"
    )
    tau: float | None = Field(None, ge=0, description="mask fixed: largest squared deviation that is kept")
    drop_masked: bool = Field(False, description="masked completions also leave the policy loss")
    delta_mean: Literal["on", "off", "frozen"] = Field(
        "on",
        description="running mean of delta; off: batch mean; frozen: mean of the first batch, "
        "whose policy is the reference",
    )
    gap_mean: Literal["on", "off", "frozen"] = Field(
        "on", description="running mean of the reward gap; off and frozen as in delta_mean"
    )
    gap_update: Literal["unfiltered", "filtered"] = Field(
        "unfiltered", description="batch mean that feeds the running mean of the gap"
    )
    gamma: float = Field(0.9, ge=0, lt=1, description="share of the old value kept by a running mean")
    clamp_low: float = Field(0.25, gt=0, le=1, description="smallest alpha")
    clamp_high: float = Field(4.0, ge=1, description="largest alpha")

    @field_validator("delta_mean", "gap_mean", mode="before")
    @classmethod
    def _unquoted(cls, value: Any) -> Any:
        # YAML 1.1 reads an unquoted on or off as a boolean.
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.similarity == "simple_cosine" and self.direction != "gen_to_demo":
            raise ValueError("simple_cosine has no direction; remove 'direction'")
        if self.similarity == "simple_cosine" and self.splitter == "llm":
            raise ValueError("simple_cosine splits nothing; set splitter: rules")
        if (self.splitter == "llm") != (self.generator is not None):
            raise ValueError("'generator' is set if, and only if, splitter is llm")
        if self.generator is not None and self.generator.kind == "none":
            raise ValueError("'generator' names no LLM: set its kind to transformers or server")
        if (self.combine == "weighted_sum") != (self.weight is not None):
            raise ValueError("'weight' is set if, and only if, combine is weighted_sum")
        if (self.mask == "fixed") != (self.tau is not None):
            raise ValueError("'tau' is set if, and only if, mask is fixed")
        if self.recentre and not self.per_completion:
            raise ValueError("'recentre' needs per_completion: true (one alpha per prompt keeps the sum 0)")
        if self.control != "none" and self.combine == "off":
            raise ValueError("combine off leaves alpha = 1, so 'control' must be none")
        if self.gap_mean != "on" and self.gap_update == "filtered":
            raise ValueError("'gap_update: filtered' needs gap_mean: on")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Records and checkpoints of runs that split by rule stay as they were before there was a choice.
        values: dict[str, Any] = handler(self)
        if self.splitter == "rules":
            del values["splitter"], values["generator"]
        return values
