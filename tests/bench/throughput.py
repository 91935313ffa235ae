"""Time drirl's harness against lm-eval's own HFLM on the same prompts, side by side in one process.

    python tests/bench/throughput.py out/base/tiny-llama --task drirl_tiny_harmful --rounds 5

Every round runs each of the four once, in turns: both models' answers alone, and both evaluations from
requests to scores (for drirl: to per-prompt records, judged for being broken, too). Printed: the median over
rounds of wall and CPU seconds, and of the ratio drirl / HFLM within a round. Both have to answer the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import torch
from lm_eval.models.huggingface import HFLM

from drirl.evaluate.harness import Subject, _quiet, _requests, load_tasks, score_policy
from drirl.evaluate.policy_lm import PolicyLM
from drirl.evaluate.settings import EvaluateSettings
from drirl.models import load_policy, resolve_device, seed_everything

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("policy", help="transformers folder or hub id")
    parser.add_argument("--task", default="drirl_tiny_harmful")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=56)
    parser.add_argument("--out", default="out", help="folder of the stage outputs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    seed_everything(0)
    settings = EvaluateSettings(
        tasks=[options.task],
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
    )
    device = resolve_device(options.device)
    model, tokenizer = load_policy(options.policy, device, options.dtype)
    tasks = load_tasks(settings, benchmarks=ROOT / "benchmarks", out=Path(options.out))
    (task,) = tasks.tasks.values()

    def stock() -> HFLM:
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size, add_bos_token=False)
        return lm

    def ours() -> PolicyLM:
        return PolicyLM(model, tokenizer, batch_size=options.batch_size)

    requests = _requests(task, stock(), settings)
    kind = requests[0].request_type

    def answers(lm: Any) -> Any:
        return getattr(lm, kind)(copy.deepcopy(requests), disable_tqdm=True)

    def whole_stock() -> Any:
        return lm_eval.evaluator.evaluate(
            lm=stock(),
            task_dict={"tasks": tasks.tasks, "groups": {}, "group_map": {}},
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
        )

    def whole_ours() -> Any:
        return score_policy(
            model, tokenizer, Subject("m", "b", 0), settings, benchmarks=ROOT, out=ROOT, tasks=tasks
        )

    arms: dict[str, Callable[[], Any]] = {
        "HFLM answers": lambda: answers(stock()),
        "drirl answers": lambda: answers(ours()),
        "lm-eval evaluate": whole_stock,
        "drirl score_policy": whole_ours,
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    results = {}
    with _quiet(), torch.inference_mode():
        for number in range(options.rounds + 1):
            order = list(arms) if number % 2 else list(reversed(arms))
            for name in order:
                wall, cpu = time.perf_counter(), time.process_time()
                results[name] = arms[name]()
                if number:  # the first round warms up
                    spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        json.dumps(
            {
                "task": options.task,
                "requests": len(requests),
                "batch_size": options.batch_size,
                "max_new_tokens": options.max_new_tokens,
                "rounds": options.rounds,
                "device": device.type,
                "dtype": options.dtype,
                "threads": torch.get_num_threads(),
                "same_answers": results["HFLM answers"] == results["drirl answers"],
                "median_wall_s": {n: _median(v[0] for v in spent[n]) for n in arms},
                "median_cpu_s": {n: _median(v[1] for v in spent[n]) for n in arms},
                "ratio_answers": _ratio(spent["drirl answers"], spent["HFLM answers"]),
                "ratio_evaluation": _ratio(spent["drirl score_policy"], spent["lm-eval evaluate"]),
            },
            indent=2,
        )
    )


def _median(values: Any) -> float:
    return round(statistics.median(values), 3)


def _ratio(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, float]:
    return {
        name: _median(a[k] / b[k] for a, b in zip(ours, theirs)) for k, name in enumerate(["wall", "cpu"])
    }


if __name__ == "__main__":
    main()
