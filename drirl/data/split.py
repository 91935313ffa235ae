"""Train, val and test by cluster, per category, where the source fixes no split (paper section 3).

With ``data.disjoint`` the training clusters are halved: rewards learn on one half, policies on the other.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from drirl.data.raw import RawPrompt
from drirl.errors import DrirlError
from drirl.records import Prompt, read_json

__all__ = ["HALVES", "HALVES_FILE", "SPLITS", "assign_splits", "halve", "of_half"]

SPLITS = ("train", "val", "test")
HALVES = ("reward", "policy")
HALVES_FILE = "halves.json"


def assign_splits(
    prompts: Sequence[RawPrompt],
    clusters: Sequence[int],
    *,
    shares: tuple[float, float, float],
    seed: int,
) -> list[str]:
    """Return the split of every prompt.

    A cluster with a fixed member goes where that member is; the other clusters of a kind and category,
    largest first and in seeded order, each go to the split that lacks most prompts. With three or
    more clusters no split stays empty: the smallest cluster of the largest split fills it.
    """
    split_of: dict[int, str] = {}
    for prompt, cluster in zip(prompts, clusters, strict=True):
        if prompt.split:
            split_of.setdefault(cluster, prompt.split)
    sizes: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    for prompt, cluster in zip(prompts, clusters, strict=True):
        if cluster not in split_of:
            group = sizes[prompt.kind, prompt.category]
            group[cluster] = group.get(cluster, 0) + 1
    for kind, category in sorted(sizes):
        rng = random.Random(f"{seed}/split/{kind}/{category}")
        split_of.update(_share_out(sizes[kind, category], shares, rng))
    return [prompt.split or split_of[cluster] for prompt, cluster in zip(prompts, clusters, strict=True)]


def _share_out(
    sizes: dict[int, int], shares: tuple[float, float, float], rng: random.Random
) -> dict[int, str]:
    total = sum(sizes.values())
    lacking = {name: share * total for name, share in zip(SPLITS, shares, strict=True)}
    order = sorted(sizes)
    rng.shuffle(order)
    order.sort(key=lambda cluster: -sizes[cluster])  # stable: equal sizes stay shuffled
    given: dict[int, str] = {}
    for cluster in order:
        name = max(SPLITS, key=lambda split: lacking[split])
        given[cluster] = name
        lacking[name] -= sizes[cluster]
    for name in ("test", "val", "train"):
        if len(sizes) >= len(SPLITS) and name not in given.values():
            counts = {split: [c for c in order if given[c] == split] for split in SPLITS}
            largest = max(SPLITS, key=lambda split: len(counts[split]))
            given[min(counts[largest], key=lambda c: (sizes[c], c))] = name
    return given


def halve(prompts: Sequence[Prompt], seed: int) -> dict[str, str]:
    """Return the half, reward or policy, of every training prompt, by prompt_id.

    Per kind and category, clusters go, largest first and in seeded order, to the half that has fewer prompts.
    """
    sizes: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    train = [p for p in prompts if p.split == "train"]
    for p in train:
        group = sizes[p.kind, p.category]
        group[p.cluster_id] = group.get(p.cluster_id, 0) + 1
    half_of: dict[int, str] = {}
    for kind, category in sorted(sizes):
        group = sizes[kind, category]
        order = sorted(group)
        random.Random(f"{seed}/halves/{kind}/{category}").shuffle(order)
        order.sort(key=lambda cluster: -group[cluster])  # stable: equal sizes stay shuffled
        counts = dict.fromkeys(HALVES, 0)
        for cluster in order:
            half = min(HALVES, key=lambda name: counts[name])
            half_of[cluster] = half
            counts[half] += group[cluster]
    return {p.prompt_id: half_of[p.cluster_id] for p in train}


def of_half(prompts: Sequence[Prompt], folder: Path, half: Literal["reward", "policy"]) -> list[Prompt]:
    """Return the prompts that ``half`` may train on: all, unless ``data.disjoint`` wrote ``halves.json``.

    Args:
        prompts: of any split; val and test prompts are always kept.
        folder: ``out/data``.
    """
    path = folder / HALVES_FILE
    if not path.is_file():
        return list(prompts)
    halves = read_json(path)
    missing = next((p.prompt_id for p in prompts if p.split == "train" and p.prompt_id not in halves), None)
    if missing is not None:
        raise DrirlError(f"{path}: training prompt {missing} is not in it; run 'drirl stage data' again")
    return [p for p in prompts if p.split != "train" or halves[p.prompt_id] == half]
