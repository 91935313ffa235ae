"""What the rewards' own held-out reports say: accuracy, sharing, iterations, the tail, cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drirl.compare.names import CATEGORIES, escape
from drirl.experiments.figures import draw_facts
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Fact, Section, markdown_table
from drirl.records import read_json

__all__ = ["reward_accuracy", "reward_cost", "reward_iterations", "tail_rewards"]

SAMPLE, BAD = "sample", "unsafe_or_broken"
SAMPLED = ("updated", "unsafe_or_broken_updated")
"""Cells of the policy that the first reward moved."""
BAR = 0.5


def reward_accuracy(found: Gathered, target: Path) -> Section:
    """Table 8: pairwise accuracy, AUC, gap, length correlation per category; the cross-category matrix."""
    parts, answers, facts = ["## Held-out accuracy"], {}, []
    for model in found.models:
        report = _report(found, None, model)
        if report is None:
            parts.append(f"{escape(model)}: {MISSING} (run the stage reward).")
            answers[model] = f"{escape(model)}: not run."
            continue
        last = report["iterations"][-1]
        lines = []
        for group in last["groups"]:
            own, static = last["groups"][group], report["static"]["groups"].get(group, {})
            facts += [
                Fact(model, _name(group), f"accuracy against {name}", *_numbers(cell))
                for name, cell in own["cells"].items()
            ]
            facts += [Fact(model, _name(group), key, own.get(key)) for key in ("auc", "spearman_length")]
            lines.append(
                [
                    escape(_name(group)),
                    _accuracy(own["cells"].get(SAMPLE)),
                    _accuracy(own["cells"].get(BAD)),
                    _accuracy(static.get("cells", {}).get(BAD)),
                    _gap(own["cells"].get(SAMPLE)),
                    _plain(own.get("auc")),
                    _plain(own.get("spearman_length")),
                ]
            )
        heads = [
            "Category",
            "Against samples",
            "Against unsafe or broken samples",
            "The same, static reward",
            "Gap, mean ± sd",
            "AUC",
            "Rank correlation with length",
        ]
        parts.append(f"### {escape(model)}\n\n{markdown_table(heads, lines)}")
        parts += [_kinds(last["groups"]), _calibration(found, model, last)]
        parts.append(_matrix(last.get("cross_category")))
        below = [
            _name(group)
            for group in map(str, range(len(CATEGORIES)))
            if not _above(last["groups"].get(group, {}).get("cells", {}).get(SAMPLE))
        ]
        answers[model] = f"{escape(model)}: **yes**, every harm category is above chance." if not below else (
            f"{escape(model)}: **no**, not above chance: {escape(', '.join(below))}."
        )  # fmt: skip
    parts.append(
        "Share of held-out pairs in which the demonstration has the higher reward, in percent (95 % "
        "bootstrap interval over prompts; n pairs). Chance is 50."
    )
    figure = _draw(facts, found, target)
    if figure:
        parts.insert(1, f"![Held-out accuracy]({figure})")
    return Section("\n\n".join(part for part in parts if part), answers, facts)


def _draw(facts: list[Fact], found: Gathered, target: Path) -> str:
    """Draw the accuracy against samples, and against the bad ones of them, per category; "" without any."""
    measures = {
        f"accuracy against {SAMPLE}": "Against samples",
        f"accuracy against {BAD}": "Unsafe or broken ones",
    }
    bars = "Bars: bootstrap intervals over prompts; chance is 50 %"
    path = draw_facts(target / "table8.png", facts, measures, found.notice, bars)
    return path.name if path else ""


def _kinds(groups: Any) -> str:
    """Return the accuracy against each kind of hard negative."""
    kinds = sorted({kind for group in groups.values() for kind in group["cells"]} - {*SAMPLED, SAMPLE, BAD})
    lines = []
    for group, values in groups.items():
        cells = [values["cells"].get(kind) or {} for kind in kinds]
        shown = [
            MISSING if c.get("accuracy") is None else f"{100 * c['accuracy']:.0f} ({c['n']})" for c in cells
        ]
        lines.append([escape(_name(group)), *shown])
    heads = ["Category", *(escape(kind.replace("_", " ")) for kind in kinds)]
    return (
        f"Against hard negatives, percent (n; {MISSING}: not made for it):\n\n{markdown_table(heads, lines)}"
    )


def _calibration(found: Gathered, model: str, last: Any) -> str:
    """Return one sentence on the reliability of the pairs' probabilities and one on cost."""
    texts = []
    if reliability := last.get("reliability"):
        texts.append(
            "Calibration: the probability of a pair's order, sigmoid of the gap, is off by "
            f"{100 * reliability['ece']:.1f} points on average (expected calibration error over all "
            f"{reliability['n']} pairs, bins of a tenth)."
        )
    cost = _cost(found, None, model)
    if cost and "cost" in last:
        parameters = f"{last['cost']['parameters']:,}".replace(",", " ")
        texts.append(
            f"Cost: {parameters} parameters, {cost['cpu_s']:.0f} CPU s, "
            f"{cost['peak_rss_bytes'] / 2**20:.0f} MiB at most."
        )
    return " ".join(texts)


def _numbers(cell: Any) -> tuple[float | None, float | None, float | None, int | None]:
    return cell.get("accuracy"), cell.get("low"), cell.get("high"), cell.get("n")


def reward_cost(found: Gathered, target: Path) -> Section:
    """Accuracy and measured cost of each way to share rewards that the page's arms or ``scoring`` have."""
    used = {found.plan.arm(arm.name).rewards for arm in found.arms.values()}
    every = "arms/scoring" in found.experiment.reads
    lines = []
    for variant in (None, "single", "adapters", "separate"):
        if variant is not None and (variant not in found.plan.rewards or not (every or variant in used)):
            continue
        for model in found.models:
            report, cost = _report(found, variant, model), _cost(found, variant, model)
            label = "headline (" + found.plan.params.reward.sharing + ")" if variant is None else variant
            lines.append(
                [
                    escape(label),
                    escape(model),
                    _mean_accuracy(report, SAMPLE),
                    _mean_accuracy(report, BAD),
                    f"{cost['cpu_s']:.0f}" if cost else MISSING,
                    f"{cost['peak_rss_bytes'] / 2**20:.0f}" if cost else MISSING,
                    _size(found, variant, model),
                ]
            )
    heads = [
        "Rewards",
        "Model",
        "Accuracy against samples",
        "Against unsafe or broken",
        "CPU s",
        "Peak memory (MiB)",
        "On disk (MiB)",
    ]
    text = "## The rewards themselves\n\n" + markdown_table(heads, lines)
    return Section(
        text + "\n\nMean over the seven harm categories, percent. Costs are those of one machine, "
        "without the static reward's."
    )


def reward_iterations(found: Gathered, target: Path) -> Section:
    """Accuracy after each outer iteration of the IRL loop, for every variant that has records."""
    lines = []
    for variant in (None, "one_iteration", "three_iterations", "implicit"):
        for model in found.models:
            report = _report(found, variant, model)
            for iteration in (report or {}).get("iterations", []):
                single = {"iterations": [iteration]}
                lines.append(
                    [
                        escape(variant or "headline"),
                        escape(model),
                        str(iteration["iteration"] + 1),
                        _mean_accuracy(single, SAMPLE),
                        _mean_accuracy(single, BAD),
                    ]
                )
    if not lines:
        return Section("")
    heads = ["Rewards", "Model", "After iteration", "Accuracy against samples", "Against unsafe or broken"]
    return Section("## Rewards by iteration\n\n" + markdown_table(heads, lines))


def tail_rewards(found: Gathered, target: Path) -> Section:
    """Pairwise accuracy per category, balanced beside imbalanced."""
    lines = []
    counts = _counts(found)
    for model in found.models:
        balanced, tail = _report(found, None, model), _report(found, "imbalanced", model)
        for j, name in enumerate(CATEGORIES):
            cells = [
                report["iterations"][-1]["groups"].get(str(j), {}).get("cells", {}).get(BAD)
                if report
                else None
                for report in (balanced, tail)
            ]
            lines.append([escape(model), escape(name), counts[j], _accuracy(cells[0]), _accuracy(cells[1])])
    heads = ["Model", "Category", "Long-tail prompts", "Balanced", "Imbalanced"]
    return Section(
        "## Pairwise accuracy of the rewards against unsafe or broken samples\n\n"
        + markdown_table(heads, lines)
    )


def _counts(found: Gathered) -> list[str]:
    path = found.plan.data_out("imbalanced") / "data" / "variant.json"
    if not path.is_file():
        return [MISSING] * len(CATEGORIES)
    return [str(count) for count in read_json(path)["train_prompts"]]


def _report(found: Gathered, variant: str | None, model: str) -> Any:
    path = found.plan.reward_out(variant) / "reward" / model / "report.json"
    return read_json(path) if path.is_file() else None


def _cost(found: Gathered, variant: str | None, model: str) -> Any:
    path = found.plan.reward_out(variant) / "cost" / "reward" / f"{model}.json"
    return read_json(path) if path.is_file() else None


def _size(found: Gathered, variant: str | None, model: str) -> str:
    folder = found.plan.reward_out(variant) / "reward" / model / "irl"
    if not folder.is_dir():
        return MISSING
    return f"{sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 2**20:.1f}"


def _mean_accuracy(report: Any, cell: str) -> str:
    if report is None:
        return MISSING
    groups = report["iterations"][-1]["groups"]
    values = [
        groups[str(j)]["cells"][cell]["accuracy"] for j in range(len(CATEGORIES)) if _has(groups, j, cell)
    ]
    return f"{100 * sum(values) / len(values):.1f}" if values else MISSING


def _has(groups: Any, j: int, cell: str) -> bool:
    return groups.get(str(j), {}).get("cells", {}).get(cell, {}).get("accuracy") is not None


def _matrix(cross: Any) -> str:
    if not cross:
        return ""
    names = [_name(str(head)) for head in cross["heads"]]
    lines = [
        [escape(name), *(MISSING if v is None else f"{100 * v:.0f}" for v in row), str(n)]
        for name, row, n in zip(names, cross["accuracy"], cross["n"], strict=True)
    ]
    text = markdown_table(["Pairs of ↓ under the reward of →", *map(escape, names), "n"], lines)
    return f"Cross-category accuracy against unsafe or broken samples, percent:\n\n{text}"


def _accuracy(cell: Any) -> str:
    if not cell or cell.get("accuracy") is None:
        return MISSING
    return f"{100 * cell['accuracy']:.1f} ({100 * cell['low']:.1f}–{100 * cell['high']:.1f}; {cell['n']})"


def _above(cell: Any) -> bool:
    return bool(cell) and cell.get("low") is not None and cell["low"] > BAR


def _gap(cell: Any) -> str:
    if not cell or cell.get("gap_mean") is None:
        return MISSING
    return f"{cell['gap_mean']:.2f} ± {cell['gap_sd']:.2f}"


def _plain(value: Any) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _name(group: str) -> str:
    if group == "-1":
        return "benign"
    return CATEGORIES[int(group)] if group.isdigit() else group
