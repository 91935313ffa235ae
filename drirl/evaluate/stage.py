"""Stage ``evaluate``: score the policies of one (model, method) cell, its seeds side by side.

Out: ``out/evaluate/<model>/<method>/{items.jsonl, runs.jsonl, summary.json}``. This module stays light; what
needs torch is imported in the worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.config import Params, project_root
from drirl.errors import DrirlError
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import EvalItem, RunRecord, atomic_dir, write_json, write_jsonl

__all__ = ["evaluate_path", "run", "summarise"]

PRELOAD = ("drirl.evaluate.harness", "drirl.models", "drirl.reward.bank")
UNTRAINED = "base"
"""The method that trains nothing: one policy, recorded under seed 0."""


@dataclass(frozen=True)
class _Job:
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
    cost: bool = True


def run(params: Params, model: str, method: str) -> None:
    """Score every seed of a cell and write its records.

    Raises:
        DrirlError: a policy or the rewards are missing, or as :func:`drirl.evaluate.harness.score_policy`.
    """
    from drirl.parallel import map_processes

    jobs = _jobs(params, model, method)
    results = map_processes(
        _score, jobs, workers=params.run.workers, threads=params.run.threads, preload=PRELOAD
    )
    _write(params.run.out / "evaluate" / model / method, results)


def evaluate_path(params: Params, *, model: str, tasks: Sequence[str], output: Path) -> None:
    """Score any policy: a transformers folder or a hub id.

    Records name the policy by the last part of ``model``, as method ``external`` and seed 0. The category
    rewards were learnt for another policy, so there is no ``mean_reward``.

    Raises:
        DrirlError: not a model, an unknown task, or as :func:`drirl.evaluate.harness.score_policy`.
    """
    path, _, revision = model.partition("@") if not Path(model).exists() else (model, "", "")
    settings = params.evaluate.model_copy(update={"tasks": list(tasks), "mean_reward": False})
    job = _Job(
        model=Path(path).name,
        method="external",
        seed=0,
        path=path,
        revision=revision or None,
        settings=settings,
        benchmarks=project_root() / "benchmarks",
        out=params.run.out,
        data_root=params.data.root,
        rewards=None,
        device=params.run.device,
        dtype=params.run.dtype,
        config=_config(params, settings, None),
        progress=True,
        cost=False,
    )
    _write(output, [_score(job)])


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


def _jobs(params: Params, model: str, method: str) -> list[_Job]:
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
        _Job(
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
            config=_config(params, params.evaluate, method),
            progress=number == 0,
        )
        for number, (seed, path, revision) in enumerate(policies)
    ]


def _config(params: Params, settings: EvaluateSettings, method: str | None) -> dict[str, Any]:
    """Return the settings behind a score, without paths, which differ between machines."""
    config: dict[str, Any] = {
        "profile": params.run.profile,
        "meaningful": params.run.meaningful,
        "dtype": params.run.dtype,
        "evaluate": settings.model_dump(mode="json"),
    }
    if method is not None and method != UNTRAINED:
        config["shared"] = params.align.shared.model_dump(mode="json")
        config["method"] = dict(params.align.methods.get(method) or {})
    return config


def _score(job: _Job) -> tuple[list[EvalItem], list[RunRecord]]:
    """Load one policy, score it, note what it cost; runs in a process of its own."""
    import sys

    import torch

    from drirl.evaluate.harness import Subject, score_policy
    from drirl.models import load_policy, policy_hash, resolve_device, seed_everything
    from drirl.resources import Meter

    meter = Meter("evaluate", f"{job.model}/{job.method}/seed{job.seed}")
    seed_everything(job.seed)
    device = resolve_device(job.device)
    policy, tokenizer = load_policy(job.path, device, job.dtype, job.revision)
    digest = policy_hash(Path(job.path)) if Path(job.path).is_dir() else ""
    if not digest:
        digest = str(getattr(policy.config, "_commit_hash", None) or job.revision or "")
    rewards = None
    if job.rewards is not None:
        from drirl.reward.bank import RewardBank

        rewards = RewardBank.load(job.rewards, device=device)
    subject = Subject(job.model, job.method, job.seed, digest, job.config)
    with torch.inference_mode():
        scored = score_policy(
            policy,
            tokenizer,
            subject,
            job.settings,
            benchmarks=job.benchmarks,
            out=job.out,
            data_root=job.data_root,
            rewards=rewards,
            progress=job.progress and sys.stderr.isatty(),
        )
    meter.generated_tokens = scored.generated_tokens
    if job.cost:
        meter.write(job.out)
    return scored.items, scored.runs


def _write(folder: Path, results: Sequence[tuple[list[EvalItem], list[RunRecord]]]) -> None:
    items = [item for found, _ in results for item in found]
    runs = [record for _, found in results for record in found]
    with atomic_dir(folder) as target:
        write_jsonl(target / "items.jsonl", items)
        write_jsonl(target / "runs.jsonl", runs)
        write_json(target / "summary.json", summarise(runs))
