"""Stage ``evaluate``: score the policies of one (model, method) cell, its seeds side by side.

Out: ``out/evaluate/<model>/<method>/{items.jsonl, runs.jsonl, summary.json}``. This module stays light; what
needs torch is imported in the worker processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl.config import Params, project_root
from drirl.errors import DrirlError
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import EvalItem, RunRecord, atomic_dir, write_json, write_jsonl

if TYPE_CHECKING:
    from drirl.evaluate.harness import Tasks
    from drirl.resources import Meter

__all__ = [
    "PRELOAD",
    "Job",
    "evaluate_paths",
    "jobs_of",
    "names_of",
    "record_config",
    "run",
    "score",
    "summarise",
    "write_records",
]

PRELOAD = ("drirl.evaluate.harness", "drirl.models", "drirl.reward.bank")
UNTRAINED = "base"
"""The method that trains nothing: one policy, recorded under seed 0."""


@dataclass(frozen=True)
class Job:
    """One policy to score; picklable."""

    model: str
    method: str
    seed: int
    path: str
    revision: str | None
    settings: EvaluateSettings
    benchmarks: Path
    out: Path
    data_root: str
    rewards: Path | None
    device: str
    dtype: str
    config: dict[str, Any]
    progress: bool
    cache: Path | None
    cost: bool = True


def run(params: Params, model: str, method: str) -> None:
    """Score every seed of a cell and write its records.

    Raises:
        DrirlError: a policy or the rewards are missing, or as :func:`drirl.evaluate.harness.score_policy`.
    """
    from drirl.parallel import map_processes

    jobs = jobs_of(params, model, method)
    results = map_processes(
        score, jobs, workers=params.run.workers, threads=params.run.threads, preload=PRELOAD
    )
    write_records(params.run.out / "evaluate" / model / method, results)


def evaluate_paths(
    params: Params, *, models: Sequence[str], tasks: Sequence[str], output: Path
) -> Iterator[Path]:
    """Score any policies, each a transformers folder or a hub id, one after another; tasks are loaded once.

    Records name a policy by the last part of its path (by more parts where those are equal), as method
    ``external`` and seed 0. The category rewards were learnt for another policy, so there is no
    ``mean_reward``. One policy is recorded in ``output``, several in a folder each below it, and each folder
    is yielded as soon as it is there.

    Raises:
        DrirlError: not a model, one model twice, an unknown task, or as
            :func:`drirl.evaluate.harness.score_policy`.
    """
    from drirl.evaluate.harness import load_tasks

    settings = params.evaluate.model_copy(update={"tasks": list(tasks), "mean_reward": False})
    names = names_of(models)
    benchmarks = project_root() / "benchmarks"
    loaded = load_tasks(settings, benchmarks=benchmarks, out=params.run.out, data_root=params.data.root)
    for model, name in zip(models, names):
        path, _, revision = model.partition("@") if not Path(model).exists() else (model, "", "")
        job = Job(
            model=name,
            method="external",
            seed=0,
            path=path,
            revision=revision or None,
            settings=settings,
            benchmarks=benchmarks,
            out=params.run.out,
            data_root=params.data.root,
            rewards=None,
            device=params.run.device,
            dtype=params.run.dtype,
            config=record_config(params, settings),
            progress=True,
            cache=_cache(params),
            cost=False,
        )
        folder = output if len(models) == 1 else output / name
        write_records(folder, [score(job, loaded)])
        yield folder


def names_of(models: Sequence[str]) -> list[str]:
    """Return a name for each model: the last part of its path, or as many as tell all of them apart.

    Raises:
        DrirlError: one model is there twice.
    """
    twice = [model for model, count in Counter(models).items() if count > 1]
    if twice:
        raise DrirlError(f"--model: '{twice[0]}' is given twice")
    parts = [
        Path(model).parts if Path(model).exists() else tuple(model.partition("@")[0].split("/"))
        for model in models
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part for part in found[-length:] if part != "/") for found in parts]
        if len(set(names)) == len(names):
            return names
    raise DrirlError("--model: two revisions of one model at once; score them in two runs")


def summarise(runs: Sequence[RunRecord]) -> dict[str, dict[str, float]]:
    """Return ``benchmark -> metric -> mean over seeds``, for ``dvc metrics``; missing values are left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in runs:
        if record.value is not None:
            values.setdefault(record.benchmark, {}).setdefault(record.metric, []).append(record.value)
    return {
        benchmark: {metric: round(sum(found) / len(found), 6) for metric, found in metrics.items()}
        for benchmark, metrics in values.items()
    }


def jobs_of(params: Params, model: str, method: str) -> list[Job]:
    """Return what scores the seeds of a cell; raises as :func:`run`, but for what scoring raises."""
    from drirl.base.location import policy_path

    out = params.run.out
    rewards = out / "reward" / model / "irl" if params.evaluate.mean_reward else None
    if rewards is not None and not rewards.is_dir():
        raise DrirlError(
            f"{rewards}: no category rewards there; run 'dvc repro reward' or set evaluate.mean_reward: false"
        )
    policies: list[tuple[int, str, str | None]] = []
    if method == UNTRAINED:
        policies.append((0, *policy_path(out, model)))
    else:
        for seed in params.run.seeds:
            folder = out / "align" / model / method / f"seed{seed}" / "policy"
            if not (folder / "config.json").is_file():
                raise DrirlError(f"{folder}: no policy there; run 'dvc repro' for align of {model}/{method}")
            policies.append((seed, str(folder), None))
    return [
        Job(
            model=model,
            method=method,
            seed=seed,
            path=path,
            revision=revision,
            settings=params.evaluate,
            benchmarks=project_root() / "benchmarks",
            out=out,
            data_root=params.data.root,
            rewards=rewards,
            device=params.run.device,
            dtype=params.run.dtype,
            config=record_config(params, params.evaluate, method),
            progress=number == 0,
            cache=_cache(params),
        )
        for number, (seed, path, revision) in enumerate(policies)
    ]


def _cache(params: Params) -> Path | None:
    return params.run.out / "cache" / "scores" if params.evaluate.cache else None


def record_config(params: Params, settings: EvaluateSettings, method: str | None = None) -> dict[str, Any]:
    """Return the settings behind a score, without paths, which differ between machines."""
    config: dict[str, Any] = {
        "profile": params.run.profile,
        "meaningful": params.run.meaningful,
        "dtype": params.run.dtype,
        "evaluate": settings.model_dump(mode="json", exclude={"cache"}),  # changes no score
    }
    if method is not None and method != UNTRAINED:
        config["shared"] = params.align.shared.model_dump(mode="json")
        config["method"] = dict(params.align.methods.get(method) or {})
    return config


def score(job: Job, tasks: Tasks | None = None) -> tuple[list[EvalItem], list[RunRecord]]:
    """Load one policy, score it, note what it cost; runs in a process of its own."""
    import sys

    import torch

    from drirl.evaluate.harness import Subject, score_policy
    from drirl.models import load_policy, resolve_device, seed_everything
    from drirl.resources import Meter

    meter = Meter("evaluate", f"{job.model}/{job.method}/seed{job.seed}")
    seed_everything(job.seed)
    device = resolve_device(job.device)
    policy, tokenizer = load_policy(job.path, device, job.dtype, job.revision)
    digest, complete = _identity(job, policy)
    rewards = None
    if job.rewards is not None:
        from drirl.reward.bank import RewardBank

        rewards = RewardBank.load(job.rewards, device=device)
    with torch.inference_mode():
        scored = score_policy(
            policy,
            tokenizer,
            Subject(job.model, job.method, job.seed, digest, job.config),
            job.settings,
            benchmarks=job.benchmarks,
            out=job.out,
            data_root=job.data_root,
            rewards=rewards,
            progress=job.progress and sys.stderr.isatty(),
            tasks=tasks,
            cache=job.cache if complete else None,
        )
    meter.generated_tokens = scored.generated_tokens
    if job.cost:
        _write_cost(meter, job.out, scored.known, scored.known_cost)
    return scored.items, scored.runs


def _identity(job: Job, policy: Any) -> tuple[str, bool]:
    """Return the hash that records name the policy by, and whether it covers all of the policy's content."""
    from drirl.models import policy_hash

    folder = Path(job.path)
    if folder.is_dir():
        return policy_hash(folder), not (folder / "adapter_config.json").is_file()  # its base lies elsewhere
    commit = getattr(policy.config, "_commit_hash", None)
    return str(commit or job.revision or ""), commit is not None


def _write_cost(meter: Meter, out: Path, known: Sequence[str], cost: dict[str, float]) -> None:
    """Write the cost of scoring; tasks that were known already count with what they cost when scored."""
    import resource
    import time

    if not known:
        meter.write(out)
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    meter.write(
        out,
        wall_s=round(time.perf_counter() - meter.started + cost["wall_s"], 3),
        cpu_s=round(usage.ru_utime + usage.ru_stime + cost["cpu_s"], 3),
        peak_rss_bytes=max(usage.ru_maxrss * 1024, int(cost["peak_rss_bytes"])),
        known_tasks=len(known),
    )


def write_records(folder: Path, results: Sequence[tuple[list[EvalItem], list[RunRecord]]]) -> None:
    """Write the records of the policies of one folder: items, runs and summary, all or none."""
    items = [item for found, _ in results for item in found]
    runs = [record for _, found in results for record in found]
    with atomic_dir(folder) as target:
        write_jsonl(target / "items.jsonl", items)
        write_jsonl(target / "runs.jsonl", runs)
        write_json(target / "summary.json", summarise(runs))
