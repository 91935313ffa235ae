"""Score one policy on tasks of ``benchmarks/`` with lm-eval, and turn its samples into records.

lm-eval loads the tasks, renders, generates and scores. Added here, because it needs more than the text of
one completion: whether the completion ended by itself (degenerate replies) and the category rewards
(``mean_reward``). Tasks are scored one after another, so that the records of a task depend on nothing but the
policy and the task, and can be kept (:mod:`drirl.evaluate.cache`) and taken up again after an interruption.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import logging
import math
import platform
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lm_eval.api.task
import lm_eval.evaluator
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from drirl.errors import DrirlError, nearest
from drirl.evaluate.cache import (
    Entry,
    ScoreCache,
    rewards_digest,
    scoring_key,
    sources_digest,
    task_digest,
    tokenizer_digest,
)
from drirl.evaluate.items import (
    DEGENERATE,
    MEAN_REWARD,
    Answers,
    check_output_types,
    task_items,
    with_subject,
)
from drirl.evaluate.policy_lm import PolicyLM
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import SCHEMA_VERSION, EvalItem, RunRecord

__all__ = [
    "DEGENERATE",
    "MEAN_REWARD",
    "Model",
    "Scored",
    "Subject",
    "Tasks",
    "load_tasks",
    "package_versions",
    "score_model",
    "score_policy",
]


class Model(Answers, Protocol):
    """An ``lm_eval.api.model.LM`` that also knows what the records say beside its answers."""

    generated_tokens: int

    def check(self, requests: Sequence[Instance]) -> None:
        """Raise a DrirlError if a request cannot be answered; asked for all tasks before any is scored."""
        ...


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
    """All records of one policy.

    ``generated_tokens`` and ``known_cost`` (wall_s, cpu_s, peak_rss_bytes) include tasks whose records were
    known already, as they were counted when these were scored; ``known`` names those tasks.
    """

    items: list[EvalItem]
    runs: list[RunRecord]
    generated_tokens: int
    known: list[str] = field(default_factory=list)
    known_cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tasks:
    """Tasks with their items, loaded once for any number of policies.

    Attributes:
        tasks: lm-eval tasks by name.
        digests: hash of each task: its files, its settings in force, its items, the code behind it.
    """

    tasks: dict[str, Any]
    digests: dict[str, str]


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
    tasks: Tasks | None = None,
    cache: Path | None = None,
) -> Scored:
    """Run every task of ``settings.tasks`` on one policy, greedily.

    Args:
        policy: causal LM in evaluation mode on its device.
        benchmarks: folder of task folders.
        out: folder of the stage outputs, where the bundled prompts lie.
        data_root: folder of real data files; empty: environment variable DRIRL_DATA.
        rewards: a :class:`drirl.reward.bank.RewardBank`, or None for no ``mean_reward``.
        tasks: what :func:`load_tasks` gave for these settings, to load it once for several policies.
        cache: folder of scores that are known already; None: everything is scored. ``subject.policy_hash``
            has to be a hash of the policy's content.

    Raises:
        DrirlError: unknown task, missing or malformed data, no chat template, a prompt over the context.
    """
    if settings.chat_template and not tokenizer.chat_template:
        raise DrirlError(
            f"the tokenizer of '{subject.model}' has no chat template; "
            "set evaluate.chat_template: false to send prompts as plain text (records will say so)"
        )
    tasks = tasks or load_tasks(settings, benchmarks=benchmarks, out=out, data_root=data_root)
    keys: dict[str, str] = {}
    if cache is not None and subject.policy_hash:
        keys = _keys(policy, tokenizer, subject, settings, tasks, rewards)
    template_hash = "plain"
    if settings.chat_template:
        template_hash = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]
    lm = PolicyLM(
        policy,
        tokenizer,
        batch_size=settings.batch_size,
        overlong=settings.overlong,
        plain=not settings.chat_template,
        progress=progress,
    )
    return score_model(
        lm,
        subject,
        settings,
        tasks,
        template_hash=template_hash,
        device=lm.device.type,
        rewards=rewards,
        cache=ScoreCache(cache) if keys and cache is not None else None,
        keys=keys,
        run=f"{out}: {subject.run_id}",  # arms of one method differ in their folder alone
    )


def score_model(
    lm: Model,
    subject: Subject,
    settings: EvaluateSettings,
    tasks: Tasks,
    *,
    template_hash: str,
    device: str,
    rewards: Any = None,
    cache: ScoreCache | None = None,
    keys: Mapping[str, str] | None = None,
    run: str = "",
) -> Scored:
    """Run every task on any model; :func:`score_policy` for a policy in this process.

    All prompts of all tasks are checked before the first is answered.

    Args:
        template_hash: names the chat template in the records.
        device: where the model runs, for the records.
        cache: scores that are known already, and where those of each task go as soon as they are there.
        keys: key of each task in ``cache``.
        run: as for :meth:`drirl.evaluate.cache.ScoreCache.batches`.
    """
    keys = keys or {}
    names = sorted(tasks.tasks)
    found = {name: cache.get(keys[name]) for name in names} if cache is not None else {}
    known = {name: entry for name, entry in found.items() if entry is not None}
    items: list[EvalItem] = []
    with _quiet():
        for name in names:
            if name not in known:
                lm.check(_requests(tasks.tasks[name], lm, settings))
        for name in names:
            entry = known.get(name)
            if entry is None:
                batches = cache.batches(keys[name], run) if cache is not None else None
                if isinstance(lm, PolicyLM):
                    lm.batches = batches
                entry = _score_task(tasks.tasks[name], lm, settings, rewards)
                if cache is not None and batches is not None:
                    cache.put(keys[name], entry)
                    batches.clear()
            items += with_subject(
                entry.items,
                run_id=subject.run_id,
                model=subject.model,
                method=subject.method,
                seed=subject.seed,
            )
    costs = [entry.cost for entry in known.values()]
    return Scored(
        items=items,
        runs=_summarise(items, tasks.tasks, subject, template_hash, device, settings),
        generated_tokens=lm.generated_tokens + sum(entry.generated_tokens for entry in known.values()),
        known=sorted(known),
        known_cost={
            "wall_s": math.fsum(cost.get("wall_s", 0.0) for cost in costs),
            "cpu_s": math.fsum(cost.get("cpu_s", 0.0) for cost in costs),
            "peak_rss_bytes": max((cost.get("peak_rss_bytes", 0) for cost in costs), default=0),
        },
    )


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


def load_tasks(settings: EvaluateSettings, *, benchmarks: Path, out: Path, data_root: str = "") -> Tasks:
    """Load the tasks of the settings with their items.

    Raises:
        DrirlError: unknown task, missing or malformed data, a task without items.
    """
    benchmarks = Path(benchmarks)
    if not benchmarks.is_dir():
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
    with _quiet():
        manager = TaskManager(include_path=str(benchmarks), include_defaults=False, metadata=metadata)
        known = [str(name) for name in manager.all_tasks]
        for where, names in (
            ("tasks", settings.tasks),
            ("subset", settings.subset),
            ("max_new_tokens_by_task", settings.max_new_tokens_by_task),
        ):
            for name in names:
                if name not in known:
                    hint = nearest(name, known) + _unread(benchmarks)
                    raise DrirlError(f"evaluate.{where}: unknown task '{name}'; {hint}")
                if where != "tasks" and name not in manager.all_subtasks:
                    raise DrirlError(f"evaluate.{where}: '{name}' is a group; name each of its tasks")
        try:
            tasks: dict[str, Any] = dict(manager.load(list(settings.tasks))["tasks"])
        except IndexError:  # lm-eval looks at the first item
            raise DrirlError(
                f"evaluate.tasks: one of {', '.join(settings.tasks)} has no items; "
                "check its data or leave it out"
            ) from None
    check_output_types(tasks)
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            length = settings.max_new_tokens_by_task.get(name, settings.max_new_tokens)
            task.set_config(key="generation_kwargs", value={"max_gen_toks": length}, update=True)
        task.set_config(key="num_fewshot", value=0)
    digests = {}
    for name, task in tasks.items():
        yaml = Path(manager.task_index[name].yaml_path or "")
        code = sources_digest([Path(__file__), *yaml.parent.glob("*.py")])
        digests[name] = f"{task_digest(task, yaml, benchmarks)}:{code}"
    return Tasks(tasks, digests)


def _unread(benchmarks: Path) -> str:
    """Name the first task file that lm-eval passed over in silence because it cannot be read."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(benchmarks.glob("**/*.yaml")):
        try:
            load_yaml(path, resolve_func=False, recursive=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            return f"; {path} was passed over, it cannot be read: {reason}"
    return ""


def _keys(
    policy: Any, tokenizer: Any, subject: Subject, settings: EvaluateSettings, tasks: Tasks, rewards: Any
) -> dict[str, str]:
    """Return the key of each task's records in the cache."""
    import torch

    weights = next(policy.parameters())
    place = torch.cuda.get_device_name(weights.device) if weights.device.type == "cuda" else "cpu"
    parts = {
        "schema": SCHEMA_VERSION,
        "policy": subject.policy_hash,
        "tokenizer": tokenizer_digest(tokenizer),
        "rewards": rewards_digest(rewards),
        "reward_code": sources_digest([Path(inspect.getfile(type(rewards)))]) if rewards is not None else "",
        "batch_size": settings.batch_size,
        "overlong": settings.overlong,
        "chat_template": settings.chat_template,
        "versions": package_versions(),
        "device": place,
        "threads": torch.get_num_threads(),
        "dtype": str(weights.dtype),
        "attention": getattr(policy.config, "_attn_implementation", None),
    }
    return {name: scoring_key(parts | {"task": name, "content": tasks.digests[name]}) for name in tasks.tasks}


def _requests(task: Any, lm: Any, settings: EvaluateSettings) -> list[Instance]:
    """Build the requests of a task as ``lm_eval.evaluator.evaluate`` does."""
    chat = settings.chat_template
    task.build_all_requests(
        apply_chat_template=chat,
        chat_template=lm.apply_chat_template if chat else None,
        tokenizer_name=lm.tokenizer_name if chat else "",
    )
    requests: list[Instance] = task.instances
    return requests


def _score_task(task: Any, lm: Any, settings: EvaluateSettings, rewards: Any) -> Entry:
    name = task.config.task
    tokens, started, used = lm.generated_tokens, time.perf_counter(), time.process_time()
    results = lm_eval.evaluator.evaluate(
        lm=lm,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        apply_chat_template=settings.chat_template,
        log_samples=True,
        bootstrap_iters=0,
    )
    items = task_items(task, results["samples"][name], lm, rewards)
    cost = {
        "wall_s": round(time.perf_counter() - started, 3),
        "cpu_s": round(time.process_time() - used, 3),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return Entry(items, lm.generated_tokens - tokens, cost)


def _summarise(
    items: list[EvalItem],
    tasks: Mapping[str, Any],
    subject: Subject,
    template_hash: str,
    device: str,
    settings: EvaluateSettings,
) -> list[RunRecord]:
    """Return one record per task and metric: the mean over prompts and its plain standard error."""
    versions = package_versions()
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
        blocked = sum(1 for item in group if item.raw.get("blocked"))
        if blocked:
            config["blocked_replies"] = blocked
        if metric not in better:
            raise DrirlError(
                f"{benchmark}: metric '{metric}' has no direction; "
                "list it with higher_is_better in metric_list"
            )
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
                device=device,
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
