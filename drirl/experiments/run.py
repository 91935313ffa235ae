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
from typing import TYPE_CHECKING, Any

from drirl.errors import DrirlError, nearest
from drirl.experiments.plan import Plan

if TYPE_CHECKING:
    from drirl.experiments.jobs import Cell

__all__ = ["make_data", "make_rewards", "run_arms", "trained"]


def make_data(plan: Plan, names: Sequence[str]) -> None:
    """Build data variants, each under ``out/arms/data-<name>/data``."""
    from drirl.experiments.variants import build

    for name in names:
        variant = plan.data_variant(name)
        build(plan.params.run.out / "data", plan.data_out(name) / "data", variant, plan.params.run.seed)


def make_rewards(plan: Plan, names: Sequence[str], models: Sequence[str] | None = None) -> None:
    """Learn reward variants, models and variants side by side, under ``out/arms/reward-<name>/reward``.

    A variant has no static reward of its own: none of its arms asks for one. Outer iterations that the
    headline has finished with the same settings, data and base are read, not run again.

    Raises:
        DrirlError: unknown name, or as :func:`drirl.reward.stage.run`.
    """
    jobs: list[Any] = []
    for name in names:
        params = plan.reward_params(name)
        _links(plan, params.run.out, data=plan.reward_variant(name).data)
        if plan.reward_variant(name).make == "static":
            _static_links(plan, params.run.out)
            continue
        from drirl.reward import stage

        chosen = list(models or plan.reward_models(name) or params.run.models)
        for model in chosen:
            _known_model(plan, model)
        run = params.run.model_copy(update={"models": chosen})
        known = plan.params.run.out
        jobs += stage.jobs_of(params.model_copy(update={"run": run}), static=False, known=known)
    if jobs:
        stage.run_jobs(jobs, workers=_workers(plan), threads=plan.params.run.threads)


def run_arms(plan: Plan, names: Sequence[str], models: Sequence[str] | None = None) -> None:
    """Train and score the seeds of arms; all of them share one pool of processes.

    Finished seeds are kept, and so are the scores of policies that are scored already.

    Args:
        names: arms of any kind; models: those that an experiment needs if None.
    Raises:
        DrirlError: unknown arm or model, a headline cell, a missing input, or as the stages.
    """
    from drirl.align import stage as align
    from drirl.evaluate import stage as evaluate
    from drirl.experiments.best_of import run_best_of
    from drirl.experiments.jobs import PRELOAD, score, train
    from drirl.experiments.more import rescored, run_attacked
    from drirl.experiments.routing import routed
    from drirl.parallel import map_processes

    cells: list[Cell] = []
    reranked: set[tuple[str, str]] = set()  # every N of a policy is done at once
    for name in names:
        for model in models or plan.arm_models(name):
            make, of = plan.arm(name).make, plan.arm(name).of
            if make == "rerank":
                if (of, model) not in reranked:
                    run_best_of(plan, of, model)
                reranked.add((of, model))
            elif make == "attack":
                run_attacked(plan, name, model)
            elif make == "rescore":
                cells.append(rescored(plan, name, model))
            else:
                cells.append((routed if make == "route" else trained)(plan, name, model))
    workers, threads = _workers(plan), plan.params.run.threads
    todo = [job for cell in cells for job in align.unfinished(cell.jobs)]
    map_processes(train, todo, workers=workers, threads=threads, preload=PRELOAD)
    scoring = [evaluate.jobs_of(cell.params, cell.model, cell.method) for cell in cells]
    flat = [job for jobs in scoring for job in jobs]
    results = iter(map_processes(score, flat, workers=workers, threads=threads, preload=PRELOAD))
    for cell, jobs in zip(cells, scoring, strict=True):
        evaluate.write_records(cell.folder, [next(results) for _ in jobs])


def trained(plan: Plan, name: str, model: str) -> Cell:
    """Return the cell of an arm that trains, its inputs linked.

    Raises:
        DrirlError: unknown arm or model, a headline cell, or a missing input.
    """
    from drirl.align import stage as align
    from drirl.experiments.jobs import Cell

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
    return Cell(arm.params, model, arm.method, align.jobs_of(arm.params, model=model, method=arm.method))


def _workers(plan: Plan) -> int:
    """Return the processes at a time: ``run.workers``, or one more than there is room for on the cores.

    The one more keeps the cores busy while others load, save, or have ended.
    """
    return plan.params.run.workers or (os.cpu_count() or 1) // plan.params.run.threads + 1


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
