"""Bring the records of an experiment's arms together under their labels; what is missing stays missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from drirl.compare.collect import Records, collect
from drirl.compare.published import Published
from drirl.compare.stats import Bootstrap
from drirl.compare.tables import Analysis
from drirl.experiments.measures import keys
from drirl.experiments.plan import Experiment, Plan, Resolved

__all__ = ["Gathered", "gather"]


@dataclass
class Gathered:
    """An experiment with its records.

    Attributes:
        analysis: rows and differences, methods being labels; None if there is no record at all.
        missing: (model, label) -> why there is nothing.
        arms: label -> what it resolves to; labels that cannot run are not in it.
    """

    plan: Plan
    name: str
    experiment: Experiment
    models: list[str]
    analysis: Analysis | None
    bootstrap: Bootstrap
    missing: dict[tuple[str, str], str] = field(default_factory=dict)
    arms: dict[str, Resolved] = field(default_factory=dict)

    @property
    def notice(self) -> str:
        """Return what figures add to their legend where the numbers mean nothing, else an empty text."""
        return "" if self.plan.params.run.meaningful else "; wiring check, numbers are meaningless"

    def folder(self, label: str, stage: str, model: str) -> Path | None:
        """Return the folder of an arm's cell in a stage, or None if the arm cannot run."""
        arm = self.arms.get(label)
        return None if arm is None else arm.out / stage / model / arm.method


def gather(plan: Plan, name: str, *, more: tuple[str, ...] = ()) -> Gathered:
    """Read the records of an experiment.

    Args:
        more: further measures that a section of the page needs.
    Raises:
        DrirlError: unknown experiment, malformed records, seeds that differ from run.seeds.
    """
    experiment = plan.experiment(name)
    models = plan.models_of(experiment)
    settings = plan.params.compare
    bootstrap = Bootstrap(seed=plan.params.run.seed, draws=settings.bootstrap, confidence=settings.confidence)
    found = Gathered(plan, name, experiment, models, None, bootstrap)
    records = Records(tuple(models), tuple(experiment.arms))
    wanted = keys([*experiment.metrics, *(c.metric for c in experiment.contrasts), *more])
    for label, arm_name in experiment.arms.items():
        problem = plan.problem(arm_name)
        if problem:
            found.missing.update({(model, label): problem for model in models})
            continue
        arm = found.arms[label] = plan.resolve(arm_name)
        for model in models:
            if not (arm.out / "evaluate" / model / arm.method / "items.jsonl").is_file():
                found.missing[model, label] = "not run yet"
                continue
            own = collect(
                arm.out, [model], [arm.method], arm.params.run.seeds, allow_uneven=settings.allow_uneven
            )
            records.cells[model, label] = {
                key: replace(scores, method=label)
                for key, scores in own.cells[model, arm.method].items()
                if key in wanted
            }
            if (model, arm.method) in own.counts:
                records.counts[model, label] = own.counts[model, arm.method]
    if records.cells:
        found.analysis = Analysis(records, bootstrap, Published({}, {}))
    return found
