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
    """

    def __init__(self, bank: RewardBank, end_ids: Collection[int]) -> None:
        self.bank = bank
        self.end_ids = frozenset(end_ids)
        self.__name__ = "bank"

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]],
        category: Sequence[int] | None = None,
        **_: Any,
    ) -> list[float]:
        """Return one reward per completion; see TRL's reward function interface."""
        scores = self.bank.score_completions(
            [prompt_text(prompt) for prompt in prompts],
            [completion_text(completion) for completion in completions],
            [bool(ids) and ids[-1] in self.end_ids for ids in completion_ids],
            [BENIGN] * len(prompts) if category is None else list(category),
        )
        return [float(score) for score in scores]


def prompt_text(prompt: str | Messages) -> str:
    """Return the last user message of a conversational prompt, or the prompt itself."""
    if isinstance(prompt, str):
        return prompt
    return next(message["content"] for message in reversed(prompt) if message["role"] == "user")


def completion_text(completion: str | Messages) -> str:
    """Return the text of a completion: TRL gives one assistant message for a conversational prompt."""
    return (completion if isinstance(completion, str) else completion[0]["content"]).strip()
