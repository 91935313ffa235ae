"""What best-of-N costs at inference (question 8)."""

from __future__ import annotations

from pathlib import Path

from drirl.compare.names import escape
from drirl.experiments.best_of import latencies
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table

__all__ = ["latency"]


def latency(found: Gathered, target: Path) -> Section:
    """Median seconds per prompt, sampling and ranking, one prompt at a time."""
    lines = []
    for model in found.models:
        for label, resolved in found.arms.items():
            n = found.plan.arm(resolved.name).n
            own = latencies(found.plan.params.run.out, model, resolved.method).get(n or 0, [])
            low = min(own) if own else 0.0
            shown = f"{1000 * sum(own) / len(own):.0f}" if own else MISSING
            spread = f"{1000 * low:.0f}–{1000 * max(own):.0f}" if own else MISSING
            lines.append([escape(model), escape(label), shown, spread])
    heads = ["Model", "Arm", "Milliseconds per prompt", "Range over seeds"]
    note = (
        "Medians over a few prompts, asked one at a time, as measured last on one machine with other "
        "processes "
        "running beside it; no hash covers them."
    )
    return Section(f"## Latency\n\n{markdown_table(heads, lines)}\n\n{note}")
