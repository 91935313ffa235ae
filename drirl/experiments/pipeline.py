"""Write ``experiments/dvc.yaml`` from what is declared: every arm once, every page a target of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from drirl.experiments import pipeline_more as more
from drirl.experiments.page import folder_of
from drirl.experiments.plan import ARMS, EXPERIMENTS, FOLDER, Arm, Plan
from drirl.experiments.replication import CLAIMS, load_claims
from drirl.records import atomic_write

__all__ = ["PIPELINE", "build", "render", "stage_of", "stage_of_rewards", "write_pipeline"]

PIPELINE = f"{FOLDER}/dvc.yaml"
_HEADER = """\
# Written by `drirl experiments pipeline` from arms.yaml and experiments.yaml; do not edit. Arms and pages on
# top of the headline replication: `dvc repro experiments/dvc.yaml:table3` runs one page with what it needs,
# `dvc repro -P` both pipelines. Plain `dvc repro` leaves this one alone.
"""
_OUT = "${run.out}"
_REPORTS = "${compare.reports}"
_RUN = ("run.seed", "run.threads", "run.device", "run.dtype", "data.disjoint")


def stage_of(plan: Plan, name: str) -> str:
    """Return the name of the stage that runs an arm.

    Arms of a kind that the same pages need share a stage, and its processes: ``arms-fig4-q06``. So do arms
    that rerank the same policies. No page waits for an arm that it does not show; one on a single model waits
    for the others where another page needs the arm there. Arms whose router knows what is harmful have a
    stage of their own.
    """
    arm = plan.arm(name)
    if arm.make == "rerank":
        return f"rerank-{arm.of}"
    kind = {"train": "arms", "route": "routed", "rescore": "rescored", "attack": "attacked"}[arm.make]
    return "-".join([kind, *plan.pages_of(name), *(["harm"] if arm.harm_known else [])])


def stage_of_rewards(plan: Plan, name: str) -> str:
    """Return the name of the stage that learns a reward variant; variants learnt together share it."""
    return f"reward-{plan.reward_variant(name).together or name}"


def build(plan: Plan) -> dict[str, Any]:
    """Return the pipeline as plain values: data variants, rewards, arms, pages, the summary page."""
    arms = plan.own_arms()
    rewards = list(dict.fromkeys(r for a in arms if (r := plan.arm(a).rewards) is not None))
    rewards = [r for r in plan.rewards if r in rewards and plan.reward_variant(r).make == "learn"]
    data = [plan.arm(a).data for a in arms] + [plan.reward_variant(r).data for r in rewards]
    stages: dict[str, Any] = {}
    variants = list(dict.fromkeys(d for d in data if d is not None))
    if variants:
        stages["data-variants"] = _data_stage(variants)
    for stage in dict.fromkeys(stage_of_rewards(plan, r) for r in rewards):
        stages[stage] = _reward_stage(plan, [r for r in rewards if stage_of_rewards(plan, r) == stage])
    together: dict[str, list[str]] = {}
    for name in arms:
        together.setdefault(stage_of(plan, name), []).append(name)
    stages |= {stage: _stage(plan, names) for stage, names in together.items()}
    model = "${run.models[0]}"
    if any(plan.arm(a).make == "route" for a in arms):
        stages["routes"] = more.routes_stage()
    if plan.grid is not None:
        stages["grid"] = more.grid_stage(plan, _arm_stage(plan, [next(iter(plan.grid.methods))]), model)
    stages["cross"] = more.cross_stage(model)
    stages["scoring"] = more.scoring_stage(plan, model, rewards)
    for name in plan.experiments:
        stages[name] = _page_stage(plan, name)
    stages["replication"] = _replication_stage(plan)
    return {"vars": ["../params.yaml"], "stages": stages}


def render(plan: Plan) -> str:
    """Return the text of ``experiments/dvc.yaml``."""
    return _HEADER + yaml.dump(build(plan), Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    """Writes a list twice rather than as an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_pipeline(plan: Plan) -> Path:
    """Write ``experiments/dvc.yaml``, drop stages that are gone from ``dvc.lock`` beside it; return its path.

    DVC keeps what it once locked and writes the whole lock anew after every stage, in seconds if it is long.
    """
    path = plan.root / PIPELINE
    with atomic_write(path) as temporary:
        temporary.write_text(render(plan), encoding="utf-8")
    _drop_locked(path.with_name("dvc.lock"), set(build(plan)["stages"]))
    return path


def _drop_locked(path: Path, stages: set[str]) -> None:
    """Take stages that are none of ``stages`` out of a lock file, which otherwise stays as DVC wrote it."""
    from ruamel.yaml import YAML

    if not path.is_file():
        return
    lock = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    gone = set(lock.get("stages") or {}) - stages
    if not gone:
        return
    writer = YAML()
    writer.default_flow_style = False
    text = writer.load(path.read_text(encoding="utf-8"))
    for name in gone:
        del text["stages"][name]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        writer.dump(text, handle)


def _data_stage(names: list[str]) -> dict[str, Any]:
    files = ("prompts.jsonl", "demos.jsonl", "imbalanced.jsonl", "imbalanced_demos.jsonl")
    code = [f"drirl/{name}.py" for name in ("experiments/variants", "data/taxonomy", "records")]
    return {
        "wdir": "..",
        "cmd": f"drirl experiments data {' '.join(names)}",
        "params": [{ARMS: [f"data.{name}" for name in names]}, "run.seed"],
        "deps": [*code, *(f"{_OUT}/data/{file}" for file in files)],
        "outs": [f"{_OUT}/arms/data-{name}/data" for name in names],
    }


def _reward_stage(plan: Plan, names: list[str]) -> dict[str, Any]:
    changed = [{ARMS: [f"rewards.{name}" for name in names]}]
    sources = list(dict.fromkeys(plan.reward_variant(name).data for name in names))
    variants = [plan.reward_variant(name) for name in names]
    begun = any(v.data is None and set(v.set) <= {"reward.iterations"} for v in variants)
    models = _models(plan, [m for name in names for m in plan.reward_models(name)])
    option = "" if models is None else f" --model {models}"
    where = "" if models is None else f"/{models}"
    return {
        "wdir": "..",
        "cmd": f"drirl experiments rewards {' '.join(names)}{option}",
        "params": [*changed, "run.models", *_RUN, "reward"],
        "deps": [
            "drirl/experiments/run.py",
            *more.code_of(plan, "reward"),
            *(path for source in sources for path in _data_paths(source)),
            f"{_OUT}/base",
            *([f"{_OUT}/reward"] if begun else []),  # its first outer iterations are read
        ],
        "outs": [f"{_OUT}/arms/reward-{name}/reward{where}" for name in names],
    }


def _stage(plan: Plan, names: list[str]) -> dict[str, Any]:
    """Return the stage of arms of one kind, on the models that a page needs, all in one pool of processes."""
    arm = plan.arm(names[0])
    model = _models(plan, plan.arm_models(names[0]))
    if arm.make in ("rescore", "attack"):
        return more.rescore_stage(plan, names, model)
    if arm.make == "rerank":
        return more.rerank_stage(plan, arm.of, model or "${run.models[0]}")
    stage = _arm_stage(plan, names)
    return more.route_stage(stage) if arm.make == "route" else stage


def _arm_stage(plan: Plan, names: list[str]) -> dict[str, Any]:
    methods = {name: plan.resolve(name).method for name in names}
    own = [f"arms.{name}" for name in names if name in plan.arms]
    model = _models(plan, plan.arm_models(names[0]))
    option = "" if model is None else f" --model {model}"
    data = [path for name in names for path in _data_paths(plan.arm(name).data)]
    rewards = [path for name in names for path in _reward_paths(plan, plan.arm(name), model)]
    outs: list[Any] = []
    for name, method in methods.items():
        cell = "" if model is None else f"/{model}/{method}"
        outs += [
            {f"{_OUT}/arms/{name}/align{cell}": {"persist": True}},
            f"{_OUT}/arms/{name}/evaluate{cell}",
        ]
    return {
        "wdir": "..",
        "cmd": f"drirl experiments run {' '.join(names)}{option}",
        "params": [
            *([{ARMS: own}] if own else []),
            *(["run.models"] if model is None else []),
            "run.seeds",
            "run.threads",
            "run.device",
            "run.dtype",
            "data.disjoint",
            "data.encoder",
            "data.root",
            "align.shared",
            *dict.fromkeys(f"align.methods.{method}" for method in methods.values()),
            "evaluate",
        ],
        "deps": [
            *dict.fromkeys(f"baselines/{method}.py" for method in methods.values()),
            "drirl/experiments/jobs.py",
            "drirl/experiments/run.py",
            *dict.fromkeys([*more.code_of(plan, "align"), *more.code_of(plan, "evaluate")]),
            *dict.fromkeys(data),
            f"{_OUT}/base" + ("" if model is None else f"/{model}"),
            *dict.fromkeys(rewards),
        ],
        "outs": outs,
    }


def _reward_paths(plan: Plan, arm: Arm, model: str | None) -> list[str]:
    """Return the rewards an arm depends on; a variant that is learnt has no static one of its own."""
    folder = f"{_OUT}/reward"
    if arm.rewards is not None and plan.reward_variant(arm.rewards).make == "learn":
        folder = f"{_OUT}/arms/reward-{arm.rewards}/reward"
        return [folder if model is None else f"{folder}/{model}/irl"]
    if model is None:
        return [folder]
    return [f"{_OUT}/reward/{model}/{part}" for part in ("irl", "static")]


def _page_stage(plan: Plan, name: str) -> dict[str, Any]:
    experiment = plan.experiment(name)
    own = plan.own_arms([name])
    runnable = [a for a in experiment.arms.values() if not plan.problem(a)] if not experiment.needs else []
    logs = bool(experiment.extra)
    deps = ["drirl/experiments", "drirl/compare", "drirl/data/taxonomy.py"]
    if any(plan.resolve(arm).headline for arm in runnable):
        deps += [f"{_OUT}/evaluate", *([f"{_OUT}/align"] if logs else [])]
    if not experiment.needs:
        for arm in own:
            trained = logs and not plan.arm(arm).of
            deps += [f"{_OUT}/arms/{arm}/evaluate", *([f"{_OUT}/arms/{arm}/align"] if trained else [])]
        deps += [f"{_OUT}/{folder}" for folder in experiment.reads]
        variants = [r for a in own if (r := plan.arm(a).rewards) and plan.reward_variant(r).make == "learn"]
        deps += [f"{_OUT}/arms/reward-{r}/reward" for r in dict.fromkeys(variants) if logs]
    base = f"{_REPORTS}/{folder_of(name)}/{name}"
    params: list[Any] = [{EXPERIMENTS: [f"experiments.{name}"]}, "run", "compare", "evaluate.split"]
    if "hyper_parameters" in experiment.extra:
        params += ["base.models", "reward", "align"]
    arms = [a for a in experiment.arms.values() if a in plan.arms]
    if arms:
        params.append({ARMS: [f"arms.{arm}" for arm in dict.fromkeys(arms)]})
    return {
        "wdir": "..",
        "cmd": f"drirl experiments page {name}",
        "params": params,
        "deps": deps,
        "outs": [{f"{base}.{kind}": {"cache": False}} for kind in ("md", "csv")],
    }


def _replication_stage(plan: Plan) -> dict[str, Any]:
    own = plan.own_arms(dict.fromkeys(claim.experiment for claim in load_claims(plan)))
    return {
        "wdir": "..",
        "cmd": "drirl experiments replication",
        "params": ["run", "compare", "evaluate.split"],
        "deps": [
            "drirl/experiments",
            "drirl/compare",
            EXPERIMENTS,
            CLAIMS,
            "${compare.published}",
            f"{_OUT}/evaluate",
            *(f"{_OUT}/arms/{arm}/evaluate" for arm in own),
        ],
        "outs": [{f"{_REPORTS}/replication.md": {"cache": False}}],
    }


def _data_paths(variant: str | None) -> list[str]:
    folder = f"{_OUT}/data" if variant is None else f"{_OUT}/arms/data-{variant}/data"
    return [f"{folder}/prompts.jsonl", f"{folder}/demos.jsonl"]


def _models(plan: Plan, needed: list[str]) -> str | None:
    """Return None if every model is needed, else the one, by its place: profiles name other models."""
    known = plan.params.run.models
    if len(known) > 1 and set(needed) == set(known):
        return None
    return "${run.models[" + str(known.index(needed[0]) if needed else 0) + "]}"
