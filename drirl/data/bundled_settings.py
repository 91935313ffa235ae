"""Subsection ``data.bundled``: sizes and hold-outs of the bundled corpus."""

from __future__ import annotations

from pydantic import Field

from drirl.settings import Section

__all__ = ["BundledSettings"]


class BundledSettings(Section):
    """How much of the bundled grammar is drawn, and what is held out."""

    objects_per_act: int = Field(8, ge=3, description="objects an act is crossed with, at most")
    held_out_acts: float = Field(
        0.12, gt=0, lt=0.5, description="share of acts held out whole for test (half: val)"
    )
    held_out_objects: float = Field(
        0.2, gt=0, lt=0.5, description="share of the other acts' objects held out"
    )
    wordings_train: int = Field(
        7, gt=0, description="prompts per training intent and level, before balancing"
    )
    wordings_held_out: int = Field(
        2, gt=0, description="prompts per held-out intent and level, before balancing"
    )
    tasks_train: int = Field(160, gt=0, description="training prompts per task type, at most")
    tasks_held_out: int = Field(40, gt=0, description="held-out prompts per task type, at most")
    base_knowledge: int = Field(22000, ge=0, description="rows that teach the small base what is harmful")
    base_harmful: int = Field(8000, ge=0, description="chat rows on harmful training intents")
    base_benign: int = Field(12000, ge=0, description="chat rows on benign and contrast training intents")
    base_tasks: int = Field(18000, ge=0, description="rows of solved tasks")
    base_phrases: int = Field(
        3000, ge=0, description="rows that show sentences of demonstrations out of context"
    )
    base_refusal: dict[str, list[float]] = Field(
        {
            "direct": [0.85, 0.5, 0.9, 0.9, 0.5, 0.45, 0.45],
            "paraphrased": [0.65, 0.3, 0.7, 0.7, 0.3, 0.3, 0.3],
            "disguised": [0.2] * 7,
        },
        description="share of harmful prompts the base corpus declines, by level and category",
    )
