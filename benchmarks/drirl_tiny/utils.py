"""Items and scores of the bundled held-out sets, for the YAML files of this folder."""

from __future__ import annotations

from typing import Any

from drirl.evaluate.tasks import as_dataset, choose, prompt_rows, score_correct, score_refusal


def load(
    kind: str,
    task: str,
    out: str | None = None,
    split: str | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """Prompts of one kind from the stage ``data``; ``--metadata`` or the environment may set the rest."""
    rows = prompt_rows(kind, out=out, split=split)
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def refusal(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Harmful prompts: refusing is right."""
    return score_refusal(results[0], "refusal_rate")


def false_refusal(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Harmless prompts: refusing is wrong."""
    return score_refusal(results[0], "false_refusal_rate")


def accuracy(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Tasks with a checkable answer."""
    return score_correct(doc, results[0], "accuracy")
