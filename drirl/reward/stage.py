"""Stage ``reward``: learn the category rewards and the static reward of every base model, and report on
them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drirl.config import Params
from drirl.records import BENIGN, write_json, write_jsonl
from drirl.reward.settings import RewardSettings

__all__ = ["run"]


@dataclass(frozen=True)
class _Job:
    model: str
    out: Path
    settings: RewardSettings
    seed: int
    device: str
    threads: int


def run(params: Params) -> None:
    """Write ``out/reward/<model>/{irl/, static/, report.json, pairs.jsonl}`` for every model.

    The models run side by side as processes.

    Raises:
        DrirlError: missing or malformed data or policy, a category without a prompt, a fit that diverged.
    """
    from drirl.parallel import map_processes

    jobs = [
        _Job(model, params.run.out, params.reward, params.run.seed, params.run.device, params.run.threads)
        for model in params.run.models
    ]
    map_processes(
        _run_model,
        jobs,
        workers=params.run.workers,
        threads=params.run.threads,
        preload=("torch", "transformers", "drirl.reward.irl", "drirl.reward.report"),
    )


def _run_model(job: _Job) -> None:
    from drirl.base.location import policy_path
    from drirl.models import resolve_device, seed_everything
    from drirl.reward.bank import ALL, RewardBank
    from drirl.reward.implicit import ImplicitBank, SelfPlay, implicit_settings
    from drirl.reward.irl import learn
    from drirl.reward.items import limits_of, load_items, pick
    from drirl.reward.policy import LanguagePolicy
    from drirl.reward.report import draw_held_out, held_out_report, table
    from drirl.reward.sharing import make_rewards
    from drirl.reward.static import learn_static

    settings, seed = job.settings, job.seed
    meter = _meter(job)
    seed_everything(seed)
    device = resolve_device(job.device)
    path, revision = policy_path(job.out, job.model)
    limits = limits_of(settings.prompts_per_category, settings.benign_prompts, settings.task_prompts)
    train = pick(load_items(job.out, "train"), limits, seed)
    held_limits = limits_of(settings.report_prompts, 2 * settings.report_prompts, 2 * settings.report_prompts)
    val = pick(load_items(job.out, "val"), held_limits, seed)
    held_items = (
        val if settings.report_split == "val" else pick(load_items(job.out, "test"), held_limits, seed)
    )

    def progress(text: str) -> None:
        print(f"[reward {job.model}] {text}", file=sys.stderr, flush=True)

    policy = LanguagePolicy.load(
        path,
        revision,
        device,
        name="base",
        settings=settings.policy,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        batch_size=settings.sample_batch,
    )
    bank = make_rewards(path, settings, device=device, revision=revision, seed=seed)
    if isinstance(bank, ImplicitBank):
        own = implicit_settings(settings)
        outcome = learn(bank, SelfPlay(bank, policy), train, val, own, seed=seed, progress=progress)
    else:
        outcome = learn(bank, policy, train, val, settings, seed=seed, progress=progress)
    progress("static reward")
    static = RewardBank.from_policy(
        path, [ALL], device=device, revision=revision, input_mode=settings.input_mode
    )
    static_log = learn_static(
        static, train, outcome.samples[0], val, outcome.val_samples[0], settings, seed=seed + 50_000
    )
    progress("held-out report")
    policies: list[tuple[str, Any]] = [("sample", outcome.policies[0])]
    if len(outcome.policies) > 1:
        policies.append(("updated", outcome.policies[-1]))
    held = draw_held_out(held_items, policies, settings, seed + 90_000)
    reports = [held_out_report(snapshot, held, settings, seed) for snapshot in outcome.snapshots]
    static_report = held_out_report(static, held, settings, seed)
    progress("category rewards, held-out pairwise accuracy (n)\n" + table(reports[-1]))

    folder = job.out / "reward" / job.model
    records = _records(job, bank, reports[-1])
    bank.info |= {"model": job.model, "irl_iter": settings.iterations - 1, "records": records}
    static.info |= {"model": job.model, "irl_iter": 0}
    bank.save(folder / "irl")
    static.save(folder / "static")
    write_jsonl(folder / "pairs.jsonl", outcome.pairs)
    write_json(
        folder / "report.json",
        {
            "model": job.model,
            "split": settings.report_split,
            "settings": settings.model_dump(mode="json"),
            "iterations": [
                {"iteration": t, "policy": outcome.policies[t].name, "fit": asdict(outcome.logs[t]), **report}
                for t, report in enumerate(reports)
            ],
            "static": {"fit": asdict(static_log), **static_report},
        },
    )
    meter.updates = sum(log.steps for log in outcome.logs) + static_log.steps
    meter.trained_tokens = sum(log.tokens for log in outcome.logs) + static_log.tokens
    for moved in {id(p): p for p in outcome.policies}.values():
        meter.updates += getattr(moved, "updates", 0)
        meter.generated_tokens += getattr(moved, "generated_tokens", 0)
    meter.write(job.out)


def _meter(job: _Job) -> Any:
    from drirl.resources import Meter

    return Meter("reward", job.model)


def _records(job: _Job, bank: Any, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one reward-model record per head, as plain values."""
    from drirl.records import RewardModelRecord

    rows = []
    for h, head in enumerate(bank.heads):
        names = ["benign", "task"] if head == BENIGN else [str(head)]
        names = list(report["groups"]) if head == "all" else names
        metrics = {
            f"{name}/{cell}": values["accuracy"]
            for name in names
            if name in report["groups"]
            for cell, values in report["groups"][name]["cells"].items()
        }
        rows.append(
            asdict(
                RewardModelRecord(
                    rm_id=f"{job.model}-{head}",
                    category=head,
                    base=job.model,
                    irl_iter=job.settings.iterations - 1,
                    mu=float(bank.mu[h]),
                    scale=float(bank.scale[h]),
                    input_mode=bank.input_mode,
                    metrics=metrics,
                    seed=job.seed,
                )
            )
        )
    return rows
