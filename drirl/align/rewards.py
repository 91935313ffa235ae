"""Reward callables for TRL: each completion is scored under its prompt's category, in one mixed pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from drirl.records import BENIGN
from drirl.reward.bank import RewardBank

__all__ = ["BankReward", "completion_text", "prompt_text"]

Messages = list[dict[str, str]]


class BankReward:
    """A ``reward_funcs`` entry of TRL's GRPOTrainer over a :class:`RewardBank`.

    Rows may carry ``category`` (0..6, or -1 for benign prompts, which the bank's head -1 scores); without
    that column every row counts as benign. A completion is finished if its *token ids* end with an end
    token: the decoded text no longer shows it.

    Args:
        benign: False gives every completion of a benign prompt the reward 0, so that its group has no
            advantage and only the KL term acts on it (setting ``align.shared.benign_reward``).
    """

    def __init__(self, bank: RewardBank, end_ids: Collection[int], benign: bool = True) -> None:
        self.bank = bank
        self.end_ids = frozenset(end_ids)
        self.benign = benign
        self.__name__ = "bank"

    def rewards(self, category: int) -> bool:
        """Return whether prompts of the category get a reward at all."""
        return self.benign or category != BENIGN

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]],
        category: Sequence[int] | None = None,
        **_: Any,
    ) -> list[float]:
        """Return one reward per completion; see TRL's reward function interface."""
        categories = [BENIGN] * len(prompts) if category is None else list(category)
        scored = [i for i, own in enumerate(categories) if self.rewards(own)]
        rewards = [0.0] * len(categories)
        if scored:
            scores = self.bank.score_completions(
                [prompt_text(prompts[i]) for i in scored],
                [completion_text(completions[i]) for i in scored],
                [bool(completion_ids[i]) and completion_ids[i][-1] in self.end_ids for i in scored],
                [categories[i] for i in scored],
            )
            for i, score in zip(scored, scores.tolist(), strict=True):
                rewards[i] = score
        return rewards


def prompt_text(prompt: str | Messages) -> str:
    """Return the last user message of a conversational prompt, or the prompt itself."""
    if isinstance(prompt, str):
        return prompt
    return next(message["content"] for message in reversed(prompt) if message["role"] == "user")


def completion_text(completion: str | Messages) -> str:
    """Return the text of a completion: TRL gives one assistant message for a conversational prompt."""
    return (completion if isinstance(completion, str) else completion[0]["content"]).strip()
