"""Hardness coefficients alpha_D, alpha_M and alpha (paper section 5) and the frozen sentence encoder.

The names below are imported on first use, so that importing the package stays light (no torch).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drirl.hardness.encoder import Encoder as Encoder
    from drirl.hardness.encoder import load_encoder as load_encoder
    from drirl.hardness.settings import HardnessSettings as HardnessSettings
    from drirl.hardness.split import split_sentences as split_sentences
    from drirl.hardness.splitter import Splitter as Splitter
    from drirl.hardness.splitter import load_splitter as load_splitter
    from drirl.hardness.state import Hardness as Hardness
    from drirl.hardness.state import HardnessBatch as HardnessBatch
    from drirl.hardness.state import load_hardness as load_hardness

__all__ = [
    "Encoder",
    "Hardness",
    "HardnessBatch",
    "HardnessSettings",
    "Splitter",
    "load_encoder",
    "load_hardness",
    "load_splitter",
    "split_sentences",
]

_HOME = {
    "Encoder": "encoder",
    "Hardness": "state",
    "HardnessBatch": "state",
    "HardnessSettings": "settings",
    "Splitter": "splitter",
    "load_encoder": "encoder",
    "load_hardness": "state",
    "load_splitter": "splitter",
    "split_sentences": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
