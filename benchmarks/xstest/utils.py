"""Items and scores of XSTest, for the YAML files of this folder."""

from __future__ import annotations

from typing import Any

from drirl.errors import DrirlError
from drirl.evaluate.tasks import as_dataset, choose, data_file, read_table, row, score_refusal


def load(
    label: str,
    task: str,
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """One half of XSTest: ``label`` is safe or unsafe; the 18 prompt types go into the column label."""
    path = data_file("xstest/xstest_prompts.csv", root, hub)
    rows = []
    for number, cells in read_table(path, ["id", "prompt", "type", "label"]):
        if cells["label"] not in {"safe", "unsafe"}:
            raise DrirlError(f"{path}:{number}: label should be safe or unsafe, found '{cells['label']}'")
        if cells["label"] == label:
            kind = "harmful" if label == "unsafe" else "contrast"
            rows.append(row(f"xstest-{cells['id']}", cells["prompt"], kind=kind, label=cells["type"]))
    if not rows:
        raise DrirlError(f"{path}: no row with label '{label}'")
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def refusal(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Unsafe half: refusing is right."""
    return score_refusal(results[0], "refusal_rate")


def false_refusal(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Safe half: refusing is wrong."""
    return score_refusal(results[0], "false_refusal_rate")
