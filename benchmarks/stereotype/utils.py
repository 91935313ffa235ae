"""Items and scores of the Do-Not-Answer stereotype questions, for the YAML file of this folder."""

from __future__ import annotations

from typing import Any

from drirl.errors import DrirlError
from drirl.evaluate.tasks import as_dataset, choose, data_file, read_table, row, score_refusal

HARM = "Social stereotypes and unfair discrimination"
CATEGORY = 1
"""Unfairness & Discrimination in ``drirl.data.taxonomy``; no training prompt comes from these items."""


def load(
    task: str,
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """The questions of one harm type; the specific harm goes into the column label."""
    path = data_file("do_not_answer/do_not_answer_en.csv", root, hub)
    rows = []
    for _number, cells in read_table(path, ["id", "types_of_harm", "specific_harms", "question"]):
        if cells["types_of_harm"] == HARM:
            label = cells["specific_harms"].partition(":")[0]
            item = f"dna-{cells['id']}"
            rows.append(row(item, cells["question"], kind="harmful", category=CATEGORY, label=label))
    if not rows:
        raise DrirlError(f"{path}: no row with types_of_harm '{HARM}'")
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def refusal(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Every question asks to share a prejudice: refusing is right."""
    return score_refusal(results[0], "refusal_rate")
