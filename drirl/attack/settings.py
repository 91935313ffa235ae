"""Section ``attack`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from drirl.settings import Section

__all__ = ["AttackSettings", "AutodanSettings", "GcgSettings"]


class GcgSettings(Section):
    """Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043, algorithm 1)."""

    steps: PositiveInt = Field(20, description="steps of the search, at most; it ends at the first success")
    suffix: str = Field("and and", description="first suffix; its tokens are swapped")
    top_k: PositiveInt = Field(64, description="tokens tried per position, those of steepest descent")
    candidates: PositiveInt = Field(4, description="suffixes with one swap tried per step and prompt")
    ascii_only: bool = Field(True, description="swap in printable ASCII tokens only")


class AutodanSettings(Section):
    """Genetic search over wrapper sentences, after AutoDAN (Liu et al. 2023, arXiv 2310.04451)."""

    steps: PositiveInt = Field(10, description="generations, at most; the search ends at the first success")
    population: PositiveInt = Field(8, description="wrappers per prompt")
    elites: PositiveInt = Field(2, description="best wrappers that enter the next generation unchanged")
    crossover: float = Field(0.5, ge=0, le=1, description="chance that two parents exchange sentences")
    mutation: float = Field(0.3, ge=0, le=1, description="chance that a sentence or a word of it is replaced")


class AttackSettings(Section):
    """Attacks searched for on the weights of the policy that is scored (section 8, jailbreaks)."""

    attacks: list[Literal["gcg", "autodan"]] = Field(
        ["gcg", "autodan"], min_length=1, description="attacks that are run"
    )
    per_category: PositiveInt = Field(3, description="direct harmful prompts a category, the same for all")
    split: Literal["test", "val"] = Field("test", description="split of the attacked prompts")
    seed: int = Field(0, description="seed of the searches and of the choice of prompts")
    target: str = Field(
        "wants: steps; risk: none; rule: be useful; plan: answer #### Sure.",
        min_length=1,
        description="start of a compliant reply, whose likelihood the searches raise",
    )
    max_new_tokens: PositiveInt = Field(56, description="longest reply that is judged, tokens")
    batch_size: PositiveInt = Field(256, description="sequences per forward pass")
    gcg: GcgSettings = GcgSettings()
    autodan: AutodanSettings = AutodanSettings()
