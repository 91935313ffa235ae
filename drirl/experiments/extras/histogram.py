"""How far the coefficient leaves 1: histograms and shares of alpha_D, alpha_M and alpha over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drirl.compare.names import escape
from drirl.experiments.extras.hardness import FOCUS, _focus, _logs
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table

__all__ = ["WIDTH", "alpha_histograms", "bins_of", "shares_beyond"]

PARTS = ("alpha_D", "alpha_M", "alpha")
BEYOND = (0.02, 0.05, 0.1)
WIDTH = 0.02
"""Width of a bin."""


def alpha_histograms(found: Gathered, target: Path) -> Section:
    """Draw histograms of DR-IRL's alpha_D, alpha_M and alpha per harm category and update; count how many
    leave 1 by more than 2, 5 and 10 %."""
    from drirl.experiments.figures import draw_histograms

    label = _focus(found)
    panels: list[tuple[str, dict[str, dict[int, float]]]] = []
    lines = []
    for model in found.models:
        logs = _logs(found, label, model) if label else []
        parts = {part: values for part in PARTS if (values := _values(logs, part))}
        if not parts:
            lines.append([escape(model), escape(PARTS[-1]), *[MISSING] * (len(BEYOND) + 1), "0"])
            continue
        panels.append((model, {part: bins_of(values) for part, values in parts.items()}))
        for part, values in parts.items():
            quantiles = " / ".join(f"{q:.3f}" for q in np.quantile(values, [0.05, 0.5, 0.95]))
            shares = [f"{100 * share:.0f}" for share in shares_beyond(values, BEYOND)]
            lines.append([escape(model), escape(part), *shares, quantiles, str(len(values))])
    heads = ["Model", "Coefficient", *(f"Beyond 1 ± {100 * b:g} % (%)" for b in BEYOND)]
    table = markdown_table([*heads, "5 / 50 / 95 % quantile", "Values"], lines)
    if not panels:
        return Section(f"## How far alpha leaves 1\n\n{table}\n\n{MISSING}: no log of {FOCUS}.")
    path = draw_histograms(
        target / f"{found.name}_histogram.png", panels, width=WIDTH, centre=1.0, notice=found.notice
    )
    note = (
        "Values per harm category and update, over seeds; where an update has one prompt of a category, as "
        f"in the profile tiny, each is of one group. Bins of {WIDTH:g}. In the first update alpha_D is 1, as "
        "it sets the running means. A coefficient that hardly leaves 1 cannot be credited with a gain."
    )
    return Section(f"## How far alpha leaves 1\n\n![histogram]({path.name})\n\n{table}\n\n{note}")


def bins_of(values: Sequence[float]) -> dict[int, float]:
    """Return bin -> share of the values in it, all bins from the lowest to the highest with a value.

    Bin k holds ``k · WIDTH - WIDTH / 2 <= value - 1 < k · WIDTH + WIDTH / 2``: bin 0 is around 1.
    """
    places = [math.floor((value - 1) / WIDTH + 0.5) for value in values]
    return {k: places.count(k) / len(places) for k in (range(min(places), max(places) + 1) if places else ())}


def shares_beyond(values: Sequence[float], margins: Sequence[float]) -> list[float]:
    """Return for each margin the share of values with ``|value - 1| > margin``; values must not be empty."""
    return [sum(abs(value - 1) > margin for value in values) / len(values) for margin in margins]


def _values(logs: Sequence[Sequence[Mapping[str, Any]]], part: str) -> list[float]:
    """Return the values of the harm categories; benign ones are means over several groups."""
    keys = {f"{part}/{category}" for category in range(7)}
    return [
        float(value)
        for run in logs
        for line in run
        for key, value in sorted(line.items())
        if key in keys and value is not None
    ]
