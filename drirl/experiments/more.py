"""Run what is no plain training arm: other scorings of policies that are there, routed rewards."""

from __future__ import annotations

import os

from drirl.errors import DrirlError
from drirl.experiments.plan import Plan, Resolved

__all__ = ["run_any", "run_attacked", "run_rescored"]


def run_any(plan: Plan, name: str, model: str) -> None:
    """Run an arm of any kind on one model.

    Raises:
        DrirlError: unknown arm or model, a missing input, or as the stages.
    """
    arm = plan.arm(name)
    if arm.make == "rescore":
        run_rescored(plan, name, model)
    elif arm.make == "attack":
        run_attacked(plan, name, model)
    elif arm.make == "rerank":
        from drirl.experiments.best_of import run_best_of

        run_best_of(plan, arm.of, model)
    elif arm.make == "route":
        from drirl.experiments.routing import run_routed

        run_routed(plan, name, model)
    else:
        from drirl.experiments.run import run_arm

        run_arm(plan, name, model)


def run_rescored(plan: Plan, name: str, model: str) -> None:
    """Score the policies of another arm on the tasks of this one.

    Raises:
        DrirlError: unknown model, the other arm has not run, or as the stage ``evaluate``.
    """
    from drirl.evaluate import stage as evaluate

    arm = _at_hand(plan, name, model)
    evaluate.run(arm.params, model=model, method=arm.method)


def run_attacked(plan: Plan, name: str, model: str) -> None:
    """Attack the policies of another arm with their weights known; records go where scores go.

    Raises:
        DrirlError: unknown model, the other arm has not run, or as :func:`drirl.attack.stage.attack_cell`.
    """
    from drirl.attack.stage import attack_cell

    arm = _at_hand(plan, name, model)
    attack_cell(arm.params, model, arm.method, output=arm.out / "evaluate" / model / arm.method)


def _at_hand(plan: Plan, name: str, model: str) -> Resolved:
    """Link what the policies of another arm need into this arm's folder."""
    from drirl.evaluate.stage import UNTRAINED
    from drirl.experiments.run import _known_model, _link, _links

    _known_model(plan, model)
    arm, of = plan.resolve(name), plan.arm(name).of
    source = plan.resolve(of)
    folder = source.out / "align" / model / source.method
    if not folder.is_dir() and source.method != UNTRAINED:
        raise DrirlError(f"{folder}: no policies of '{of}' there; 'dvc repro -P' trains them")
    _links(plan, arm.out, data=None)
    if (source.out / "align").is_dir():
        _link(source.out / "align", arm.out / "align")
    os.environ["DRIRL_OUT"] = str(arm.out)
    return arm
