"""Stage ``reward``: learn the category rewards and the static reward of every base model, and report on
them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl.config import Params
from drirl.records import BENIGN, write_json, write_jsonl
from drirl.reward.settings import RewardSettings

if TYPE_CHECKING:
    from drirl.resources import Meter
    from drirl.reward.irl import Outcome
    from drirl.reward.outer import Counts, Kept, Outer

__all__ = ["Job", "jobs_of", "run", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """The rewards of one base model; plain values, so that it travels to another process.

    ``static``: learn the static reward too. ``known``: ``run.out`` of another run, whose outer
    iterations are read where they are the same.
    """

    model: str
    out: Path
    settings: RewardSettings
    seed: int
    device: str
    static: bool = True
    known: Path | None = None


def run(params: Params) -> None:
    """Write ``out/reward/<model>/{irl/, static/, report.json, pairs.jsonl}`` for every model.

    With ``reward.keep_iterations`` there is ``outer/`` too, the finished outer iterations.

    The models run side by side as processes.

    Raises:
        DrirlError: missing or malformed data or policy, a category without a prompt, a fit that diverged.
    """
    run_jobs(jobs_of(params), workers=params.run.workers, threads=params.run.threads)


def jobs_of(params: Params, *, static: bool = True, known: Path | None = None) -> list[Job]:
    """Return a job per base model.

    Args:
        static: False: no static reward, nor a report on it.
        known: ``run.out`` of a run whose finished outer iterations are read where they are the same.
    """
    run = params.run
    return [Job(model, run.out, params.reward, run.seed, run.device, static, known) for model in run.models]


def run_jobs(jobs: Sequence[Job], *, workers: int, threads: int) -> None:
    """Run jobs side by side as processes, ``workers`` (0: all) at a time; raises as :func:`run`."""
    from drirl.parallel import map_processes

    map_processes(
        _run_model,
        jobs,
        workers=workers,
        threads=threads,
        preload=("torch", "transformers", "drirl.reward.irl", "drirl.reward.report"),
    )


def _run_model(job: Job) -> None:
    from drirl.base.location import policy_path
    from drirl.models import resolve_device, seed_everything
    from drirl.resources import Meter
    from drirl.reward.implicit import ImplicitBank, SelfPlay, implicit_settings
    from drirl.reward.irl import learn
    from drirl.reward.items import limits_of, load_items, pick
    from drirl.reward.outer import Counts
    from drirl.reward.policy import LanguagePolicy
    from drirl.reward.report import draw_held_out, held_out_report, table
    from drirl.reward.sharing import make_rewards, make_static
    from drirl.reward.static import learn_static

    settings, seed = job.settings, job.seed
    meter = Meter("reward", job.model)
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
    known: Outer | None = None
    if isinstance(bank, ImplicitBank):
        own = implicit_settings(settings)
        outcome = learn(bank, SelfPlay(bank, policy), train, val, own, seed=seed, progress=progress)
    else:
        kept = outer_of(job, job.out, path, revision)
        if job.known is not None:
            known = outer_of(job, job.known, path, revision)

        def done(t: int, iteration: Kept, outcome: Outcome) -> None:
            if settings.keep_iterations and job.known is None:
                kept.keep(t, bank, iteration, _spent(meter, outcome))

        outcome = learn(
            bank, policy, train, val, settings, seed=seed, progress=progress, known=known, done=done
        )
    progress("held-out report")
    policies: list[tuple[str, Any]] = [("sample", outcome.policies[0])]
    if len(outcome.policies) > 1:
        policies.append(("updated", outcome.policies[-1]))
    held = draw_held_out(held_items, policies, settings, seed + 90_000)
    reports = [held_out_report(snapshot, held, settings, seed) for snapshot in outcome.snapshots]
    progress("category rewards, held-out pairwise accuracy (n)\n" + table(reports[-1]))

    folder = job.out / "reward" / job.model
    records = _records(job, bank, reports[-1])
    bank.info |= {"model": job.model, "irl_iter": settings.iterations - 1, "records": records}
    bank.save(folder / "irl")
    write_jsonl(folder / "pairs.jsonl", outcome.pairs)
    report: dict[str, Any] = {
        "model": job.model,
        "split": settings.report_split,
        "settings": settings.model_dump(mode="json"),
        "iterations": [
            {"iteration": t, "policy": outcome.policies[t].name, "fit": asdict(outcome.logs[t]), **found}
            for t, found in enumerate(reports)
        ],
    }
    read = 0 if known is None else min(len(known), settings.iterations)
    before = known.counts(read - 1) if known is not None and read else Counts()
    spent = _spent(meter, outcome)
    meter.updates = sum(log.steps for log in outcome.logs) + spent.updates + before.updates
    meter.trained_tokens = sum(log.tokens for log in outcome.logs)
    meter.generated_tokens = spent.generated_tokens + before.generated_tokens
    meter.started -= before.wall_s
    cpu_s = meter.write(job.out, since_cpu_s=-before.cpu_s, iterations_read=read)["cpu_s"] - before.cpu_s

    if job.static:
        progress("static reward")
        meter = Meter("reward", f"static/{job.model}")
        static = make_static(path, settings, device=device, revision=revision, seed=seed)
        static_log = learn_static(
            static, train, outcome.samples[0], val, outcome.val_samples[0], settings, seed=seed + 50_000
        )
        report["static"] = {"fit": asdict(static_log), **held_out_report(static, held, settings, seed)}
        static.info |= {"model": job.model, "irl_iter": 0}
        static.save(folder / "static")
        meter.updates, meter.trained_tokens = static_log.steps, static_log.tokens
        meter.write(job.out, since_cpu_s=cpu_s)
    write_json(folder / "report.json", report)


def outer_of(job: Job, out: Path, base: str, revision: str | None) -> Outer:
    """Return the outer iterations of the rewards that a run in ``out`` learns from this data and base."""
    from drirl.data.split import HALVES_FILE
    from drirl.reward.outer import Outer, digest, identity

    data = [job.out / "data" / name for name in ("prompts.jsonl", "demos.jsonl", HALVES_FILE)]
    folder = Path(base)
    about = identity(
        job.settings.model_dump(mode="json"),
        seed=job.seed,
        data=digest(path for path in data if path.is_file()),
        base=digest(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else f"{base}@{revision}",
    )
    counts = out / "cost" / "reward" / f"{job.model}__outer"
    return Outer(out / "reward" / job.model / "outer", counts, about)


def _spent(meter: Meter, outcome: Outcome) -> Counts:
    """Return what this process has spent so far; updates are those of policies."""
    from drirl.reward.outer import Counts

    usage = resource.getrusage(resource.RUSAGE_SELF)
    moved = {id(policy): policy for policy in outcome.policies}.values()
    return Counts(
        cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        wall_s=round(time.perf_counter() - meter.started, 3),
        updates=sum(getattr(policy, "updates", 0) for policy in moved),
        generated_tokens=sum(getattr(policy, "generated_tokens", 0) for policy in moved),
    )


def _records(job: Job, bank: Any, report: dict[str, Any]) -> list[dict[str, Any]]:
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
