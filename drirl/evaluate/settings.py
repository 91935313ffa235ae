"""Section ``evaluate`` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from drirl.settings import Section

__all__ = ["EvaluateSettings"]


class EvaluateSettings(Section):
    """What every policy is scored on."""

    tasks: list[str] = Field(description="task or group names found under benchmarks/")
    batch_size: int = Field(64, gt=0)
    max_new_tokens: int = Field(48, gt=0, description="longest completion of the bundled tasks")
    limit: int | None = Field(None, description="items per task for quick runs; None: all")
    mean_reward: bool = Field(True, description="also score completions with the category rewards")
