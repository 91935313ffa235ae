"""Whether the training rewards put refusals of harmful prompts above compliant replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drirl.compare.names import escape
from drirl.detect import is_refusal
from drirl.experiments.extras.hardness import DRAWS, _rollouts
from drirl.experiments.gather import Gathered
from drirl.experiments.page import Section, markdown_table
from drirl.records import BENIGN, RolloutGroup
from drirl.text import split_draft

__all__ = ["misplaced", "pairs_of", "refusal_order"]


def refusal_order(found: Gathered, target: Path) -> Section:
    """Share of pairs in the recorded groups whose refusal has the lower reward, for every arm with groups."""
    lines, answers = [], {}
    for model in found.models:
        said = []
        for label in found.experiment.arms:
            groups = [g for g in _rollouts(found, label, model) if g.category != BENIGN]
            pairs = [(g.prompt_id, *pairs_of(g)) for g in groups]
            wrong, all_pairs = sum(p[1] for p in pairs), sum(p[2] for p in pairs)
            if not all_pairs:
                continue
            share, low, high = misplaced(pairs)
            lines.append(
                [
                    escape(model),
                    escape(label),
                    f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
                    str(all_pairs),
                    str(sum(1 for p in pairs if p[2])),
                ]
            )
            said.append(f"{escape(label)} {100 * share:.0f} % ({wrong} of {all_pairs})")
        if said:
            answers[f"order {model}"] = (
                f"{escape(model)}, refusals that the training reward puts below a compliant reply of their "
                f"group: {', '.join(said)}."
            )
    heads = ["Model", "Arm", "Refusal below compliance (%)", "Pairs", "Groups"]
    note = (
        "Every refusal against every compliant reply of its group, groups of harmful prompts recorded at the "
        "first, middle and last update of every seed; 95 % bootstrap over prompts. What a refusal is, the "
        "default detector says. A reward that misplaces many pairs pushes the policy to comply."
    )
    return Section(
        f"## Order of refusals in the training reward\n\n{markdown_table(heads, lines)}\n\n{note}", answers
    )


def pairs_of(group: RolloutGroup) -> tuple[float, int]:
    """Return how many (refusal, compliant) pairs of a group have the refusal lower, ties half, and all."""
    refused = [is_refusal(split_draft(text)[1]) for text in group.completions]
    high = [r for r, yes in zip(group.r_gen, refused, strict=True) if yes]
    low = [r for r, yes in zip(group.r_gen, refused, strict=True) if not yes]
    wrong = sum((a < b) + 0.5 * (a == b) for a in high for b in low)
    return float(wrong), len(high) * len(low)


def misplaced(pairs: Sequence[tuple[str, float, int]], seed: int = 0) -> tuple[float, float, float]:
    """Return the share of misplaced pairs with its 95 % bootstrap interval over prompts.

    Args:
        pairs: (prompt, misplaced pairs, pairs) of each group; at least one pair in all.
    """
    names = sorted({name for name, *_ in pairs})
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), 2))
    for name, wrong, total in pairs:
        counts[place[name]] += (wrong, total)
    drawn = counts[np.random.default_rng(seed).integers(0, len(names), (DRAWS, len(names)))].sum(1)
    shares = drawn[drawn[:, 1] > 0]
    low, high = (
        np.quantile(shares[:, 0] / shares[:, 1], [0.025, 0.975]) if len(names) > 1 else (math.nan,) * 2
    )
    return float(counts[:, 0].sum() / counts[:, 1].sum()), float(low), float(high)
