"""From lm-eval's samples of one task to per-prompt records.

Two kinds of task: those that generate (``generate_until``) have a completion, which is also checked for being
broken and scored with the category rewards; those that compare log-likelihoods (``multiple_choice``,
``loglikelihood``) have a chosen option and one log-likelihood per option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from drirl.detect import (
    DEGENERATE_JUDGE,
    degenerate,
    keyword_refusal,
    prefix_refusal,
    refusal_class,
)
from drirl.errors import DrirlError
from drirl.records import BENIGN, EvalItem
from drirl.text import split_draft

__all__ = [
    "DEGENERATE",
    "GENERATES",
    "MEAN_REWARD",
    "OUTPUT_TYPES",
    "Answers",
    "check_output_types",
    "task_items",
    "with_subject",
]

DEGENERATE = "degenerate_rate"
MEAN_REWARD = "mean_reward"
REWARD_JUDGE = "category-rewards/1"
TEXT_ONLY = "degenerate_text"
"""What a task can say of broken replies from the text alone; records carry ``degenerate_rate`` instead."""
GENERATES = "generate_until"
OUTPUT_TYPES = (GENERATES, "loglikelihood", "multiple_choice")
"""Output types of lm-eval that have one value per prompt and metric."""


class Answers(Protocol):
    """What a model knows of its answers beside their text, by the arguments of the request."""

    def finished(self, context: str, gen_kwargs: dict[str, Any]) -> bool:
        """Return whether the completion ended by itself."""
        ...

    def flags(self, *arguments: Any) -> dict[str, Any]:
        """Return what was out of the ordinary, for the record; usually nothing."""
        ...


def check_output_types(tasks: Mapping[str, Any]) -> None:
    """Refuse tasks that no record can be made of.

    Raises:
        DrirlError: a task of another output type (perplexity tasks have no value per prompt).
    """
    for name, task in tasks.items():
        if task.OUTPUT_TYPE not in OUTPUT_TYPES:
            raise DrirlError(
                f"{name}: output_type '{task.OUTPUT_TYPE}' has no score per prompt; "
                f"known: {', '.join(OUTPUT_TYPES)}"
            )


def task_items(task: Any, samples: Sequence[dict[str, Any]], lm: Answers, rewards: Any) -> list[EvalItem]:
    """Return the records of one task, item by item, its own metrics first; whose they are is left open.

    Args:
        samples: what lm-eval logged: per item the arguments and responses of its requests, and its metrics.
        lm: the model that answered.
        rewards: a :class:`drirl.reward.bank.RewardBank`, or None for no ``mean_reward``.
    Raises:
        DrirlError: a metric that is no number per item.
    """
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    if task.OUTPUT_TYPE != GENERATES:
        return [item for sample in samples for item in _choice_items(task, sample, lm)]
    completions = [sample["resps"][0][0] for sample in samples]
    ended = [lm.finished(*sample["arguments"][0]) for sample in samples]
    scores = _rewards(rewards, samples, completions, ended)
    items: list[EvalItem] = []
    for sample, completion, finished, reward in zip(samples, completions, ended, scores, strict=True):
        doc, arguments = sample["doc"], sample["arguments"][0]
        _, answer = split_draft(completion)
        decode = {"temperature": 0.0, "max_new_tokens": arguments[1]["max_gen_toks"]}
        base = _item(task, doc, completion, decode, finished=finished)
        flags = lm.flags(*arguments)
        for metric in sample["metrics"]:
            if metric != TEXT_ONLY:
                raw = _raw(metric, doc, answer) | flags
                value = None if flags.get("blocked") else _number(task, metric, sample[metric])
                items.append(replace(base, metric=metric, value=value, judge=_judge(task), raw=raw))
        fault = degenerate(answer, finished)
        raw = {"fault": fault} | flags
        broken = None if flags.get("blocked") else float(fault != "")
        items.append(replace(base, metric=DEGENERATE, value=broken, judge=DEGENERATE_JUDGE, raw=raw))
        if reward is not None:
            value = reward if math.isfinite(reward) else None
            items.append(replace(base, metric=MEAN_REWARD, value=value, judge=REWARD_JUDGE, raw={**flags}))
    return items


def with_subject(
    items: Sequence[EvalItem], *, run_id: str, model: str, method: str, seed: int
) -> list[EvalItem]:
    """Return the records with the name of the policy filled in."""
    return [replace(item, run_id=run_id, model=model, method=method, seed=seed) for item in items]


def _item(
    task: Any, doc: Mapping[str, Any], response: str, decode: dict[str, Any], *, finished: bool
) -> EvalItem:
    return EvalItem(
        run_id="",
        method="",
        model="",
        seed=0,
        benchmark=task.config.task,
        item_id=doc["item_id"],
        prompt=doc["text"],
        response=response,
        metric="",
        value=None,
        judge="",
        category=doc["category"],
        kind=doc["kind"],
        level=doc["level"],
        cluster=doc["cluster"],
        novelty=doc["novelty"],
        finished=finished,
        decode=decode,
    )


def _choice_items(task: Any, sample: dict[str, Any], lm: Answers) -> list[EvalItem]:
    """Return the records of one item scored by log-likelihood.

    The chosen option is the one of highest log-likelihood, the first of equals, as lm-eval's ``acc`` has it;
    ``mc2`` and length-normalised metrics may see it differently. ``raw`` holds all log-likelihoods (nats).
    """
    doc = sample["doc"]
    options = [second for _, second in sample["arguments"]]
    if task.OUTPUT_TYPE == "multiple_choice":
        options = list(task.doc_to_choice(doc))  # requests without a context may follow those of the options
    found = [float(answers[0][0]) for answers in sample["resps"][: len(options)]]
    chosen = max(range(len(found)), key=found.__getitem__)
    raw: dict[str, Any] = {
        "choices": options,
        "chosen": chosen,
        "gold": doc.get("gold", sample["target"]),
        "loglikelihoods": [round(value, 6) for value in found],
    }
    raw |= {"label": doc["label"]} if doc["label"] else {}
    for arguments in sample["arguments"]:
        raw |= lm.flags(*arguments)
    base = _item(task, doc, options[chosen], {"scored": "loglikelihood"}, finished=True)
    return [
        replace(base, metric=metric, value=_number(task, metric, sample[metric]), judge=_judge(task), raw=raw)
        for metric in sample["metrics"]
    ]


def _number(task: Any, metric: str, value: Any) -> float | None:
    """Return the score, None (missing) where there is none or it is NaN or infinite."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DrirlError(
            f"{task.config.task}: metric '{metric}' is no number per item but {type(value).__name__}; "
            "leave it out of the task's metric_list, or score it in process_results"
        ) from None
    return number if math.isfinite(number) else None


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
