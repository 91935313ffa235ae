"""Score one policy on tasks of ``benchmarks/`` with lm-eval, and turn its samples into records.

lm-eval loads the tasks, renders, generates and scores. Added here, because it needs more than the text of
one completion: whether the completion ended by itself (degenerate replies) and the category rewards
(``mean_reward``). lm-eval's cache knows no model identity (two policies would share answers): it is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.tasks import TaskManager

from drirl.detect import (
    DEGENERATE_JUDGE,
    degenerate,
    keyword_refusal,
    prefix_refusal,
    refusal_class,
)
from drirl.errors import DrirlError, nearest
from drirl.evaluate.policy_lm import PolicyLM
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import BENIGN, EvalItem, RunRecord
from drirl.text import split_draft

__all__ = ["DEGENERATE", "MEAN_REWARD", "Scored", "Subject", "package_versions", "score_policy"]

DEGENERATE = "degenerate_rate"
MEAN_REWARD = "mean_reward"
REWARD_JUDGE = "category-rewards/1"
TEXT_ONLY = "degenerate_text"
"""What a task can say of broken replies from the text alone; records carry ``degenerate_rate`` instead."""


@dataclass(frozen=True)
class Subject:
    """Who is scored, as the records name it."""

    model: str
    method: str
    seed: int
    policy_hash: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """One policy, whatever it is scored on."""
        return f"{self.model}/{self.method}/seed{self.seed}"


@dataclass
class Scored:
    """All records of one policy."""

    items: list[EvalItem]
    runs: list[RunRecord]
    generated_tokens: int


def score_policy(
    policy: Any,
    tokenizer: Any,
    subject: Subject,
    settings: EvaluateSettings,
    *,
    benchmarks: Path,
    out: Path,
    data_root: str = "",
    rewards: Any = None,
    progress: bool = False,
) -> Scored:
    """Run every task of ``settings.tasks`` on one policy, greedily.

    Args:
        policy: causal LM in evaluation mode on its device.
        benchmarks: folder of task folders.
        out: folder of the stage outputs, where the bundled prompts lie.
        data_root: folder of real data files; empty: environment variable DRIRL_DATA.
        rewards: a :class:`drirl.reward.bank.RewardBank`, or None for no ``mean_reward``.

    Raises:
        DrirlError: unknown task, missing or malformed data, no chat template, a prompt over the context.
    """
    if settings.chat_template and not tokenizer.chat_template:
        raise DrirlError(
            f"the tokenizer of '{subject.model}' has no chat template; "
            "set evaluate.chat_template: false to send prompts as plain text (records will say so)"
        )
    with _quiet():
        loaded = _load_tasks(settings, benchmarks, out, data_root)
        lm = PolicyLM(
            policy,
            tokenizer,
            batch_size=settings.batch_size,
            overlong=settings.overlong,
            plain=not settings.chat_template,
            progress=progress,
        )
        results = lm_eval.evaluator.evaluate(
            lm=lm,
            task_dict=loaded,
            apply_chat_template=settings.chat_template,
            log_samples=True,
            bootstrap_iters=0,
        )
    items: list[EvalItem] = []
    for name in sorted(loaded["tasks"]):
        items += _task_items(loaded["tasks"][name], results["samples"][name], lm, subject, rewards)
    template = tokenizer.chat_template if settings.chat_template else None
    runs = _summarise(items, loaded["tasks"], subject, template, lm, settings)
    return Scored(items, runs, lm.generated_tokens)


def package_versions() -> dict[str, str]:
    """Return the versions of what a score depends on."""
    names = ["drirl", "datasets", "lm-eval", "tokenizers", "torch", "transformers"]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's remarks on every task and its bars for building requests, which take no time."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar


def _load_tasks(settings: EvaluateSettings, benchmarks: Path, out: Path, data_root: str) -> Any:
    if not Path(benchmarks).is_dir():
        raise DrirlError(f"{benchmarks}: no such folder; tasks are looked for in benchmarks/ of the project")
    metadata: dict[str, Any] = {
        "out": str(out),
        "split": settings.split,
        "subset": dict(settings.subset),
        "subset_seed": settings.subset_seed,
        "limit": settings.limit,
    }
    if data_root:
        metadata["root"] = data_root
    manager = TaskManager(include_path=str(benchmarks), include_defaults=False, metadata=metadata)
    known = [str(name) for name in manager.all_tasks]
    for name in settings.tasks:
        if name not in known:
            raise DrirlError(f"evaluate.tasks: unknown task '{name}'; {nearest(name, known)}")
    loaded = manager.load(list(settings.tasks))
    for where, table in (
        ("subset", settings.subset),
        ("max_new_tokens_by_task", settings.max_new_tokens_by_task),
    ):
        for name in table:
            if name not in known:
                raise DrirlError(f"evaluate.{where}: unknown task '{name}'; {nearest(name, known)}")
    for name, task in loaded["tasks"].items():
        length = settings.max_new_tokens_by_task.get(name, settings.max_new_tokens)
        task.set_config(key="generation_kwargs", value={"max_gen_toks": length}, update=True)
        task.set_config(key="num_fewshot", value=0)
    return loaded


def _decode(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {"temperature": 0.0, "max_new_tokens": gen_kwargs["max_gen_toks"]}


def _task_items(
    task: Any, samples: Sequence[dict[str, Any]], lm: PolicyLM, subject: Subject, rewards: Any
) -> list[EvalItem]:
    """Return the records of one task: item by item, its own metrics first."""
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    completions = [sample["resps"][0][0] for sample in samples]
    ended = [lm.finished(*sample["arguments"][0]) for sample in samples]
    scores = _rewards(rewards, samples, completions, ended)
    items: list[EvalItem] = []
    for sample, completion, finished, reward in zip(samples, completions, ended, scores, strict=True):
        doc, gen_kwargs = sample["doc"], sample["arguments"][0][1]
        _, answer = split_draft(completion)

        def record(
            metric: str,
            value: float | None,
            judge: str,
            raw: dict[str, Any],
            *,
            doc: Mapping[str, Any] = doc,
            gen_kwargs: Mapping[str, Any] = gen_kwargs,
            completion: str = completion,
            finished: bool = finished,
            truncated: bool = lm.was_truncated(*sample["arguments"][0]),
        ) -> EvalItem:
            return EvalItem(
                run_id=subject.run_id,
                method=subject.method,
                model=subject.model,
                seed=subject.seed,
                benchmark=task.config.task,
                item_id=doc["item_id"],
                prompt=doc["text"],
                response=completion,
                metric=metric,
                value=value,
                judge=judge,
                category=doc["category"],
                kind=doc["kind"],
                level=doc["level"],
                cluster=doc["cluster"],
                novelty=doc["novelty"],
                finished=finished,
                decode=_decode(gen_kwargs),
                raw=raw | ({"truncated_prompt": True} if truncated else {}),
            )

        for metric in sample["metrics"]:
            if metric != TEXT_ONLY:
                items.append(record(metric, sample[metric], _judge(task), _raw(metric, doc, answer)))
        fault = degenerate(answer, finished)
        items.append(record(DEGENERATE, float(fault != ""), DEGENERATE_JUDGE, {"fault": fault}))
        if reward is not None:
            value = reward if math.isfinite(reward) else None
            items.append(record(MEAN_REWARD, value, REWARD_JUDGE, {}))
    return items


def _raw(metric: str, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Return what else is known of an item: both string instruments and the class, or the reference."""
    label = {"label": doc["label"]} if doc["label"] else {}
    if metric.endswith("refusal_rate"):
        return label | {
            "class": refusal_class(answer),
            "prefix": prefix_refusal(answer),
            "keywords": keyword_refusal(answer),
        }
    return label | {"reference": doc["reference"], "checker": doc["checker"]}


def _rewards(
    bank: Any, samples: Sequence[dict[str, Any]], completions: list[str], ended: list[bool]
) -> list[float | None]:
    """Score completions with the reward of their category; harmful items without one get none."""
    docs = [sample["doc"] for sample in samples]
    if bank is None or any(doc["kind"] == "harmful" and doc["category"] == BENIGN for doc in docs):
        return [None] * len(samples)
    scores = bank.score_completions(
        [doc["text"] for doc in docs], completions, ended, [doc["category"] for doc in docs]
    )
    return [round(float(score), 6) for score in scores]


def _judge(task: Any) -> str:
    return str((task.config.metadata or {}).get("judge", "lm-eval"))


def _summarise(
    items: list[EvalItem],
    tasks: Mapping[str, Any],
    subject: Subject,
    template: str | None,
    lm: PolicyLM,
    settings: EvaluateSettings,
) -> list[RunRecord]:
    """Return one record per task and metric: the mean over prompts and its plain standard error."""
    versions = package_versions()
    template_hash = hashlib.sha256(template.encode()).hexdigest()[:16] if template else "plain"
    groups: dict[tuple[str, str], list[EvalItem]] = {}
    for item in items:
        groups.setdefault((item.benchmark, item.metric), []).append(item)
    runs = []
    for (benchmark, metric), group in groups.items():
        task = tasks[benchmark]
        better = {DEGENERATE: False, MEAN_REWARD: True} | dict(task.higher_is_better())
        values = [item.value for item in group if item.value is not None]
        config: dict[str, Any] = dict(subject.config)
        if benchmark in settings.subset or settings.limit is not None:
            config["item_ids"] = [item.item_id for item in group]
        truncated = sum(1 for item in group if item.raw.get("truncated_prompt"))
        if truncated:
            config["truncated_prompts"] = truncated
        mean = math.fsum(values) / len(values) if values else None
        runs.append(
            RunRecord(
                run_id=subject.run_id,
                method=subject.method,
                model=subject.model,
                seed=subject.seed,
                benchmark=benchmark,
                metric=metric,
                higher_is_better=bool(better[metric]),
                value=mean,
                stderr=_stderr(values),
                n=len(values),
                judge=group[0].judge,
                task_version=str(task.VERSION),
                decode=group[0].decode,
                policy_hash=subject.policy_hash,
                template_hash=template_hash,
                config=config,
                versions=versions,
                device=lm.device.type,
            )
        )
    return runs


def _stderr(values: Sequence[float]) -> float | None:
    """Standard error of the mean over prompts, None below two values; intervals are made in ``compare``."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
