"""Items and scores of GSM8K, for the YAML file of this folder."""

from __future__ import annotations

from typing import Any

from drirl.errors import DrirlError
from drirl.evaluate.tasks import as_dataset, choose, data_file, read_table, row, score_correct, text_id


def load(
    task: str,
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """The test problems; the reference is the number after ``####`` in the published solution."""
    path = data_file("gsm8k/test.jsonl", root, hub)
    rows = []
    for number, value in read_table(path, ["question", "answer"]):
        _, mark, reference = value["answer"].rpartition("####")
        if not mark or not any(character.isdigit() for character in reference):
            raise DrirlError(f"{path}:{number}: expected a solution that ends with '#### <number>'")
        item = f"gsm8k-{text_id(value['question'])}"
        rows.append(row(item, value["question"], kind="task", reference=reference.strip(), checker="number"))
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def exact_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The last number of the final answer equals the reference."""
    return score_correct(doc, results[0], "exact_match")
