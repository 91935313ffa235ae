"""The small world of the align tests, and a loader of method files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from drirl.align.interface import find_method

from ..align.conftest import banks, make_inputs, rows

__all__ = ["banks", "make_inputs", "method_file", "rows"]

FOLDER = Path(__file__).resolve().parents[3] / "baselines"


@pytest.fixture(scope="session")
def method_file() -> Callable[[str], ModuleType]:
    """Return the module of a method by name."""
    import sys

    def load(name: str) -> ModuleType:
        find_method(name, FOLDER)
        return sys.modules[f"drirl_baselines.{name}"]

    return load
