"""Made-up records with a known truth, laid out as the stages leave them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drirl.config import Params, load_params
from drirl.records import EvalItem, RunRecord, write_json, write_jsonl

ROOT = Path(__file__).resolve().parents[3]

LEVELS = ("direct", "paraphrased", "disguised")
HIGHER = {
    "refusal_rate": True,
    "false_refusal_rate": False,
    "accuracy": True,
    "degenerate_rate": False,
    "mean_reward": True,
    "not_attempted_rate": False,
}
TRUTH = {
    "base": (0.60, 0.35, 0.05, 0.04, 0.08, 0.90),
    "sft": (0.96, 0.95, 0.80, 0.12, 0.30, 0.86),
    "dpo": (0.90, 0.89, 0.70, 0.08, 0.17, 0.84),
    "ppo": (0.97, 0.95, 0.84, 0.14, 0.28, 0.85),
    "grpo": (0.98, 0.97, 0.88, 0.15, 0.36, 0.86),
    "grpo_irl": (0.96, 0.96, 0.85, 0.12, 0.24, 0.84),
    "dr_irl": (0.95, 0.96, 0.86, 0.12, 0.30, 0.83),
    "dr_irl_constant": (0.96, 0.96, 0.85, 0.12, 0.26, 0.84),
}
"""Rates: refusal direct, paraphrased, disguised; false refusal benign, contrast; helpfulness."""


def item(**values: Any) -> EvalItem:
    """Return a record with the fields that do not matter filled in."""
    plain: dict[str, Any] = {
        "run_id": "r",
        "method": "base",
        "model": "tiny",
        "seed": 0,
        "benchmark": "drirl_tiny_harmful",
        "item_id": "p0",
        "prompt": "a prompt",
        "response": "a reply",
        "metric": "refusal_rate",
        "value": 1.0,
        "judge": "rules",
        "kind": "harmful",
    }
    return EvalItem(**{**plain, **values})


def write_cell(out: Path, model: str, method: str, items: list[EvalItem], **recorded: Any) -> None:
    """Write items.jsonl and the runs.jsonl that goes with it; ``recorded`` are other fields of the latter."""
    folder = out / "evaluate" / model / method
    runs = []
    for seed, benchmark, metric in sorted({(i.seed, i.benchmark, i.metric) for i in items}):
        values = [
            i.value
            for i in items
            if (i.seed, i.benchmark, i.metric) == (seed, benchmark, metric) and i.value is not None
        ]
        mean = sum(values) / len(values) if values else None
        runs.append(
            RunRecord(
                f"{model}/{method}/seed{seed}",
                method,
                model,
                seed,
                benchmark,
                metric,
                HIGHER[metric],
                mean,
                None,
                len(values),
                "rules",
                "1",
                {},
                "h",
                "t",
            )
        )
    write_jsonl(folder / "items.jsonl", items)
    write_jsonl(folder / "runs.jsonl", [replace(run, **recorded) for run in runs])


def synthetic(
    out: Path,
    models: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    *,
    intents: int = 8,
    per_level: int = 1,
) -> None:
    """Write a made-up experiment: 7 categories x ``intents`` harmful intents, benign, contrast, tasks."""
    from drirl.compare.names import CATEGORIES

    for number, model in enumerate(models):
        for method in methods:
            rng = np.random.default_rng([number, *method.encode()])
            truth = TRUTH[method]
            items: list[EvalItem] = []
            for seed in (0,) if method == "base" else seeds:
                shift = rng.normal(0, 0.0 if method == "base" else 0.02)

                def add(
                    benchmark: str,
                    kind: str,
                    metric: str,
                    level: str,
                    name: str,
                    cluster: str,
                    rate: float,
                    *,
                    category: int = -1,
                    seed: int = seed,
                    shift: float = shift,
                    items: list[EvalItem] = items,
                    rng: np.random.Generator = rng,
                    model: str = model,
                    method: str = method,
                    truth: tuple[float, ...] = truth,
                ) -> None:
                    shared = {
                        "method": method,
                        "model": model,
                        "seed": seed,
                        "benchmark": benchmark,
                        "item_id": name,
                        "kind": kind,
                        "level": level,
                        "cluster": cluster,
                        "category": category,
                    }
                    scores = (
                        (metric, float(rng.random() < np.clip(rate + shift, 0, 1))),
                        ("degenerate_rate", float(rng.random() < 0.01)),
                        ("mean_reward", float(rng.normal(2 * truth[2], 1))),
                    )
                    for one, value in scores:
                        items.append(item(metric=one, value=value, **shared))

                for category in range(len(CATEGORIES)):
                    for intent in range(intents):
                        for index, level in enumerate(LEVELS):
                            for copy in range(per_level):
                                add(
                                    "drirl_tiny_harmful",
                                    "harmful",
                                    "refusal_rate",
                                    level,
                                    f"h{category}-{intent}-{level}-{copy}",
                                    f"{category}-{intent}",
                                    truth[index],
                                    category=category,
                                )
                for kind, rate, scale in (
                    ("benign", truth[3], (0.3, 0.7, 2.0)),
                    ("contrast", truth[4], (1, 1, 1)),
                ):
                    for intent in range(4 * intents):
                        for index, level in enumerate(LEVELS):
                            add(
                                f"drirl_tiny_{kind}",
                                kind,
                                "false_refusal_rate",
                                level,
                                f"{kind}{intent}-{level}",
                                str(intent),
                                rate * scale[index],
                            )
                for task in range(20 * intents):
                    add("drirl_tiny_help", "task", "accuracy", "direct", f"t{task}", "", truth[5])
            write_cell(out, model, method, items)
            for seed in seeds:
                folder = out / "align" / model / method / f"seed{seed}"
                counts = {"updates": 0, "generated_tokens": 0} if method == "base" else {"updates": 60}
                if method in ("ppo", "grpo", "grpo_irl", "dr_irl", "dr_irl_constant"):
                    counts["generated_tokens"] = 90_000 + 100 * seed
                write_json(folder / "run.json", counts)
                if method.startswith("dr_irl"):
                    write_jsonl(
                        folder / "log.jsonl",
                        [
                            {
                                "update": step,
                                "loss": 0.1,
                                "reward": step / 10 + seed,
                                "kl": 0.01 * step,
                                "alpha/-1": 1.0,
                                "alpha/2": 0.8 + 0.1 * seed,
                                "alpha_D/2": 0.9,
                                "scale": 0.9,
                            }
                            for step in range(1, 6)
                        ],
                    )


@pytest.fixture
def params_for(tmp_path: Path) -> Callable[..., Params]:
    """Return a function that gives the tiny profile with other run and compare values, all under tmp_path."""

    def build(**run: Any) -> Params:
        params = load_params(ROOT / "profiles" / "tiny.yaml")
        compare = params.compare.model_copy(
            update={
                "reports": tmp_path / "reports",
                "bootstrap": 200,
                "published": ROOT / "reports" / "published.csv",
                "test_looks": tmp_path / "test_looks.yaml",
            }
        )
        changed = params.run.model_copy(update={"out": tmp_path / "out", **run})
        return params.model_copy(update={"run": changed, "compare": compare})

    return build
