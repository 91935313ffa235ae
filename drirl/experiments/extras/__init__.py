"""Further sections of the pages, by name; each takes what was gathered and the folder of the page."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from drirl.errors import DrirlError, nearest

if TYPE_CHECKING:
    from drirl.experiments.gather import Gathered
    from drirl.experiments.page import Section

__all__ = ["SECTIONS", "build"]

SECTIONS = {
    "alpha_correlations": "hardness",
    "alpha_curves": "hardness",
    "alpha_histograms": "histogram",
    "alpha_spread": "hardness",
    "blind_pairs": "pairs",
    "categories_figure": "drawing",
    "cost_accounting": "cost",
    "delta_ranks": "hardness",
    "diversity": "variety",
    "draft_tokens": "drafting",
    "entropy": "variety",
    "hyper_parameters": "values",
    "latency": "reranking",
    "real_pairs": "sources",
    "refusal_order": "order",
    "reward_accuracy": "rewards",
    "reward_cost": "rewards",
    "reward_iterations": "rewards",
    "router": "routing",
    "scoring_cost": "cost",
    "tail_rewards": "rewards",
    "tradeoff_figure": "drawing",
    "training_health": "hardness",
    "tuning_grid": "tuning",
}
"""Section -> module of this folder that defines a function of that name."""


def build(name: str, found: Gathered, target: Path) -> Section:
    """Return a section.

    Raises:
        DrirlError: unknown section.
    """
    if name not in SECTIONS:
        raise DrirlError(f"unknown section '{name}'; {nearest(name, SECTIONS)}")
    module = importlib.import_module(f"drirl.experiments.extras.{SECTIONS[name]}")
    section: Section = getattr(module, name)(found, target)
    return section
