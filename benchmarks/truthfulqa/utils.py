"""Items and scores of TruthfulQA's multiple choice, for the YAML files of this folder."""

from __future__ import annotations

from typing import Any

from drirl.errors import DrirlError
from drirl.evaluate.tasks import (
    as_dataset,
    choose,
    data_file,
    read_json,
    row,
    score_choice,
    score_mass,
    text_id,
)


def load(
    task: str,
    part: str,
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """All questions with the answers of ``part`` (mc1 or mc2); ``gold`` is the true one, or the list."""
    path = data_file("truthfulqa/mc_task.json", root, hub)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise DrirlError(f"{path}: expected a list of questions, not empty")
    rows = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        question = entry.get("question") if isinstance(entry, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise DrirlError(f"{where}: expected an object with the text 'question'")
        answers, true = _answers(entry.get(f"{part}_targets"), part, where)
        item = row(
            f"truthfulqa-{text_id(question)}",
            question,
            kind="task",
            reference=" | ".join(answers[i] for i in true),
        )
        rows.append(item | {"choices": answers, "gold": true[0] if part == "mc1" else true})
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def _answers(targets: Any, part: str, where: str) -> tuple[list[str], list[int]]:
    """Return the answers and the places of the true ones."""
    if not isinstance(targets, dict) or len(targets) < 2:
        raise DrirlError(f"{where}: expected '{part}_targets' with two answers or more")
    for answer, label in targets.items():
        if label not in (0, 1):
            raise DrirlError(f"{where}: label should be 0 or 1, found {label!r} for '{answer[:40]}'")
    true = [i for i, label in enumerate(targets.values()) if label == 1]
    if len(true) == len(targets) or not true or (part == "mc1" and len(true) > 1):
        wanted = "exactly one true answer" if part == "mc1" else "true and false answers"
        raise DrirlError(
            f"{where}: '{part}_targets' should have {wanted}, found {len(true)} of {len(targets)}"
        )
    return list(targets), true


def mc1(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """The true answer is the most likely one."""
    return score_choice(results, doc["gold"], "mc1")


def mc2(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Share of the probability that lies on the true answers."""
    return score_mass(results, doc["gold"], "mc2")
