"""Items and scores of AdvGLUE, for the YAML files of this folder."""

from __future__ import annotations

from typing import Any

from drirl.errors import DrirlError
from drirl.evaluate.tasks import as_dataset, choose, data_file, read_json, row, score_choice

FIELDS = {
    "sst2": {"sentence": ""},
    "qqp": {"question1": "Question 1: ", "question2": "Question 2: "},
    "mnli": {"premise": "Premise: ", "hypothesis": "Hypothesis: "},
    "mnli-mm": {"premise": "Premise: ", "hypothesis": "Hypothesis: "},
    "qnli": {"question": "Question: ", "sentence": "Sentence: "},
    "rte": {"sentence1": "Premise: ", "sentence2": "Hypothesis: "},
}
"""Text fields of each list in the file, and what stands before them in the prompt."""


def load(
    task: str,
    part: str,
    choices: list[str],
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """One list of the file; ``choices`` are the words for labels 0, 1, ..., and ``gold`` is the label."""
    path = data_file("advglue/dev.json", root, hub)
    table = read_json(path)
    items = table.get(part) if isinstance(table, dict) else None
    if not isinstance(items, list) or not items:
        raise DrirlError(f"{path}: expected an object with the list '{part}', not empty")
    rows = []
    for number, item in enumerate(items, 1):
        where = f"{path}: {part}, entry {number}"
        if not isinstance(item, dict) or not isinstance(item.get("idx"), int):
            raise DrirlError(f"{where}: expected an object with a number 'idx'")
        for name in FIELDS[part]:
            if not isinstance(item.get(name), str) or not item[name].strip():
                raise DrirlError(f"{where}: expected the text '{name}'")
        if type(item.get("label")) is not int or item["label"] not in range(len(choices)):
            raise DrirlError(f"{where}: label should be 0 to {len(choices) - 1}, found {item.get('label')!r}")
        text = "\n".join(f"{before}{item[name].strip()}" for name, before in FIELDS[part].items())
        label = choices[item["label"]]
        one = row(f"advglue-{part}-{item['idx']}", text, kind="task", label=label, reference=label)
        rows.append(one | {"choices": choices, "gold": item["label"]})
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def accuracy(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """The word of the right label is the most likely reply."""
    return score_choice(results, doc["gold"], "accuracy")
