"""``drirl experiments``: what there is, what each needs, what it costs, and whether its page is current."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.compare.cost import Cost, read_costs
from drirl.experiments.page import folder_of
from drirl.experiments.pipeline import PIPELINE, stage_of, stage_of_rewards
from drirl.experiments.plan import Plan

__all__ = ["Line", "changed_stages", "estimate_arm", "lines", "show"]

ALIGN_CPU_S = {"sft": 15.0, "dpo": 20.0, "dpo_s": 25.0, "sacpo": 30.0, "kto": 20.0, "base": 0.0}
"""CPU seconds of one seed on one of two cores, profile tiny, where nothing was measured; others: 55."""

OTHER_ALIGN_CPU_S, EVALUATE_CPU_S, REWARD_CPU_S, START_S = 55.0, 12.0, 290.0, 9.0
RERANK_CPU_S, ROUTES_CPU_S, CROSS_CPU_S, ATTACK_CPU_S = 75.0, 60.0, 15.0, 8.0
RESCORE_SHARE, VALIDATION_SHARE = 0.7, 0.5
"""Cost of scoring attacked, or validation, prompts against that of scoring the test prompts."""

ITERATION_CPU_S = 130.0
"""CPU seconds an outer IRL iteration adds to the rewards of a model, of REWARD_CPU_S with two of them."""


@dataclass(frozen=True)
class Line:
    """One experiment in the list.

    Attributes:
        needs: what it needs that is no headline cell: arms and reward variants, or what is lacking.
        seconds: wall time of what it needs, on this machine's cores, were it run alone.
        state: never run, current, stale, or not available.
    """

    name: str
    title: str
    needs: str
    seconds: float
    measured: bool
    state: str
    reason: str = ""


def lines(plan: Plan, *, status: bool = True) -> list[Line]:
    """Return a line per experiment.

    Args:
        status: ask DVC what changed (a few seconds); otherwise a page that exists counts as ``run``.
    """
    changed = changed_stages(plan.root) if status else None
    found = []
    for name, experiment in plan.experiments.items():
        reason = plan.unavailable(experiment)
        arms = [] if experiment.needs else plan.own_arms([name])
        rewards = _rewards(plan, arms)
        seconds, measured = _cost_of(plan, arms, [name])
        lacking = [] if reason else plan.lacking(experiment)
        page = plan.root / plan.params.compare.reports / folder_of(name) / f"{name}.md"
        state = "never run"
        if reason:
            state = "not available"
        elif page.is_file():
            state = "run" if changed is None else _state(plan, name, arms, rewards, changed)
        shown = [*arms, *(f"rewards {r}" for r in rewards)]
        found.append(
            Line(
                name,
                experiment.title,
                ", ".join(shown) or "headline",
                seconds,
                measured,
                state,
                reason or (f"without {', '.join(lacking)}" if lacking else ""),
            )
        )
    return found


def show(plan: Plan, *, status: bool = True) -> str:
    """Return the list as text, with the cost of everything run once."""
    rows = lines(plan, status=status)
    texts = []
    for line in rows:
        cost = f"{line.seconds / 60:.0f} min{'' if line.measured else ' est.'}" if line.seconds else "seconds"
        state = f"{line.state}: {line.reason}" if line.reason else line.state
        texts.append(f"{line.name:<8} {line.title:<46} {cost:>11}  {state}")
        if line.needs != "headline":
            texts.append(f"{'':<8} needs {line.needs}")
    total, measured = _cost_of(plan, plan.own_arms(), list(plan.experiments))
    shared = sum(line.seconds for line in rows)
    arms = plan.own_arms()
    texts.append(
        f"together {total / 60:.0f} min{'' if measured else ' (estimated)'} with {_cores(plan)} processes at "
        f"a time: {len(arms)} arms and {len(_rewards(plan, arms))} reward variants run once each (without "
        f"sharing: {shared / 60:.0f} min); on top of the headline replication"
    )
    texts.append("run one: dvc repro experiments/dvc.yaml:table3; run all: dvc repro -P")
    return "\n".join(texts)


def estimate_arm(plan: Plan, name: str, model: str) -> tuple[list[float], bool]:
    """Return the CPU seconds of each process of an arm on one model, and whether they were measured."""
    arm, declared = plan.resolve(name), plan.arm(name)
    seeds = len(arm.params.run.seeds)
    if declared.of:
        seeds = 1 if arm.method == "base" else seeds
        shared = len(plan.rerank_arms(declared.of)) if declared.n is not None else 1
        known = _per_seed(read_costs(plan.params.run.out), "evaluate", f"{model}/{arm.method}")
        scored = (known or EVALUATE_CPU_S) * RESCORE_SHARE
        one = {"rerank": RERANK_CPU_S, "attack": ATTACK_CPU_S}.get(declared.make, scored)
        return [one / max(1, shared)] * seeds, False
    own = read_costs(arm.out)
    cell = f"{model}/{arm.method}"
    scored = _per_seed(own, "evaluate", cell)
    align = _per_seed(own, "align", cell)
    if align and scored:
        return [align, scored] * seeds, True
    headline = read_costs(plan.params.run.out)
    align = _per_seed(headline, "align", cell) or ALIGN_CPU_S.get(arm.method, OTHER_ALIGN_CPU_S)
    scored = _per_seed(headline, "evaluate", cell) or EVALUATE_CPU_S
    return [align, scored] * seeds, False


def changed_stages(root: Path) -> set[str] | None:
    """Return the stages of both pipelines that DVC calls changed, or None where it cannot tell."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: Any = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
    except (IndexError, json.JSONDecodeError):
        return None
    return set(found) if isinstance(found, dict) else None


def _state(plan: Plan, name: str, arms: list[str], rewards: list[str], changed: set[str]) -> str:
    """Stale if the page's stage or any stage before it changed."""
    mine = {name, *(stage_of(plan, a) for a in arms), *(stage_of_rewards(plan, r) for r in rewards)}
    mine |= {f.rpartition("/")[2] for f in plan.experiment(name).reads if f in _STAGES}
    variants = [plan.arm(a).data for a in arms] + [plan.reward_variant(r).data for r in rewards]
    mine |= {"data-variants"} if any(variants) else set()
    for stage in changed:
        where, _, key = stage.rpartition(":")
        base = key.partition("@")[0]
        if where.endswith(PIPELINE):
            if base in mine:
                return "stale"
        elif base != "compare" and plan.experiment(name).arms:
            return "stale"
    return "current"


def _cost_of(plan: Plan, arms: list[str], experiments: list[str]) -> tuple[float, bool]:
    reads = {folder for name in experiments for folder in plan.experiment(name).reads}
    seconds = sum(_STAGES[folder](plan) for folder in sorted(reads) if folder in _STAGES)
    measured = not seconds
    stages: dict[str, list[float]] = {}
    for arm in arms:
        for model in plan.arm_models(arm):
            own, known = estimate_arm(plan, arm, model)
            stages.setdefault(stage_of(plan, arm), []).extend(own)
            measured = measured and known
    for reward in _rewards(plan, arms):
        for model in plan.reward_models(reward):
            cost, known = _reward_seconds(plan, reward, model)
            stages.setdefault(stage_of_rewards(plan, reward), []).append(cost)
            measured = measured and known
    for costs in stages.values():
        seconds += max(max(costs), sum(costs) / _cores(plan)) + START_S
    return seconds, measured


def _grid_seconds(plan: Plan) -> float:
    from drirl.experiments.grid import cells

    known = read_costs(plan.params.run.out)
    total = 0.0
    for cell in cells(plan) if plan.grid is not None else []:
        name = f"{cell.model}/{cell.method}"
        align = _per_seed(known, "align", name) or ALIGN_CPU_S.get(cell.method, OTHER_ALIGN_CPU_S)
        align = 0.0 if cell.default else align  # the headline or an arm has that policy
        total += align + VALIDATION_SHARE * (_per_seed(known, "evaluate", name) or EVALUATE_CPU_S)
    return total / _cores(plan) + START_S


_STAGES = {
    "arms/cross": lambda plan: CROSS_CPU_S,
    "arms/grid": _grid_seconds,
    "arms/routes": lambda plan: ROUTES_CPU_S,
    "arms/scoring": lambda plan: CROSS_CPU_S,
}
"""Folder that a page reads -> seconds of the stage that writes it, where it is no arm."""


def _reward_seconds(plan: Plan, name: str, model: str) -> tuple[float, bool]:
    own = [c for c in read_costs(plan.reward_out(name)) if c.stage == "reward" and c.name == model]
    if own and own[0].values.get("cpu_s"):
        return own[0].values["cpu_s"], True
    headline = [c for c in read_costs(plan.params.run.out) if c.stage == "reward" and c.name == model]
    whole = headline[0].values.get("cpu_s", REWARD_CPU_S) if headline else REWARD_CPU_S
    more = plan.reward_params(name).reward.iterations - plan.params.reward.iterations
    return max(whole * (1 + more * ITERATION_CPU_S / REWARD_CPU_S), 1.0), False


def _rewards(plan: Plan, arms: list[str]) -> list[str]:
    named = [r for a in arms if (r := plan.arm(a).rewards) is not None]
    return [r for r in dict.fromkeys(named) if plan.reward_variant(r).make == "learn"]


def _per_seed(costs: list[Cost], stage: str, cell: str) -> float:
    found = [c.values["cpu_s"] for c in costs if c.stage == stage and c.name.startswith(f"{cell}/seed")]
    return sum(found) / len(found) if found else 0.0


def _cores(plan: Plan) -> int:
    cores = math.floor((os.cpu_count() or 1) / plan.params.run.threads)
    return max(1, min(cores, plan.params.run.workers or cores))
