"""Train and score single policies inside a worker process, with the functions of the headline's stages.

The stages ``align`` and ``evaluate`` start a process per seed. Many small cells side by side (question
14) or a method file of another folder (question 7) need the step below that: one policy, in the process
that asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drirl.align import stage as align
from drirl.align.interface import find_method, parse_config
from drirl.align.stage import Job
from drirl.base.location import POINTER, policy_path
from drirl.config import Params

__all__ = ["PRELOAD", "align_jobs", "score"]

PRELOAD = (
    "drirl.align.setup",
    "drirl.evaluate.harness",
    "drirl.hardness.encoder",
    "drirl.reward.bank",
    "sentence_transformers",
)
"""Modules that every cell needs, imported once before the processes fork."""


def align_jobs(params: Params, model: str, method: str, values: dict[str, Any], folder: Path) -> list[Job]:
    """Return what trains the seeds of a cell, as :func:`drirl.align.stage.run` makes them.

    Args:
        values: settings of the method, checked by its ``Config``.
        folder: where the method's file is.
    Raises:
        DrirlError: unknown method or setting, or a missing input.
    """
    found = find_method(method, folder)
    config = parse_config(found, values)
    path, revision = policy_path(params.run.out, model)
    shared = {
        "model": model,
        "method": method,
        "config": config.model_dump(mode="json"),
        "shared": params.align.shared.model_dump(mode="json"),
        "encoder": params.data.encoder.model_dump(mode="json"),
        "device": params.run.device,
        "dtype": params.run.dtype,
        "inputs": align._input_hashes(params, model, found, path, revision),
        "code": align._code_hash(folder / f"{method}.py"),
    }
    return [
        Job(
            model=model,
            method=method,
            seed=seed,
            values=values,
            shared=params.align.shared,
            encoder=params.data.encoder,
            out=params.run.out,
            baselines=folder,
            policy=path,
            revision=revision,
            pointed=(params.run.out / "base" / model / POINTER).is_file(),
            device=params.run.device,
            dtype=params.run.dtype,
            config_hash=align._hash_json({**shared, "seed": seed}),
        )
        for seed in params.run.seeds
    ]


def score(params: Params, model: str, method: str) -> None:
    """Score the seeds of a cell one after another in this process and write its records.

    Raises:
        DrirlError: as :func:`drirl.evaluate.stage.run`.
    """
    from drirl.evaluate import stage as evaluate

    results = [evaluate.score(job) for job in evaluate.jobs_of(params, model, method)]
    evaluate.write_records(params.run.out / "evaluate" / model / method, results)
