"""The base class of every section of params.yaml: unknown keys are errors, values do not change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Section"]


class Section(BaseModel):
    """A frozen, typed section; pydantic checks it once, at the edge."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
