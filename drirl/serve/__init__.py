"""Rewards at inference: route prompts without a label to a category, and pick the best of N completions.

The names below are imported on first use, so that importing the package stays light (no torch).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drirl.serve.rerank import Reranker as Reranker
    from drirl.serve.routed import RoutedReward as RoutedReward
    from drirl.serve.routed import routed_reward as routed_reward
    from drirl.serve.router import Router as Router
    from drirl.serve.router import train_router as train_router

__all__ = ["Reranker", "RoutedReward", "Router", "routed_reward", "train_router"]

_HOME = {
    "Reranker": "rerank",
    "RoutedReward": "routed",
    "Router": "router",
    "routed_reward": "routed",
    "train_router": "router",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
