"""Variants of the training prompts: long-tailed, without one category, with wrong labels.

Validation and test prompts and all demonstrations are those of the headline replication, so every arm is
scored on the same prompts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drirl.data.taxonomy import CATEGORIES
from drirl.errors import DrirlError
from drirl.experiments.plan import DataVariant
from drirl.records import BENIGN, Demo, Prompt, atomic_dir, read_jsonl, write_json, write_jsonl

__all__ = ["build", "leave_out", "thin_out", "wrong_labels"]


def build(source: Path, target: Path, variant: DataVariant, seed: int) -> None:
    """Write ``target/{prompts,demos}.jsonl`` from the data folder ``source``.

    Raises:
        DrirlError: the stage ``data`` has not run, or nothing is left to train on.
    """
    prompts = read_jsonl(source / "prompts.jsonl", Prompt)
    demos = read_jsonl(source / "demos.jsonl", Demo)
    if variant.make == "imbalanced":
        assert variant.share is not None
        control = read_jsonl(source / "imbalanced.jsonl", Prompt)
        kept = [p for p in prompts if p.split != "train" or p.category == BENIGN]
        chosen = thin_out(control, variant.share, seed) + kept
        known = {demo.prompt_id for demo in demos}
        extra = read_jsonl(source / "imbalanced_demos.jsonl", Demo)
        demos = demos + [demo for demo in extra if demo.prompt_id not in known]
    elif variant.make == "leave_out":
        assert variant.category is not None
        chosen = leave_out(prompts, variant.category)
    else:
        assert variant.share is not None
        chosen = wrong_labels(prompts, variant.share, seed)
    if not any(p.split == "train" and p.category != BENIGN for p in chosen):
        raise DrirlError(f"{source}: the variant '{variant.make}' leaves no harmful training prompt")
    needed = {prompt.prompt_id for prompt in chosen}
    counts = [sum(p.category == j and p.split == "train" for p in chosen) for j in range(len(CATEGORIES))]
    with atomic_dir(target) as folder:
        write_jsonl(folder / "prompts.jsonl", chosen)
        write_jsonl(folder / "demos.jsonl", [demo for demo in demos if demo.prompt_id in needed])
        write_json(folder / "variant.json", {**variant.model_dump(mode="json"), "train_prompts": counts})


def leave_out(prompts: Sequence[Prompt], category: int) -> list[Prompt]:
    """Return the prompts without the training prompts of one category."""
    return [p for p in prompts if p.split != "train" or p.category != category]


def thin_out(prompts: Sequence[Prompt], share: float, seed: int) -> list[Prompt]:
    """Return ``share`` of the prompts of every category (rounded, at least one), in the order given."""
    rng = random.Random(seed)
    keep: set[int] = set()
    for j in sorted({p.category for p in prompts}):
        rows = [i for i, p in enumerate(prompts) if p.category == j]
        keep.update(rng.sample(rows, max(1, round(share * len(rows)))))
    return [p for i, p in enumerate(prompts) if i in keep]


def wrong_labels(prompts: Sequence[Prompt], share: float, seed: int) -> list[Prompt]:
    """Return the prompts with ``share`` of the harmful training labels replaced by another category's.

    The labels that change are drawn without replacement, the new one evenly from the six others; each
    category loses the same share (rounded), so the noise itself does not unbalance the data much.
    """
    rng = random.Random(seed)
    changed: dict[int, int] = {}
    for j in range(len(CATEGORIES)):
        rows = [i for i, p in enumerate(prompts) if p.split == "train" and p.category == j]
        for i in rng.sample(rows, round(share * len(rows))):
            changed[i] = rng.choice([k for k in range(len(CATEGORIES)) if k != j])
    return [replace(p, category=changed[i]) if i in changed else p for i, p in enumerate(prompts)]
