"""The comparison's own figures with the arms of a page."""

from __future__ import annotations

from pathlib import Path

from drirl.experiments.gather import Gathered, gather
from drirl.experiments.page import MISSING, Section

__all__ = ["categories_figure", "tradeoff_figure"]


def categories_figure(found: Gathered, target: Path) -> Section:
    """Figure 3: refusal of harmful prompts by category."""
    from drirl.compare.figures import draw_categories

    return _draw(found, target, draw_categories, "Refusal by category")


def tradeoff_figure(found: Gathered, target: Path) -> Section:
    """Figure 5: refusal against helpfulness and against false refusal."""
    from drirl.compare.figures import draw_tradeoff

    return _draw(found, target, draw_tradeoff, "Trade-off")


def _draw(found: Gathered, target: Path, draw: object, title: str) -> Section:
    full = gather(found.plan, found.name, more=("refusal", "false_refusal", "help"))
    if full.analysis is None:
        return Section(f"## {title}\n\n{MISSING}.")
    notice = found.notice
    files = draw(full.analysis, target / f"{found.name}_figure", notice=notice)  # type: ignore[operator]
    return Section(f"## {title}\n\n![{title}]({files[0].relative_to(target)})")
