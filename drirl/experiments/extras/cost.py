"""What stages and methods cost, from the meters; no LLM judge is called anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drirl.compare.cost import Cost, read_costs
from drirl.compare.names import escape
from drirl.experiments.figures import draw_bars
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Fact, Section, markdown_table
from drirl.experiments.scoring import measured
from drirl.records import read_json

__all__ = ["cost_accounting", "scoring_cost"]


def cost_accounting(found: Gathered, target: Path) -> Section:
    """CPU seconds, memory and tokens per stage, and per seed of every method."""
    costs = read_costs(found.plan.params.run.out)
    lines: list[list[str]] = []
    facts: list[Fact] = []

    def add(model: str, step: str, values: list[dict[str, float]]) -> None:
        lines.append([escape(model), escape(step), *_cells(values)])
        facts.extend(
            Fact(model, step, name, _mean([v[name] for v in values if name in v]), n=len(values))
            for name in MEASURED
        )

    for model in found.models:
        for stage in ("base", "reward"):
            add(model, stage, [c.values for c in costs if c.stage == stage and c.name == model])
        for label in found.experiment.arms:
            arm = found.arms.get(label)
            for stage in ("align", "evaluate"):
                prefix = f"{model}/{arm.method}/seed" if arm else ""
                values = [c.values for c in costs if arm and c.stage == stage and c.name.startswith(prefix)]
                add(model, f"{stage} {label}, one seed", values)
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
                f"against the mean of GRPO with the same rewards ({len(with_alpha)} and {len(plain)} seeds)"
                f"{_encoding(found)}."
            )
    figure = _draw(found, facts, target)
    return Section(
        f"## Costs\n\n{figure}{markdown_table(heads, lines)}\n\nMeans of what was measured last.",
        answers,
        facts,
    )


MEASURED = ("cpu_s", "peak_rss_bytes", "generated_tokens", "trained_tokens")


def _encoding(found: Gathered) -> str:
    """Say what encoding a new text takes, where the stage ``scoring`` measured it."""
    path, seconds = found.plan.out / "scoring" / "report.json", measured(found.plan, "encoder")
    count = read_json(path)["kinds"].get("encoder", {}).get("texts", 0) if path.is_file() else 0
    if not count or "score_s" not in seconds:
        return ""
    each = 1000 * seconds["score_s"] / count
    return (
        f"; encoding a sub-sentence takes {each:.1f} ms when it is new and nothing after that, since vectors "
        "are kept on disk, so that a first run shows more of it than a later one"
    )


def _draw(found: Gathered, facts: Sequence[Fact], target: Path) -> str:
    """Draw CPU seconds of one seed by method, and of what comes before; return the image's Markdown."""
    panels = [
        (
            f"CPU s, {model}",
            {
                f.name: float(f.value)
                for f in facts
                if f.part == model and f.measure == "cpu_s" and f.value is not None
            },
        )
        for model in found.models
    ]
    if not any(values for _, values in panels):
        return ""
    return f"![CPU seconds]({draw_bars(target / f'{found.name}_cost.png', panels, found.notice).name})\n\n"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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
        "encoder": "the sentence encoder of alpha_D",
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
        "judge's verdicts are not used. The encoder reads the sub-sentences of the replies, none "
        "of them known."
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
