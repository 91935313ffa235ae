"""The static reward of the baselines: one Bradley-Terry model on preference pairs, fitted once (paper
section 7).

Its preference data comes from the same train split: chosen is the demonstration, rejected a sample of the
reference policy that the rules call unsafe, broken or wrong, and for benign prompts a refusal. The
negatives are never refreshed and hold no hard negatives: that is what "static" stands for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from drirl.records import BENIGN
from drirl.reward.bank import RewardBank
from drirl.reward.fit import FitLog, calibrate, fit, rows_of
from drirl.reward.items import Item, Reply, unsafe_or_broken
from drirl.reward.negatives import Negatives
from drirl.reward.settings import RewardSettings

__all__ = ["learn_static", "preferences"]


def preferences(
    items: Sequence[Item], samples: Sequence[Sequence[Reply]], settings: RewardSettings, seed: int
) -> list[list[Reply]]:
    """Return the rejected replies of every item: its bad samples, and a refusal if the prompt is benign."""
    rng = random.Random(seed)
    negatives = Negatives(items, settings.input_mode)
    result = []
    for item, replies in zip(items, samples):
        rejected = [
            Reply(r.text, r.finished, "sample", 0, r.verdict, 1.0)
            for r in replies
            if unsafe_or_broken(r.verdict) and r.verdict != "empty"
        ]
        if item.head == BENIGN and settings.static.refusal_pairs:
            refusal = negatives.make(item, "refusal", rng)
            rejected += [refusal] if refusal else []
        result.append(rejected)
    return result


def learn_static(
    bank: RewardBank,
    train: Sequence[Item],
    samples: Sequence[Sequence[Reply]],
    val: Sequence[Item],
    val_samples: Sequence[Sequence[Reply]],
    settings: RewardSettings,
    *,
    seed: int,
) -> FitLog:
    """Fit a bank with the single head "all" in place, and calibrate it.

    The loss is the logistic one (Bradley-Terry), whatever ``settings.loss`` gives the category rewards.

    Args:
        samples, val_samples: judged samples of the reference policy (items x K).
    """
    settings = settings.model_copy(update={"loss": "logistic"})
    rows = rows_of(bank, train, preferences(train, samples, settings, seed))
    val_rows = rows_of(bank, val, preferences(val, val_samples, settings, seed + 1))
    log = fit(bank, rows, val_rows, settings, steps=settings.static.steps, seed=seed + 2)
    calibrate(bank, val, val_samples)
    return log
