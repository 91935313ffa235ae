"""Held-out accuracy of the rewards, from ``out/reward/<model>/report.json``, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drirl.compare.names import CATEGORIES, escape
from drirl.compare.texts import details, interval, span, table

__all__ = ["reward_accuracy", "reward_details"]


def reward_accuracy(rewards: Mapping[str, Any]) -> str:
    """Return one row per kind of negative: the lowest value of any category, for each model and reward."""
    if not rewards:
        return ""
    parts = [
        (f"{escape(model)}, {name}", part)
        for model, report in sorted(rewards.items())
        for name, part in _parts(report)
    ]
    kinds = list(
        dict.fromkeys(
            kind for _, part in parts for group in part.get("groups", {}).values() for kind in group["cells"]
        )
    )
    lines = [[_plain(kind), *(_lowest(part, kind) for _, part in parts)] for kind in kinds]
    text = (
        "## Reward accuracy\n\n"
        "How often the demonstration scores above the reply named by the row, on held-out prompts: percent\n"
        "in the category where that is lowest, and how many pairs there were."
    )
    splits = sorted({str(report["split"]) for report in rewards.values() if report.get("split")})
    if splits:
        text += f" Split: {', '.join(f'`{escape(split)}`' for split in splits)}."
    text += "\n\n" + table(["Demonstration against", *(name for name, _ in parts)], lines)
    met = [line for model, report in sorted(rewards.items()) for line in _acceptance(model, report)]
    return text + ("\n\n" + "\n".join(met) if met else "")


def reward_details(rewards: Mapping[str, Any]) -> str:
    """Return the accuracy of every category and kind, folded away."""
    found = []
    for model, report in sorted(rewards.items()):
        for name, part in _parts(report):
            found.append(details(f"Reward accuracy by category: {escape(model)}, {name}", _full(part)))
    return "\n\n".join(found)


def _parts(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    iterations = report.get("iterations") or []
    parts: list[tuple[str, Any]] = []
    if iterations:
        parts.append((f"category rewards, iteration {len(iterations)}", iterations[-1]))
    if "static" in report:
        parts.append(("static reward", report["static"]))
    return parts


def _lowest(part: Mapping[str, Any], kind: str) -> str:
    found = [
        (cell["accuracy"], _group(name), cell["n"])
        for name, group in part.get("groups", {}).items()
        if (cell := group["cells"].get(kind)) is not None and cell["accuracy"] is not None
    ]
    if not found:
        return "missing"
    accuracy, name, n = min(found, key=lambda one: one[0])
    return f"{100 * accuracy:.1f} ({name}, n={n})"


def _acceptance(model: str, report: Mapping[str, Any]) -> list[str]:
    iterations = report.get("iterations") or []
    if not iterations:
        return []
    return [
        f"- {escape(model)}, {_plain(name)}: lowest {100 * cell['lowest']:.1f} in {escape(cell['where'])}, "
        f"bar {100 * cell['required']:g}, {'met' if cell['met'] else '**not met**'}."
        for name, cell in iterations[-1].get("acceptance", {}).items()
    ]


def _full(part: Mapping[str, Any]) -> str:
    groups = part.get("groups", {})
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group["cells"]))
    lines = []
    for kind in kinds:
        cells, sizes = [], []
        for group in groups.values():
            cell = group["cells"].get(kind)
            if cell is None:
                cells.append("")
                continue
            sizes.append(int(cell["n"]))
            if cell["accuracy"] is None:
                cells.append("missing")
            else:
                cells.append(interval(cell["accuracy"], cell["low"], cell["high"], digits=0))
        lines.append([_plain(kind), *cells, span(sorted(sizes))])
    return table(["Against", *(_group(name) for name in groups), "Pairs"], lines)


def _group(name: str) -> str:
    return escape(
        CATEGORIES[int(name)] if name.isdigit() and int(name) < len(CATEGORIES) else name.replace("_", " ")
    )


def _plain(name: str) -> str:
    return escape(name.replace("_", " "))
