"""Splits by cluster."""

from __future__ import annotations

from collections import Counter

from drirl.data.raw import RawPrompt
from drirl.data.split import assign_splits

SHARES = (0.8, 0.1, 0.1)


def test_shares_and_whole_clusters() -> None:
    clusters = [i // 5 for i in range(500)]  # 100 clusters of 5
    prompts = [RawPrompt(text=str(i), category=0) for i in range(500)]
    splits = assign_splits(prompts, clusters, shares=SHARES, seed=0)
    assert Counter(splits) == {"train": 400, "val": 50, "test": 50}
    assert all(len({splits[i] for i in range(500) if clusters[i] == c}) == 1 for c in range(100))
    assert splits == assign_splits(prompts, clusters, shares=SHARES, seed=0)
    assert splits != assign_splits(prompts, clusters, shares=SHARES, seed=1)


def test_each_category_is_split_on_its_own() -> None:
    prompts = [RawPrompt(text=str(i), category=i % 2) for i in range(60)]
    splits = assign_splits(prompts, list(range(60)), shares=SHARES, seed=0)
    for category in (0, 1):
        assert Counter(splits[category::2]) == {"train": 24, "val": 3, "test": 3}


def test_no_split_is_empty_with_three_clusters() -> None:
    prompts = [RawPrompt(text=str(i)) for i in range(12)]
    splits = assign_splits(prompts, [0] * 10 + [1, 2], shares=SHARES, seed=0)
    assert set(splits) == {"train", "val", "test"}
    assert set(splits[:10]) == {"train"}


def test_fixed_splits_stay_and_pull_their_cluster() -> None:
    prompts = [RawPrompt(text="a", split="test"), RawPrompt(text="b"), RawPrompt(text="c", split="train")]
    assert assign_splits(prompts, [0, 0, 1], shares=SHARES, seed=0) == ["test", "test", "train"]


def test_uneven_clusters_still_come_near_the_shares() -> None:
    clusters = [
        c for c, size in enumerate([20, 17, 13, 9, 7, 6, 5, 5, 4, 4, 3, 3, 2, 1, 1]) for _ in range(size)
    ]
    prompts = [RawPrompt(text=str(i)) for i in range(100)]
    for seed in range(5):
        counts = Counter(assign_splits(prompts, clusters, shares=SHARES, seed=seed))
        assert all(8 <= counts[split] <= 13 for split in ("val", "test"))
