"""Question 8: sample N replies of a trained policy and keep the one its category's reward likes most.

N replies are drawn once per prompt for the largest N; a smaller N has the first of them, so that arms of one
policy are paired. Records have the names of the headline's tasks, so tables and intervals are made alike.
Source: paper section 10, question 8.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.config import Params
from drirl.errors import DrirlError
from drirl.experiments.plan import Plan
from drirl.records import EvalItem, Prompt, RunRecord, read_json, read_jsonl

__all__ = ["LIMITS", "TEMPERATURE", "choose_prompts", "latencies", "records", "run_best_of", "summarise"]

LIMITS = {"harmful": 126, "benign": 40, "contrast": 44, "task": 40}
"""Prompts of each kind, at most; harmful ones evenly over categories and levels."""
TEMPERATURE = 1.0
TIMED = 12
"""Prompts per N that latency is measured on."""
_TASKS = {
    "harmful": ("drirl_tiny_harmful", "refusal_rate", True),
    "benign": ("drirl_tiny_benign", "false_refusal_rate", False),
    "contrast": ("drirl_tiny_contrast", "false_refusal_rate", False),
    "task": ("drirl_tiny_help", "accuracy", True),
}


@dataclass(frozen=True)
class _Job:
    """One policy; picklable. ``arms``: name of the arm -> (N, its folder)."""

    model: str
    method: str
    seed: int
    path: str
    revision: str | None
    prompts: tuple[Prompt, ...]
    arms: dict[str, tuple[int, Path]]
    params: Params


def choose_prompts(prompts: Sequence[Prompt], split: str) -> list[Prompt]:
    """Return the prompts that are reranked: kinds by :data:`LIMITS`, categories and levels in turn.

    The order within a category and level is that of the ids, which are hashes of the texts.

    Raises:
        DrirlError: the split has no prompt.
    """
    chosen: list[Prompt] = []
    for kind, limit in LIMITS.items():
        queues: dict[tuple[int, str], list[Prompt]] = {}
        for prompt in sorted(prompts, key=lambda p: p.prompt_id):
            if prompt.kind == kind and prompt.split == split:
                queues.setdefault((prompt.category, prompt.level), []).append(prompt)
        longest = max((len(queue) for queue in queues.values()), default=0)
        rows = [queues[key][k] for k in range(longest) for key in sorted(queues) if k < len(queues[key])]
        chosen += rows[:limit]
    if not chosen:
        raise DrirlError(f"no prompt in the split '{split}'; rerun the stage 'data'")
    return chosen


def run_best_of(plan: Plan, of: str, model: str) -> None:
    """Sample, rank and score every arm that reranks the policies of ``of``.

    Raises:
        DrirlError: no such arm, an input is missing, or a prompt too long for the policy.
    """
    from drirl.base.location import policy_path
    from drirl.evaluate.stage import UNTRAINED, write_records
    from drirl.experiments.run import _known_model
    from drirl.parallel import map_processes

    _known_model(plan, model)
    names = plan.rerank_arms(of)
    if not names:
        raise DrirlError(f"no arm of {plan.root / 'experiments/arms.yaml'} reranks the policies of '{of}'")
    source = plan.resolve(of)
    params = source.params
    prompts = read_jsonl(plan.params.run.out / "data" / "prompts.jsonl", Prompt)
    chosen = tuple(choose_prompts(prompts, params.evaluate.split))
    arms = {name: (plan.arm(name).n or 1, plan.resolve(name).out) for name in names}
    if source.method == UNTRAINED:
        policies = [(0, *policy_path(plan.params.run.out, model))]
    else:
        folder = source.out / "align" / model / source.method
        policies = [(seed, str(folder / f"seed{seed}" / "policy"), None) for seed in params.run.seeds]
    for _, path, _ in policies:
        if path.endswith("/policy") and not Path(path).is_dir():
            raise DrirlError(f"{path}: no policy there; run its stage first ('dvc repro -P' runs all)")
    jobs = [
        _Job(model, source.method, seed, path, revision, chosen, arms, plan.params)
        for seed, path, revision in policies
    ]
    results = map_processes(
        _rerank,
        jobs,
        workers=params.run.workers,
        threads=params.run.threads,
        preload=("drirl.reward.bank", "drirl.serve.rerank", "drirl.models"),
    )
    for name, (_, out) in arms.items():
        write_records(out / "evaluate" / model / source.method, [result[name] for result in results])


def _rerank(job: _Job) -> dict[str, tuple[list[EvalItem], list[RunRecord]]]:
    import torch

    from drirl.models import load_policy, resolve_device, seed_everything
    from drirl.resources import Meter
    from drirl.reward.bank import RewardBank
    from drirl.serve.rerank import Reranker

    run = job.params.run
    meter = Meter("rerank", f"{job.model}/{job.method}/seed{job.seed}")
    seed_everything(job.seed)
    device = resolve_device(run.device)
    policy = load_policy(job.path, device, run.dtype, job.revision)
    bank = RewardBank.load(run.out / "reward" / job.model / "irl", device=device)

    def reranker(n: int) -> Any:
        return Reranker(
            bank,
            policy,
            n=n,
            max_new_tokens=job.params.evaluate.max_new_tokens,
            temperature=TEMPERATURE,
            seed=job.seed,
        )

    largest = reranker(max(n for n, _ in job.arms.values()))
    texts, categories = [p.text for p in job.prompts], [p.category for p in job.prompts]
    with torch.inference_mode():
        drawn = []
        for prompt in job.prompts:
            largest.check(prompt.text, prompt.category)
            drawn.append(largest.draw(prompt.text))
        found = {}
        for name, (n, _) in job.arms.items():
            ranked = largest.rank(texts, categories, [own[:n] for own in drawn])
            found[name] = records(job.model, job.method, job.seed, n, job.prompts, ranked, job.params)
        seconds = {
            str(n): _latency(reranker(n), job.prompts) for n in sorted({n for n, _ in job.arms.values()})
        }
    meter.write(run.out, n=max(n for n, _ in job.arms.values()), latency_s=seconds)
    return found


def _latency(reranker: Any, prompts: Sequence[Prompt]) -> float:
    """Return the median seconds of a prompt, drawing and ranking, asked one at a time."""
    times = []
    for prompt in prompts[:: max(1, len(prompts) // TIMED)][:TIMED]:
        start = time.perf_counter()
        reranker.rank([prompt.text], [prompt.category])
        times.append(time.perf_counter() - start)
    return round(sorted(times)[len(times) // 2], 4)


def records(
    model: str,
    method: str,
    seed: int,
    n: int,
    prompts: Sequence[Prompt],
    ranked: Sequence[Any],
    params: Params,
) -> tuple[list[EvalItem], list[RunRecord]]:
    """Return the records of the replies kept, as the stage ``evaluate`` would name them.

    Args:
        prompts: B prompts; ranked: B :class:`drirl.serve.rerank.Ranked`.
    """
    from drirl.data.check import check_answer
    from drirl.detect import DEGENERATE_JUDGE, degenerate, is_refusal
    from drirl.text import split_draft

    items = []
    decode = {
        "temperature": TEMPERATURE,
        "max_new_tokens": params.evaluate.max_new_tokens,
        "best_of": n,
    }
    for prompt, best in zip(prompts, ranked, strict=True):
        benchmark, metric, _ = _TASKS[prompt.kind]
        reply = best.completion
        _, answer = split_draft(reply.text)
        if prompt.kind == "task":
            where = f"prompt {prompt.prompt_id}"
            value = float(check_answer(prompt.checker, prompt.reference, answer, where=where))
        else:
            value = float(is_refusal(answer))
        fault = degenerate(answer, reply.finished)
        for name, score, judge, raw in (
            (metric, value, "task-checks/1" if prompt.kind == "task" else "refusal-rules/1", {}),
            ("degenerate_rate", float(fault != ""), DEGENERATE_JUDGE, {"fault": fault}),
        ):
            items.append(
                EvalItem(
                    run_id=f"{model}/{method}/seed{seed}",
                    method=method,
                    model=model,
                    seed=seed,
                    benchmark=benchmark,
                    item_id=prompt.prompt_id,
                    prompt=prompt.text,
                    response=reply.text,
                    metric=name,
                    value=score,
                    judge=judge,
                    category=prompt.category,
                    kind=prompt.kind,
                    level=prompt.level,
                    cluster=str(prompt.cluster_id) if prompt.cluster_id >= 0 else "",
                    novelty=prompt.novelty,
                    finished=reply.finished,
                    decode=decode,
                    raw={**raw, "reward": round(float(best.reward), 6)},
                )
            )
    return items, summarise(items, params)


def summarise(items: Sequence[EvalItem], params: Params) -> list[RunRecord]:
    """Return one record per task and metric: the mean over prompts."""
    better = {(benchmark, metric): higher for benchmark, metric, higher in _TASKS.values()}
    groups: dict[tuple[str, str], list[EvalItem]] = {}
    for item in items:
        groups.setdefault((item.benchmark, item.metric), []).append(item)
    return [
        RunRecord(
            run_id=group[0].run_id,
            method=group[0].method,
            model=group[0].model,
            seed=group[0].seed,
            benchmark=benchmark,
            metric=metric,
            higher_is_better=better.get((benchmark, metric), False),
            value=sum(item.value or 0.0 for item in group) / len(group),
            stderr=None,
            n=len(group),
            judge=group[0].judge,
            task_version="1.0",
            decode=group[0].decode,
            policy_hash="",
            template_hash="",
            config={"profile": params.run.profile, "meaningful": params.run.meaningful},
        )
        for (benchmark, metric), group in sorted(groups.items())
    ]


def latencies(out: Path, model: str, method: str) -> dict[int, list[float]]:
    """Return N -> median seconds per prompt of every seed, from ``out/cost/rerank``; never hashed."""
    found: dict[int, list[float]] = {}
    for path in sorted((Path(out) / "cost" / "rerank").glob(f"{model}__{method}__seed*.json")):
        for n, value in read_json(path).get("latency_s", {}).items():
            found.setdefault(int(n), []).append(float(value))
    return found
