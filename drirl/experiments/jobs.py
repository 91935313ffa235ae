"""Cells of arms and single policies, with the functions of the headline's stages.

The stages ``align`` and ``evaluate`` take one cell and start a process per seed. Many cells side by side
(arms, the grid of question 14) or a method file of another folder (question 7) need their parts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.align import stage as align
from drirl.config import Params
from drirl.evaluate import stage as evaluate

__all__ = ["PRELOAD", "Cell", "score", "score_cell", "train"]

PRELOAD = (
    "drirl.align.setup",
    "drirl.evaluate.harness",
    "drirl.hardness.encoder",
    "drirl.reward.bank",
    "sentence_transformers",
)
"""Modules that every cell needs, imported once before the processes fork."""


@dataclass(frozen=True)
class Cell:
    """An arm on one model.

    Attributes:
        params: the arm's; ``run.out`` is its own folder.
        jobs: what trains its seeds; empty where policies of another arm are scored.
    """

    params: Params
    model: str
    method: str
    jobs: Sequence[align.Job] = ()

    @property
    def folder(self) -> Path:
        """Return where its records belong."""
        return self.params.run.out / "evaluate" / self.model / self.method


def train(job: align.Job) -> None:
    """Train one seed in the process that asks."""
    os.environ["DRIRL_OUT"] = str(job.out)
    align.train_seed(job)


def score(job: evaluate.Job) -> Any:
    """Score one policy in the process that asks; return its items and runs."""
    os.environ["DRIRL_OUT"] = str(job.out)
    return evaluate.score(job)


def score_cell(params: Params, model: str, method: str) -> None:
    """Score the seeds of a cell one after another in this process and write its records.

    Raises:
        DrirlError: as :func:`drirl.evaluate.stage.run`.
    """
    results = [score(job) for job in evaluate.jobs_of(params, model, method)]
    evaluate.write_records(params.run.out / "evaluate" / model / method, results)
