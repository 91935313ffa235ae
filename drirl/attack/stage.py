"""Attack the policies of one (model, method) cell, its seeds side by side.

Out: ``out/attack/<model>/<method>/{items.jsonl, runs.jsonl, steps.jsonl, summary.json}``, read like what
the stage ``evaluate`` writes. The attacking messages go to ``out/attack_texts/<model>/<method>/``, which git
ignores and no stage keeps or reads. This module stays light; what needs torch is imported in the workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.attack.settings import AttackSettings
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.records import EvalItem, RunRecord, atomic_dir, write_json, write_jsonl

__all__ = ["TEXTS", "attack_cell"]

PRELOAD = ("drirl.attack.autodan", "drirl.attack.gcg", "drirl.attack.report", "drirl.models")
TEXTS = "attack_texts"
UNTRAINED = "base"


@dataclass(frozen=True)
class _Job:
    """One policy to attack; picklable."""

    model: str
    method: str
    seed: int
    path: str
    revision: str | None
    settings: AttackSettings
    out: Path
    device: str
    dtype: str
    config: dict[str, Any]


@dataclass(frozen=True)
class _Result:
    items: list[EvalItem]
    runs: list[RunRecord]
    steps: list[dict[str, Any]]
    texts: list[dict[str, Any]]


def attack_cell(
    params: Params,
    model: str,
    method: str,
    *,
    attacks: Sequence[str] | None = None,
    policies: Mapping[int, Path] | None = None,
    output: Path | None = None,
    texts: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the attacks on every seed of a cell and write the records.

    Args:
        method: name in the records; the folder under ``out/align`` unless ``policies`` is given.
        attacks: names in place of ``attack.attacks``.
        policies: transformers folder by seed, for arms and other policies.
        output: folder of the records; default ``out/attack/<model>/<method>``.
        texts: folder of the attacking messages; default ``out/attack_texts/<model>/<method>``.
    Returns:
        The content of ``summary.json``: per attack the success rate within 0, 1, ... steps (mean over seeds),
        the refusal rate, and the passes spent.

    Raises:
        DrirlError: a policy is missing, too few prompts, or a prompt that does not fit.
    """
    from drirl.parallel import map_processes

    settings = params.attack
    if attacks is not None:
        settings = AttackSettings.model_validate(settings.model_dump() | {"attacks": list(attacks)})
    out = params.run.out
    jobs = [
        _Job(
            model=model,
            method=method,
            seed=seed,
            path=path,
            revision=revision,
            settings=settings,
            out=out,
            device=params.run.device,
            dtype=params.run.dtype,
            config=_config(params),
        )
        for seed, path, revision in _policies(params, model, method, policies)
    ]
    results = map_processes(
        _attack, jobs, workers=params.run.workers, threads=params.run.threads, preload=PRELOAD
    )
    folder = Path(output) if output is not None else out / "attack" / model / method
    hidden = Path(texts) if texts is not None else out / TEXTS / model / method
    summary = _summary(results, settings)
    for name in settings.attacks:
        rows = [row for result in results for row in result.texts if row["benchmark"] == name]
        write_jsonl(hidden / f"{name}.jsonl", rows)
    with atomic_dir(folder) as target:
        write_jsonl(target / "items.jsonl", [item for result in results for item in result.items])
        write_jsonl(target / "runs.jsonl", [record for result in results for record in result.runs])
        write_jsonl(target / "steps.jsonl", [row for result in results for row in result.steps])
        write_json(target / "summary.json", summary)
    return summary


def _policies(
    params: Params, model: str, method: str, given: Mapping[int, Path] | None
) -> list[tuple[int, str, str | None]]:
    from drirl.base.location import policy_path

    if given is None and method == UNTRAINED:
        return [(0, *policy_path(params.run.out, model))]
    if given is None:
        cell = params.run.out / "align" / model / method
        given = {seed: cell / f"seed{seed}" / "policy" for seed in params.run.seeds}
    for folder in given.values():
        if not (Path(folder) / "config.json").is_file():
            raise DrirlError(f"{folder}: no policy there; run 'dvc repro' for align of {model}/{method}")
    return [(seed, str(folder), None) for seed, folder in sorted(given.items())]


def _config(params: Params) -> dict[str, Any]:
    return {
        "profile": params.run.profile,
        "meaningful": params.run.meaningful,
        "dtype": params.run.dtype,
    }


def _attack(job: _Job) -> _Result:
    """Load one policy and run every attack on it; runs in a process of its own."""
    import hashlib

    from drirl.attack import report
    from drirl.attack.autodan import Autodan
    from drirl.attack.gcg import Gcg
    from drirl.attack.scorer import Scorer
    from drirl.attack.search import Search, behaviours, run_search
    from drirl.evaluate.harness import Subject, package_versions
    from drirl.models import load_policy, policy_hash, resolve_device, seed_everything

    settings = job.settings
    seed_everything(settings.seed)
    policy, tokenizer = load_policy(job.path, resolve_device(job.device), job.dtype, job.revision)
    policy.requires_grad_(False)
    digest = policy_hash(Path(job.path)) if Path(job.path).is_dir() else str(job.revision or "")
    subject = Subject(job.model, job.method, job.seed, digest, job.config)
    items = behaviours(job.out, per_category=settings.per_category, split=settings.split, seed=settings.seed)
    scorer = Scorer(
        policy,
        tokenizer,
        target=settings.target,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )
    searches: dict[str, tuple[Any, Any]] = {
        "gcg": (Gcg, settings.gcg),
        "autodan": (Autodan, settings.autodan),
    }
    result = _Result([], [], [], [])
    for name in settings.attacks:
        kind, budget = searches[name]
        search: Search = kind(scorer, items, budget, settings.seed)
        attacked = run_search(search, scorer, items, budget.steps)
        result.items.extend(report.eval_items(name, attacked, subject, settings))
        result.steps.extend(report.step_rows(name, attacked, subject))
        result.texts.extend(report.texts(name, attacked, subject))
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]
    result.runs.extend(
        report.run_records(
            result.items,
            subject,
            settings,
            template_hash=template,
            versions=package_versions(),
            device=policy.device.type,
        )
    )
    return result


def _summary(results: Sequence[_Result], settings: AttackSettings) -> dict[str, dict[str, Any]]:
    """Return means over seeds per attack."""
    from drirl.attack.report import SUCCESS_RATE, success_curve

    found: dict[str, dict[str, Any]] = {}
    for name in settings.attacks:
        steps = getattr(settings, name).steps
        items = [[item for item in result.items if item.benchmark == name] for result in results]
        curves = [success_curve(one, steps) for one in items]
        own = [item for one in items for item in one if item.metric == SUCCESS_RATE]
        rates = [
            record.value
            for result in results
            for record in result.runs
            if record.benchmark == name and record.metric == "refusal_rate"
        ]
        found[name] = {
            "success_by_step": [round(sum(values) / len(values), 6) for values in zip(*curves, strict=True)],
            "refusal_rate": round(sum(rate for rate in rates if rate is not None) / len(rates), 6),
            "prompts": len(items[0]) // 3,
            "seeds": len(results),
            "forward_passes": sum(item.raw["forward_passes"] for item in own),
            "gradient_passes": sum(item.raw["gradient_passes"] for item in own),
        }
    return found
