"""Run data variants, reward variants and arms through the stages of the headline pipeline.

An arm's folder looks like ``run.out``: ``data``, ``base``, ``reward`` and ``cache`` are links to outputs of
the headline or of a variant, ``align`` and ``evaluate`` are its own. The stages find everything where they
always do and need not know of arms.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from drirl.config import Params
from drirl.errors import DrirlError, nearest
from drirl.experiments.plan import Plan

__all__ = ["make_data", "make_rewards", "run_arm"]


def make_data(plan: Plan, name: str) -> None:
    """Build a data variant under ``out/arms/data-<name>/data``."""
    from drirl.experiments.variants import build

    variant = plan.data_variant(name)
    build(plan.params.run.out / "data", plan.data_out(name) / "data", variant, plan.params.run.seed)


def make_rewards(plan: Plan, names: Sequence[str], models: Sequence[str] | None = None) -> None:
    """Learn reward variants, models and variants side by side, under ``out/arms/reward-<name>/reward``.

    Raises:
        DrirlError: unknown name, or as :func:`drirl.reward.stage.run`.
    """
    from drirl.parallel import map_processes

    jobs = []
    for name in names:
        params = plan.reward_params(name)
        _links(plan, params.run.out, data=plan.reward_variant(name).data)
        if plan.reward_variant(name).make == "static":
            _static_links(plan, params.run.out)
            continue
        chosen = list(models or plan.reward_models(name) or params.run.models)
        for model in chosen:
            _known_model(plan, model)
        jobs.append(params.model_copy(update={"run": params.run.model_copy(update={"models": chosen})}))
    cores = max(1, (os.cpu_count() or 1) // plan.params.run.threads)
    side_by_side = plan.params.run.workers or max(
        1, cores // max((len(j.run.models) for j in jobs), default=1)
    )
    if len(jobs) == 1:
        _learn(jobs[0])
    else:
        map_processes(_learn, jobs, workers=side_by_side, threads=plan.params.run.threads)


def _learn(params: Params) -> None:
    """Run the stage ``reward`` with a variant's params."""
    from drirl.reward import stage

    stage.run(params)


def run_arm(plan: Plan, name: str, model: str) -> None:
    """Train and score the seeds of an arm on one model; finished seeds are kept.

    Raises:
        DrirlError: unknown arm or model, a headline cell, a missing input, or as the stages.
    """
    arm = plan.resolve(name)
    _known_model(plan, model)
    if arm.headline:
        raise DrirlError(
            f"'{name}' is a cell of the headline replication; 'dvc repro' runs it, not an arm of its own"
        )
    declared = plan.arm(name)
    if declared.rewards is not None and plan.reward_variant(declared.rewards).make == "static":
        make_rewards(plan, [declared.rewards])
    _links(plan, arm.out, data=declared.data)
    _link(plan.reward_out(declared.rewards) / "reward", arm.out / "reward")
    from drirl.align import stage as align
    from drirl.evaluate import stage as evaluate

    os.environ["DRIRL_OUT"] = str(arm.out)
    align.run(arm.params, model=model, method=arm.method)
    evaluate.run(arm.params, model=model, method=arm.method)


def _known_model(plan: Plan, model: str) -> None:
    if model not in plan.params.run.models:
        raise DrirlError(f"unknown model '{model}' in run.models; {nearest(model, plan.params.run.models)}")


def _links(plan: Plan, out: Path, *, data: str | None) -> None:
    source = plan.data_out(data) / "data"
    for target, name in (
        (source, "data"),
        (plan.params.run.out / "base", "base"),
    ):
        if not target.is_dir():
            raise DrirlError(f"{target}: not there yet; run its stage first ('dvc repro -P' runs all)")
        _link(target, out / name)
    cache = plan.params.run.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    _link(cache, out / "cache")


def _static_links(plan: Plan, out: Path) -> None:
    """Put the headline's static reward where the category rewards belong."""
    for model in plan.params.run.models:
        static = plan.params.run.out / "reward" / model / "static"
        if static.is_dir():
            for name in ("irl", "static"):
                _link(static, out / "reward" / model / name)


def _link(target: Path, link: Path) -> None:
    """Make ``link`` a relative link to the folder ``target``, whatever was there."""
    link.parent.mkdir(parents=True, exist_ok=True)
    text = os.path.relpath(target.resolve(), link.parent.resolve())
    if link.is_symlink():
        if os.readlink(link) == text:
            return
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    try:
        link.symlink_to(text, target_is_directory=True)
    except FileExistsError:  # another process was faster
        pass
    except OSError as error:
        raise DrirlError(f"cannot link {link} to {target}: {error.strerror or error}") from error
