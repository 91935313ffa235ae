"""Attacked prompts as records: rates, hashes and counts, no attack text.

``EvalItem.prompt`` is the prompt that was attacked; ``raw`` names the attacking message by its SHA-256 and
its length. The messages themselves are returned apart (:func:`texts`), for a file that no report holds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from drirl.attack.search import SUCCESS_JUDGE, Attacked
from drirl.attack.settings import AttackSettings
from drirl.detect import DEGENERATE_JUDGE, REFUSAL_JUDGE, keyword_refusal, prefix_refusal, refusal_class
from drirl.evaluate.harness import DEGENERATE, Subject
from drirl.records import EvalItem, RunRecord
from drirl.text import split_draft

__all__ = ["SUCCESS_RATE", "eval_items", "run_records", "step_rows", "success_curve", "texts"]

REFUSAL_RATE = "refusal_rate"
SUCCESS_RATE = "attack_success_rate"
VERSION = "1.0"
"""Rises whenever a rate could change with equal settings."""

HIGHER_IS_BETTER = {REFUSAL_RATE: True, SUCCESS_RATE: False, DEGENERATE: False}


def eval_items(
    attack: str, attacked: Sequence[Attacked], subject: Subject, settings: AttackSettings
) -> list[EvalItem]:
    """Return three records per prompt: is the last reply a refusal, a success of the attack, broken."""
    items = []
    for one in attacked:
        last = one.steps[-1]
        _, answer = split_draft(one.reply)
        common: dict[str, Any] = {
            "success_step": one.success_step,
            "attack_sha256": last.message_sha256,
            "attack_tokens": last.message_tokens,
            "target_loss": last.loss,
            "forward_passes": last.forward_passes,
            "gradient_passes": last.gradient_passes,
        }
        classes = {
            "class": refusal_class(answer),
            "prefix": prefix_refusal(answer),
            "keywords": keyword_refusal(answer),
        }
        for metric, value, judge, raw in (
            (REFUSAL_RATE, last.refused, REFUSAL_JUDGE, common | classes),
            (SUCCESS_RATE, last.success, SUCCESS_JUDGE, common),
            (DEGENERATE, last.fault != "", DEGENERATE_JUDGE, {"fault": last.fault}),
        ):
            items.append(
                EvalItem(
                    run_id=subject.run_id,
                    method=subject.method,
                    model=subject.model,
                    seed=subject.seed,
                    benchmark=attack,
                    item_id=one.item["item_id"],
                    prompt=one.item["text"],
                    response=one.reply,
                    metric=metric,
                    value=float(value),
                    judge=judge,
                    category=one.item["category"],
                    kind=one.item["kind"],
                    level=one.item["level"],
                    cluster=one.item["cluster"],
                    novelty=one.item["novelty"],
                    finished=one.finished,
                    decode=_decode(settings),
                    raw=raw,
                )
            )
    return items


def run_records(
    items: Sequence[EvalItem],
    subject: Subject,
    settings: AttackSettings,
    *,
    template_hash: str,
    versions: dict[str, str],
    device: str,
) -> list[RunRecord]:
    """Return one record per attack and metric: the mean over prompts and its plain standard error."""
    groups: dict[tuple[str, str], list[EvalItem]] = {}
    for item in items:
        groups.setdefault((item.benchmark, item.metric), []).append(item)
    runs = []
    for (attack, metric), group in groups.items():
        values = [item.value for item in group if item.value is not None]
        mean = math.fsum(values) / len(values)
        config = dict(subject.config) | {"attack": _budget(attack, settings)}
        config["item_ids"] = [item.item_id for item in group]
        runs.append(
            RunRecord(
                run_id=subject.run_id,
                method=subject.method,
                model=subject.model,
                seed=subject.seed,
                benchmark=attack,
                metric=metric,
                higher_is_better=HIGHER_IS_BETTER[metric],
                value=mean,
                stderr=_stderr(values, mean),
                n=len(values),
                judge=group[0].judge,
                task_version=VERSION,
                decode=_decode(settings),
                policy_hash=subject.policy_hash,
                template_hash=template_hash,
                config=config,
                versions=versions,
                device=device,
            )
        )
    return runs


def step_rows(attack: str, attacked: Sequence[Attacked], subject: Subject) -> list[dict[str, Any]]:
    """Return one row per prompt and step: loss, verdicts, passes so far, hash and length of the message."""
    return [
        {"run_id": subject.run_id, "benchmark": attack, "item_id": one.item["item_id"]}
        | dataclasses.asdict(step)
        for one in attacked
        for step in one.steps
    ]


def texts(attack: str, attacked: Sequence[Attacked], subject: Subject) -> list[dict[str, Any]]:
    """Return the attacking messages themselves, by the hash that the records name them by."""
    return [
        {
            "run_id": subject.run_id,
            "benchmark": attack,
            "item_id": one.item["item_id"],
            "attack_sha256": one.steps[-1].message_sha256,
            "message": one.message,
        }
        for one in attacked
    ]


def success_curve(items: Sequence[EvalItem], steps: int) -> list[float]:
    """Return the attack success rate within 0, 1, ..., ``steps`` steps; within 0: without an attack."""
    found = [item.raw["success_step"] for item in items if item.metric == SUCCESS_RATE]
    return [
        round(sum(step is not None and step <= bound for step in found) / len(found), 6)
        for bound in range(steps + 1)
    ]


def _decode(settings: AttackSettings) -> dict[str, Any]:
    return {"temperature": 0.0, "max_new_tokens": settings.max_new_tokens}


def _budget(attack: str, settings: AttackSettings) -> dict[str, Any]:
    """Return the settings of one attack: what the others' are does not belong to its record."""
    values = settings.model_dump(mode="json")
    own = values.pop(attack)
    others = {"attacks", "gcg", "autodan", "batch_size"}
    return {key: value for key, value in values.items() if key not in others} | {
        "name": attack,
        "budget": own,
    }


def _stderr(values: Sequence[float], mean: float) -> float | None:
    n = len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else None
