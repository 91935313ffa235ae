"""What stages and methods cost, from the meters; no LLM judge is called anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drirl.compare.cost import Cost, read_costs
from drirl.compare.names import escape
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.experiments.scoring import measured
from drirl.records import read_json

__all__ = ["cost_accounting", "scoring_cost"]


def cost_accounting(found: Gathered, target: Path) -> Section:
    """CPU seconds, memory and tokens per stage, and per seed of every method."""
    costs = read_costs(found.plan.params.run.out)
    lines = []
    for model in found.models:
        for stage in ("base", "reward"):
            own = [c for c in costs if c.stage == stage and c.name == model]
            lines.append([escape(model), stage, *_cells([c.values for c in own])])
        for label in found.experiment.arms:
            arm = found.arms.get(label)
            for stage in ("align", "evaluate"):
                prefix = f"{model}/{arm.method}/seed" if arm else ""
                values = [c.values for c in costs if arm and c.stage == stage and c.name.startswith(prefix)]
                lines.append([escape(model), escape(f"{stage} {label}, one seed"), *_cells(values)])
    heads = [
        "Model",
        "Step",
        "CPU s",
        "Peak memory (MiB)",
        "Tokens generated",
        "Tokens trained on",
        "Measured",
    ]
    answers = {}
    for model in found.models:
        with_alpha, plain = (_each(costs, f"{model}/{name}/seed") for name in ("dr_irl", "grpo_irl"))
        if with_alpha and plain:
            mean = sum(plain) / len(plain)
            shares = sorted(100 * (seconds / mean - 1) for seconds in with_alpha)
            answers[model] = (
                f"{escape(model)}: a seed of DR-IRL takes {shares[0]:+.0f} to {shares[-1]:+.0f} % CPU time "
                f"against the mean of GRPO with the same rewards ({len(with_alpha)} and {len(plain)} seeds). "
                "The difference is the encoder's. It reads a text once and keeps the vector on disk, so a "
                "first run shows more of it than a later one."
            )
    return Section(
        "## Costs\n\n" + markdown_table(heads, lines) + "\n\nMeans of what was measured last.", answers
    )


def scoring_cost(found: Gathered, target: Path) -> Section:
    """What asking each kind of reward costs: held at once, loaded in turn, or an LLM judge."""
    plan = found.plan
    path = plan.out / "scoring" / "report.json"
    if not path.is_file():
        return Section(f"## Asking for a reward\n\n{MISSING}: the stage `scoring` has not run.")
    report = read_json(path)
    names = {
        "single": "one reward",
        "heads": "seven heads on one trunk",
        "adapters": "seven adapters on one base",
        "separate": "seven models",
        "judge": "the base policy as a judge",
    }
    lines = []
    for kind, name in names.items():
        counts = report["kinds"].get(kind)
        seconds = measured(plan, kind)
        lines.append(
            [
                name,
                f"{counts['parameters'] / 1e6:.2f}" if counts else MISSING,
                *(
                    f"{1000 * seconds[key] / report['n']:.2f}" if counts and key in seconds else MISSING
                    for key in ("score_s", "in_turn_s")
                ),
                str(counts.get("generated_tokens", 0)) if counts else MISSING,
            ]
        )
    heads = [
        "Reward",
        "Parameters held (millions)",
        "All held: ms per reply",
        "Loaded in turn: ms per reply",
        "Tokens written",
    ]
    note = (
        f"{escape(report['model'])}, the same {report['n']} replies, seven categories. In turn: the "
        f"rewards are "
        "loaded anew for each category. Times are of one machine with others at work; no hash covers "
        "them. The "
        "judge's verdicts are not used."
    )
    return Section(f"## Asking for a reward\n\n{markdown_table(heads, lines)}\n\n{note}")


def _each(costs: Sequence[Cost], prefix: str) -> list[float]:
    """Return the CPU seconds of alignment of each seed."""
    return [c.values["cpu_s"] for c in costs if c.stage == "align" and c.name.startswith(prefix)]


def _cells(found: list[dict[str, float]]) -> list[str]:
    if not found:
        return [MISSING] * 4 + ["0"]

    def mean(name: str, scale: float = 1.0) -> str:
        known = [values[name] for values in found if name in values]
        return f"{sum(known) / len(known) / scale:,.0f}".replace(",", " ") if known else MISSING

    return [
        mean("cpu_s"),
        mean("peak_rss_bytes", 2**20),
        mean("generated_tokens"),
        mean("trained_tokens"),
        str(len(found)),
    ]
