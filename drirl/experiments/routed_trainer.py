"""DR-IRL's trainer with category rewards that a classifier of the prompt picks or mixes."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from drirl.align.rewards import BankReward, prompt_text
from drirl.align.trainer import DRIRLTrainer
from drirl.experiments.routing import Routes
from drirl.serve.routed import RoutedReward

__all__ = ["RoutedTrainer", "routed_dataset"]


class RoutedTrainer(DRIRLTrainer):
    """Replace the labels of the dataset and the reward before training starts.

    Args:
        reward_funcs: a :class:`BankReward`; its bank is asked for the rewards of all categories.
        routes: probabilities of the categories of every prompt in the dataset.
        mode: ``soft``, ``hard`` or ``worst``, see :func:`drirl.serve.routed.combine`.
        harm_known: whether a prompt is benign is taken from the dataset, not from the routes.
    """

    def __init__(
        self,
        *args: Any,
        reward_funcs: BankReward,
        train_dataset: Dataset,
        routes: Routes,
        mode: str,
        harm_known: bool = False,
        **kwargs: Any,
    ) -> None:
        if harm_known:
            texts = [prompt_text(prompt) for prompt in train_dataset["prompt"]]
            routes = routes.knowing_harm(dict(zip(texts, train_dataset["category"], strict=True)))
        bank: Any = RoutedReward(reward_funcs.bank, routes, mode)  # type: ignore[arg-type]
        super().__init__(
            *args,
            reward_funcs=BankReward(bank, reward_funcs.end_ids, reward_funcs.benign),
            train_dataset=routed_dataset(train_dataset, bank, routes),
            **kwargs,
        )


def routed_dataset(dataset: Dataset, bank: Any, routes: Routes) -> Dataset:
    """Return the dataset with the classifier's category, and demonstrations scored by the routed reward."""
    texts = [prompt_text(prompt) for prompt in dataset["prompt"]]
    demonstrations = list(dataset["demonstration"])
    pairs = sorted(set(zip(texts, demonstrations, strict=True)))
    scores = bank.score_completions([t for t, _ in pairs], [d for _, d in pairs], [True] * len(pairs))
    reward = {pair: float(score) for pair, score in zip(pairs, scores, strict=True)}
    columns: Any = dataset.remove_columns(["category", "demo_reward"])
    columns = columns.add_column("category", routes.categories(texts))
    return columns.add_column(
        "demo_reward", [reward[pair] for pair in zip(texts, demonstrations, strict=True)]
    )
