"""Attack the policies of one (model, method) cell, its seeds side by side.

Out: ``out/attack/<model>/<method>/{items.jsonl, runs.jsonl, steps.jsonl, summary.json}``, read like what
the stage ``evaluate`` writes. The attacking messages go to ``out/attack_texts/<model>/<method>/``, which git
ignores and no stage keeps or reads. What one attack found on one policy is kept in ``out/cache/attacks``, so
that an interrupted run goes on with the next. This module stays light; what needs torch is imported in the
workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drirl.attack.settings import AttackSettings
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.records import (
    SCHEMA_VERSION,
    EvalItem,
    RunRecord,
    atomic_dir,
    read_json,
    write_json,
    write_jsonl,
)

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
    cache: Path | None


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
    jobs = _jobs(params, settings, model, method, policies)
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


def _jobs(
    params: Params, settings: AttackSettings, model: str, method: str, policies: Mapping[int, Path] | None
) -> list[_Job]:
    return [
        _Job(
            model=model,
            method=method,
            seed=seed,
            path=path,
            revision=revision,
            settings=settings,
            out=params.run.out,
            device=params.run.device,
            dtype=params.run.dtype,
            config=_config(params),
            cache=params.run.out / "cache" / "attacks" if params.evaluate.cache else None,
        )
        for seed, path, revision in _policies(params, model, method, policies)
    ]


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
        path = _kept(job, name, digest, items)
        if (known := _read(path)) is None:
            kind, budget = searches[name]
            search: Search = kind(scorer, items, budget, settings.seed)
            attacked = run_search(search, scorer, items, budget.steps)
            known = _Result(
                report.eval_items(name, attacked, subject, settings),
                [],
                report.step_rows(name, attacked, subject),
                report.texts(name, attacked, subject),
            )
            if path is not None:
                write_json(path, {part: [_plain(row) for row in getattr(known, part)] for part in _PARTS})
        result.items.extend(known.items)
        result.steps.extend(known.steps)
        result.texts.extend(known.texts)
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


_PARTS = ("items", "steps", "texts")


def _kept(job: _Job, name: str, policy: str, items: Sequence[Mapping[str, Any]]) -> Path | None:
    """Return the file for what an attack finds on a policy; None if nothing is kept.

    Its name is a hash of all that decides the content: weights, prompts, settings, code, versions, device,
    and who is named in the records.
    """
    import torch

    from drirl.evaluate.cache import digest, sources_digest
    from drirl.evaluate.harness import package_versions

    if job.cache is None or not policy or (Path(job.path) / "adapter_config.json").is_file():
        return None
    about = {
        "schema": SCHEMA_VERSION,
        "attack": name,
        "policy": policy,
        "subject": [job.model, job.method, job.seed, job.config],
        "items": list(items),
        "settings": job.settings.model_dump(mode="json", exclude={"attacks"}),
        "code": [
            sources_digest([Path(__file__)]),
            Path(__file__).with_name("pieces.yaml").read_text("utf-8"),
        ],
        "versions": package_versions(),
        "device": [job.device, torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"],
        "dtype": job.dtype,
        "threads": torch.get_num_threads(),
    }
    return job.cache / f"{digest(about)}.json"


def _read(path: Path | None) -> _Result | None:
    """Return what is kept; None if there is nothing whole."""
    if path is None or not path.is_file():
        return None
    try:
        value = read_json(path)
        return _Result([EvalItem(**row) for row in value["items"]], [], value["steps"], value["texts"])
    except (DrirlError, KeyError, TypeError):
        return None


def _plain(row: Any) -> Any:
    return asdict(row) if isinstance(row, EvalItem) else row


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
