"""How often the classifier that stands in for the labels is right (question 7)."""

from __future__ import annotations

from pathlib import Path

from drirl.compare.names import category_name, escape
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.records import read_json

__all__ = ["router"]


def router(found: Gathered, target: Path) -> Section:
    """Accuracy of the classifier on prompts whose clusters it never saw, by category."""
    path = found.plan.out / "routes" / "report.json"
    if not path.is_file():
        return Section(f"## The classifier\n\n{MISSING}: the stage `routes` has not run.")
    report = read_json(path)
    classes, confusion = report["classes"], report["confusion"]
    lines = []
    for row, category in enumerate(classes):
        counts = confusion[row]
        total, right = sum(counts), counts[row]
        wrong = sorted(
            ((n, k) for k, n in enumerate(counts) if k != row and n), key=lambda pair: (-pair[0], pair[1])
        )
        most = f"{_name(classes[wrong[0][1]])} ({wrong[0][0]})" if wrong else ""
        lines.append(
            [
                escape(_name(category)),
                str(total),
                f"{100 * right / total:.1f}" if total else MISSING,
                escape(most),
            ]
        )
    heads = ["True category", "Prompts", "Right (%)", "Most often taken for"]
    error = report["reliability"].get("ece")
    calibration = f" Expected calibration error {error:.3f}." if isinstance(error, float) else ""
    note = (
        f"{report['n']} training prompts, each classified by a router fitted on the other "
        f"{report['folds'] - 1} of {report['folds']} folds of clusters.{calibration}"
    )
    answer = {
        "router": f"the classifier is right on {100 * report['accuracy']:.1f} % of the training prompts, "
        "whose intents it had not seen."
    }
    return Section(f"## The classifier\n\n{markdown_table(heads, lines)}\n\n{note}", answer)


def _name(category: int) -> str:
    return category_name(category) or "benign"
