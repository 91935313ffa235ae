"""Stages of what is no plain training: routed, rescored and reranked arms, the grid, the real pairs."""

from __future__ import annotations

from typing import Any

import yaml

from drirl.experiments.plan import ARMS, Plan

__all__ = [
    "code_of",
    "cross_stage",
    "grid_stage",
    "rerank_stage",
    "rescore_stage",
    "route_stage",
    "routes_stage",
    "scoring_stage",
]

_OUT = "${run.out}"
_HARDWARE = ["run.threads", "run.device", "run.dtype"]
_PROMPTS = f"{_OUT}/data/prompts.jsonl"
_REWARDS = [
    *(f"drirl/data/{name}.py" for name in ("check", "raw", "split")),
    *(f"drirl/{name}.py" for name in ("detect", "generate", "models", "packs", "records")),
    *(f"drirl/reward/{name}.py" for name in ("bank", "implicit", "items", "policy", "sharing")),
    *(f"drirl/{name}.py" for name in ("sampler", "text")),
]
"""The code behind a score of rewards that are learnt."""


def code_of(plan: Plan, stage: str) -> list[str]:
    """Return the code that a stage of the headline pipeline depends on, as dvc.yaml lists it."""
    text = (plan.root / "dvc.yaml").read_text(encoding="utf-8")
    deps = yaml.safe_load(text)["stages"][stage]["deps"]
    return [dep for dep in deps if "${" not in dep]


def _scoring(plan: Plan, *evaluate: str) -> list[str]:
    """Return the code that scores completions, without benchmarks and lm-eval.

    ``evaluate``: the modules of ``drirl/evaluate`` that are used all the same.
    """
    rest = [dep for dep in code_of(plan, "evaluate") if dep not in ("benchmarks", "drirl/evaluate")]
    return [*(f"drirl/evaluate/{name}.py" for name in evaluate), *rest]


def rescore_stage(plan: Plan, names: list[str], model: str | None) -> dict[str, Any]:
    """Return the stage of arms that score or attack policies.

    ``model``: a name or a template; None: every model.
    """
    sources = {name: plan.resolve(plan.arm(name).of) for name in names}
    policies = []
    for name, source in sources.items():
        folder = _OUT if source.headline else f"{_OUT}/arms/{plan.arm(name).of}"
        own = "align" if model is None else f"align/{model}/{source.method}"
        base = "base" if model is None else f"base/{model}"
        policies.append(f"{_OUT}/{base}" if source.method == "base" else f"{folder}/{own}")
    option, models = ("", ["run.models"]) if model is None else (f" --model {model}", [])
    cells = {name: "" if model is None else f"/{model}/{s.method}" for name, s in sources.items()}
    if plan.arm(names[0]).make == "attack":
        settings = ["attack"]
        code = ["drirl/attack", *_scoring(plan, "harness", "items", "stage", "tasks")]
    else:
        settings, code = ["data.root", "evaluate"], code_of(plan, "evaluate")
    return {
        "wdir": "..",
        "cmd": f"drirl experiments run {' '.join(names)}{option}",
        "params": [{ARMS: [f"arms.{name}" for name in names]}, "run.seeds", *models, *_HARDWARE, *settings],
        "deps": [
            *(f"drirl/experiments/{part}.py" for part in ("jobs", "more", "run")),
            *code,
            _PROMPTS,
            *dict.fromkeys(policies),
        ],
        "outs": [f"{_OUT}/arms/{name}/evaluate{cell}" for name, cell in cells.items()],
    }


def rerank_stage(plan: Plan, of: str, model: str) -> dict[str, Any]:
    """Return the stage that reranks the policies of an arm, for every N at once."""
    source = plan.resolve(of)
    names = plan.rerank_arms(of)
    folder = _OUT if source.headline else f"{_OUT}/arms/{of}"
    trained = [] if source.method == "base" else [f"{folder}/align/{model}/{source.method}"]
    return {
        "wdir": "..",
        "cmd": f"drirl experiments rerank {of} --model {model}",
        "params": [
            {ARMS: [f"arms.{name}" for name in names]},
            "run.seeds",
            *_HARDWARE,
            "evaluate.split",
            "evaluate.max_new_tokens",
        ],
        "deps": [
            "drirl/experiments/best_of.py",
            "drirl/serve/rerank.py",
            "drirl/serve/routed.py",
            *_scoring(plan, "stage"),
            _PROMPTS,
            f"{_OUT}/base/{model}",
            f"{_OUT}/reward/{model}/irl",
            *trained,
        ],
        "outs": [f"{_OUT}/arms/{name}/evaluate/{model}/{source.method}" for name in names],
    }


def route_stage(stage: dict[str, Any]) -> dict[str, Any]:
    """Return the stage of a routed arm, from what it would be with labels."""
    more = (
        *(f"drirl/experiments/{name}.py" for name in ("routed_trainer", "routing")),
        "drirl/experiments/methods",
        "drirl/reward/reliability.py",
        "drirl/serve/routed.py",
        "drirl/serve/router.py",
        f"{_OUT}/arms/routes",
    )
    # The method's file is another one, so a change of the baseline's does not matter.
    kept = [d for d in stage["deps"] if not d.startswith("baselines/")]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
    return {**stage, "deps": [*kept, *more], "outs": outs}


def routes_stage() -> dict[str, Any]:
    """Return the stage that classifies the training prompts."""
    return {
        "wdir": "..",
        "cmd": "drirl experiments routes",
        "params": ["run.seed", "data.encoder"],
        "deps": [
            "drirl/experiments/routing.py",
            "drirl/hardness/encoder.py",
            "drirl/reward/reliability.py",
            "drirl/serve/router.py",
            "drirl/records.py",
            _PROMPTS,
        ],
        "outs": [f"{_OUT}/arms/routes"],
    }


def grid_stage(plan: Plan, arm: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the stage of the grid, with the code that ``arm``, the stage of an arm, depends on."""
    assert plan.grid is not None
    kept = [d for d in arm["deps"] if not d.startswith(("baselines/", _OUT))]
    return {
        "wdir": "..",
        "cmd": "drirl experiments grid",
        "params": [
            {ARMS: ["grid"]},
            *_HARDWARE,
            "data.disjoint",
            "data.encoder",
            "data.root",
            "align.shared",
            *(f"align.methods.{method}" for method in plan.grid.methods),
            "evaluate",
        ],
        "deps": [
            *(f"baselines/{method}.py" for method in plan.grid.methods),
            "drirl/experiments/grid.py",
            *kept,
            _PROMPTS,
            f"{_OUT}/data/demos.jsonl",
            f"{_OUT}/base/{model}",
            *(f"{_OUT}/reward/{model}/{part}" for part in ("irl", "static")),
        ],
        "outs": [{f"{_OUT}/arms/grid": {"persist": True}}],
    }


def scoring_stage(plan: Plan, model: str, learnt: list[str]) -> dict[str, Any]:
    """Return the stage that measures what asking for a reward costs; ``learnt``: reward variants run."""
    kinds = [kind for kind in ("single", "adapters", "separate") if kind in learnt]
    return {
        "wdir": "..",
        "cmd": "drirl experiments scoring",
        "params": [*_HARDWARE, "data.encoder", "evaluate.split", "reward.sharing"],
        "deps": [
            "drirl/base/location.py",
            "drirl/data/settings.py",
            "drirl/experiments/scoring.py",
            "drirl/hardness/encoder.py",
            "drirl/hardness/split.py",
            *_REWARDS,
            _PROMPTS,
            f"{_OUT}/data/demos.jsonl",
            f"{_OUT}/base/{model}",
            f"{_OUT}/reward/{model}/irl",
            *(f"{_OUT}/arms/reward-{kind}/reward/{model}" for kind in kinds),
        ],
        "outs": [f"{_OUT}/arms/scoring"],
    }


def cross_stage(model: str) -> dict[str, Any]:
    """Return the stage that scores human-written pairs."""
    return {
        "wdir": "..",
        "cmd": "drirl experiments cross",
        "params": ["run.seed", "run.device", "data.root"],
        "deps": [
            "drirl/experiments/cross.py",
            "drirl/data/taxonomy.py",
            *_REWARDS,
            f"{_OUT}/reward/{model}/irl",
        ],
        "outs": [f"{_OUT}/arms/cross"],
    }
