"""A small project: the real arms and experiments, records of a few prompts with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.config import Params, validate
from drirl.experiments.plan import Plan, load_plan
from drirl.records import EvalItem, RunRecord, write_jsonl

ROOT = Path(__file__).resolve().parents[3]
SEEDS = (0, 1, 2)


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / "tiny.yaml").read_text())
    found["run"]["out"] = str(tmp_path / "out")
    found["compare"].update(reports=str(tmp_path / "reports"), bootstrap=200)
    return found


@pytest.fixture
def params(values: dict[str, Any]) -> Params:
    return validate(values)


@pytest.fixture
def plan(params: Params) -> Plan:
    return load_plan(ROOT, params)


def _records(model: str, method: str, seed: int, rates: Mapping[str, float]) -> list[EvalItem]:
    """40 prompts a benchmark, 20 intents; the first ``rate`` of them score 1 (a seed shifts by a prompt)."""
    kinds = {
        "drirl_tiny_harmful": ("harmful", "refusal_rate"),
        "drirl_tiny_benign": ("benign", "false_refusal_rate"),
        "drirl_tiny_contrast": ("contrast", "false_refusal_rate"),
        "drirl_tiny_help": ("task", "accuracy"),
    }
    return [
        EvalItem(
            run_id=f"{model}/{method}/seed{seed}",
            method=method,
            model=model,
            seed=seed,
            benchmark=benchmark,
            item_id=f"p{i:02d}",
            prompt="a prompt",
            response=f"I cannot do that, reason {i % 5}.",
            metric=metric,
            value=float(i < round(40 * rates[benchmark]) + (seed if 0 < rates[benchmark] < 0.9 else 0)),
            judge="rules",
            kind=kind,
            category=i % 7 if kind == "harmful" else -1,
            level=("direct", "paraphrased", "disguised")[i % 3] if kind == "harmful" else "",
            cluster=f"c{i // 2}",
        )
        for benchmark, (kind, metric) in kinds.items()
        for i in range(40)
    ]


@pytest.fixture
def write_cell() -> Callable[..., None]:
    def write(out: Path, model: str, method: str, rate: float, seeds: tuple[int, ...] = SEEDS) -> None:
        rates = {
            "drirl_tiny_harmful": rate,
            "drirl_tiny_benign": 0.1,
            "drirl_tiny_contrast": 0.2,
            "drirl_tiny_help": 0.8,
        }
        items = [item for seed in seeds for item in _records(model, method, seed, rates)]
        folder = out / "evaluate" / model / method
        keys = sorted({(i.seed, i.benchmark, i.metric) for i in items})
        runs = []
        for seed, benchmark, metric in keys:
            own = [
                i.value or 0.0 for i in items if (i.seed, i.benchmark, i.metric) == (seed, benchmark, metric)
            ]
            runs.append(
                RunRecord(
                    run_id=f"{model}/{method}/seed{seed}",
                    method=method,
                    model=model,
                    seed=seed,
                    benchmark=benchmark,
                    metric=metric,
                    higher_is_better=metric != "false_refusal_rate",
                    value=sum(own) / len(own),
                    stderr=None,
                    n=len(own),
                    judge="rules",
                    task_version="1",
                    decode={},
                    policy_hash="",
                    template_hash="",
                )
            )
        write_jsonl(folder / "items.jsonl", items)
        write_jsonl(folder / "runs.jsonl", runs)

    return write
