"""Category rewards without a label: soft, hard and worst-case routing (paper section 10, question 7).

Dimension letters: B replies, C classes of the router.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from drirl.errors import DrirlError, nearest
from drirl.reward.bank import ALL
from drirl.serve.router import Router
from drirl.text import split_draft

__all__ = ["MODES", "Mode", "RoutedReward", "combine", "routed_reward", "with_label_noise"]

Mode = Literal["soft", "hard", "worst"]
MODES: tuple[str, ...] = get_args(Mode)


def combine(scores: Tensor, probabilities: Tensor, mode: str, floor: float = 0.0) -> Tensor:
    """Make one reward of the rewards of all categories.

    ``soft``: sum_j p_j r_j. ``hard``: r_j of the most probable j. ``worst``: min_j r_j over the categories
    with p_j of at least ``floor``; the most probable one always counts.

    Args:
        scores: (B, C) calibrated rewards; probabilities: (B, C), rows add up to 1.
        floor: for ``worst``; 0 takes the minimum over all categories, as the paper's question prints it.
    Returns:
        (B,).
    Raises:
        DrirlError: an unknown mode. ValueError: shapes that differ.
    """
    if scores.shape != probabilities.shape:
        raise ValueError(f"expected (B, C) twice; found {tuple(scores.shape)}, {tuple(probabilities.shape)}")
    if mode not in MODES:
        raise DrirlError(f"unknown routing '{mode}'; {nearest(mode, MODES)}")
    if mode == "soft":
        return (scores * probabilities.to(scores)).sum(1)
    best = probabilities.argmax(1, keepdim=True)  # (B, 1)
    if mode == "hard":
        return scores.gather(1, best)[:, 0]
    counts = (probabilities >= floor).scatter(1, best, True)
    return scores.masked_fill(~counts, torch.inf).min(1).values


class RoutedReward:
    """A reward bank that finds the category by itself.

    It has the bank's ``score`` and ``score_completions``, so it stands wherever a bank does; the
    ``categories`` it is given there are ignored.
    """

    def __init__(self, bank: Any, router: Router, mode: str = "hard", floor: float = 0.0) -> None:
        """Join a bank and a router.

        Args:
            bank: rewards with ``heads``, ``score`` and ``score_all``.
        Raises:
            DrirlError: an unknown mode, or a class of the router without a reward.
        """
        if mode not in MODES:
            raise DrirlError(f"unknown routing '{mode}'; {nearest(mode, MODES)}")
        missing = [] if bank.heads == [ALL] else [c for c in router.classes if c not in bank.heads]
        if missing:
            known = ", ".join(str(head) for head in bank.heads)
            raise DrirlError(f"the router knows category {missing[0]}, but the rewards have {known} only")
        self.bank, self.router, self.mode, self.floor = bank, router, mode, floor

    @property
    def input_mode(self) -> str:
        """The bank's input mode."""
        return str(self.bank.input_mode)

    def score(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        finished: Sequence[bool],
        categories: Sequence[int] | None = None,
        calibrated: bool = True,
    ) -> Tensor:
        """Return one reward per reply, (B,) float32 on the CPU; see :meth:`RewardBank.score`."""
        if not prompts:
            raise DrirlError("nothing to score: expected at least one prompt with a reply")
        unique = sorted(set(prompts))
        known = dict(zip(unique, self.router.probabilities(unique)))
        table = [known[prompt] for prompt in prompts]
        if self.mode == "hard":
            classes = [self.router.classes[int(row.argmax())] for row in table]
            return torch.as_tensor(self.bank.score(prompts, answers, finished, classes, calibrated))
        scores = self.bank.score_all(prompts, answers, finished, calibrated)
        columns = self.bank.columns(self.router.classes).cpu()
        probabilities = torch.stack([torch.from_numpy(row) for row in table])
        return combine(scores[:, columns], probabilities.to(scores), self.mode, self.floor)

    def score_completions(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finished: Sequence[bool],
        categories: Sequence[int] | None = None,
        calibrated: bool = True,
    ) -> Tensor:
        """As :meth:`score`, from whole completions: in the mode ``answer`` the draft is cut off first."""
        answers = (
            [split_draft(text)[1] for text in completions] if self.input_mode == "answer" else completions
        )
        return self.score(prompts, answers, finished, categories, calibrated)


def routed_reward(
    rewards: str | Path, router: str | Path, mode: str = "hard", *, floor: float = 0.0, device: str = "cpu"
) -> RoutedReward:
    """Load rewards and router from their folders; see :class:`RoutedReward`."""
    from drirl.reward.bank import RewardBank

    return RoutedReward(RewardBank.load(rewards, device), Router.load(router), mode, floor)


def with_label_noise(categories: Sequence[int], share: float, classes: Sequence[int], seed: int) -> list[int]:
    """Return the labels with ``share`` of them (rounded) replaced by another class, drawn evenly.

    Raises:
        ValueError: a share outside [0, 1], or fewer than two classes.
    """
    if not 0 <= share <= 1 or len(set(classes)) < 2:
        raise ValueError("expected a share in [0, 1] and at least two classes")
    rng = random.Random(seed)
    out = list(categories)
    for i in sorted(rng.sample(range(len(out)), round(share * len(out)))):
        out[i] = rng.choice([c for c in sorted(set(classes)) if c != out[i]])
    return out
