"""Section ``compare`` of params.yaml."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from drirl.settings import Section

__all__ = ["CompareSettings"]


class CompareSettings(Section):
    """How tables and figures are made from records."""

    reports: Path = Field(Path("reports"), description="folder the tables and figures go to")
    reference: str = Field("grpo_irl", description="method others are compared with")
    bootstrap: int = Field(2000, ge=100, description="bootstrap draws")
    confidence: float = Field(0.95, gt=0, lt=1)
    allow_uneven: bool = Field(False, description="accept cells whose seeds are not run.seeds")
    published: Path = Field(Path("reports/published.csv"), description="published values, with sources")
    test_looks: Path = Field(Path("docs/test_looks.yaml"), description="when the test split was looked at")
