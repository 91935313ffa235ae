"""Section ``evaluate`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from drirl.settings import Section

__all__ = ["EvaluateSettings"]


class EvaluateSettings(Section):
    """What every policy is scored on, and how its completions are decoded (always greedily)."""

    tasks: list[str] = Field(min_length=1, description="task or group names found under benchmarks/")
    split: Literal["test", "val"] = Field("test", description="split of the bundled prompts; val for tuning")
    batch_size: PositiveInt = Field(64, description="prompts decoded at once")
    max_new_tokens: PositiveInt = Field(48, description="longest completion, tokens")
    max_new_tokens_by_task: dict[str, PositiveInt] = Field({}, description="other lengths, by task name")
    limit: PositiveInt | None = Field(None, description="items per task for quick runs; null: all")
    subset: dict[str, PositiveInt] = Field({}, description="fixed subsets, items by task name; others: all")
    subset_seed: int = Field(0, description="seed of the hash order that limit and subset go by")
    overlong: Literal["error", "truncate"] = Field(
        "error", description="a prompt that leaves no room for a completion: stop, or drop its beginning"
    )
    chat_template: bool = Field(True, description="false sends prompts as plain text, for models without one")
    mean_reward: bool = Field(True, description="also score completions with the category rewards")
    cache: bool = Field(True, description="keep scores under cache/scores of run.out; skip what is known")
