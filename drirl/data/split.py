"""Train, val and test by cluster, per category, where the source fixes no split (paper section 3)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from drirl.data.raw import RawPrompt

__all__ = ["SPLITS", "assign_splits"]

SPLITS = ("train", "val", "test")


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
