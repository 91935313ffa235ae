"""What is no plain training arm: other scorings of policies that are there, attacks on them."""

from __future__ import annotations

import os

from drirl.errors import DrirlError
from drirl.experiments.jobs import Cell
from drirl.experiments.plan import Plan, Resolved

__all__ = ["rescored", "run_attacked"]


def rescored(plan: Plan, name: str, model: str) -> Cell:
    """Return the cell of an arm that scores the policies of another arm on its own tasks.

    Raises:
        DrirlError: unknown model, or the other arm has not run.
    """
    arm = _at_hand(plan, name, model)
    return Cell(arm.params, model, arm.method)


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
