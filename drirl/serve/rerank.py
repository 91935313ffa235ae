"""Best of N: complete a prompt N times and keep the completion its category's reward likes most.

The reward is the one policies are trained with; nothing is trained here. Source: paper section 10,
question 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drirl.errors import DrirlError
from drirl.generate import Completion, complete, render
from drirl.serve.routed import RoutedReward

__all__ = ["Ranked", "Reranker"]


@dataclass(frozen=True)
class Ranked:
    """The completions of one prompt in the order they came, their rewards, and the index of the best."""

    completions: list[Completion]
    rewards: list[float]
    best: int

    @property
    def completion(self) -> Completion:
        """The best completion."""
        return self.completions[self.best]

    @property
    def reward(self) -> float:
        """The best completion's reward, in standard deviations of the calibration set."""
        return self.rewards[self.best]


class Reranker:
    """Best-of-N under category rewards.

    The N completions of a prompt are drawn from a seed made of ``seed`` and the prompt, by themselves, so
    they do not depend on what else is asked for; a prompt asked twice gets the same ones.
    """

    def __init__(
        self,
        rewards: Any,
        policy: tuple[Any, Any] | None = None,
        *,
        n: int = 4,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Join rewards and a policy.

        Args:
            rewards: a reward bank, for prompts whose category is given, or a :class:`RoutedReward`, which
                also serves prompts without one.
            policy: ``(model, tokenizer)``; None: completions are always given.
            n: completions per prompt; max_new_tokens: the longest one.
            temperature: above 0; top_p: in (0, 1].
        Raises:
            DrirlError: values that cannot sample.
        """
        if n < 1 or max_new_tokens < 1:
            raise DrirlError(f"expected n and max_new_tokens of at least 1; found {n} and {max_new_tokens}")
        if temperature <= 0 or not 0 < top_p <= 1:
            raise DrirlError(
                f"expected a temperature above 0 and top_p in (0, 1]; found {temperature} and {top_p}"
            )
        self.routed = rewards if isinstance(rewards, RoutedReward) else None
        self.bank = rewards.bank if isinstance(rewards, RoutedReward) else rewards
        self.policy = policy
        self.n, self.max_new_tokens = n, max_new_tokens
        self.temperature, self.top_p, self.seed = temperature, top_p, seed

    def check(self, prompt: str, category: int | None, sampled: bool = True) -> None:
        """Say whether :meth:`rank` can take a prompt.

        Args:
            sampled: whether completions are drawn for it.
        Raises:
            DrirlError: no reward for its category, no category and no router, too long a prompt, or
                completions to draw without a policy.
        """
        if category is None:
            if self.routed is None:
                raise DrirlError("no category is given, and there is no router to find it")
        else:
            self.bank.columns([category])
        self.bank.prompt_ids([prompt])
        if not sampled:
            return
        if self.policy is None:
            raise DrirlError("there are no completions and no policy to draw them from")
        model, tokenizer = self.policy
        used = len(tokenizer(render(tokenizer, [prompt])[0], add_special_tokens=False)["input_ids"])
        context = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        if used + self.max_new_tokens > context:
            raise DrirlError(
                f"the prompt has {used} tokens and completions {self.max_new_tokens}, the policy's context "
                f"is {context}; shorten the prompt or the completions"
            )

    def draw(self, prompt: str) -> list[Completion]:
        """Sample the N completions of a prompt."""
        if self.policy is None:
            raise DrirlError("there is no policy to draw completions from")
        digest = hashlib.sha256(f"{self.seed}\n{prompt}".encode("utf-8", "replace")).digest()
        return complete(
            *self.policy,
            [prompt],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            num_return=self.n,
            batch_size=self.n,
            seed=int.from_bytes(digest[:7], "big"),
        )[0]

    def rank(
        self,
        prompts: Sequence[str],
        categories: Sequence[int | None],
        completions: Sequence[Sequence[Completion] | None] | None = None,
    ) -> list[Ranked]:
        """Return the ranked completions of each prompt; all are scored together, whatever their category.

        Args:
            prompts: B user messages.
            categories: B; 0..6, -1 for benign, None where the router is to decide.
            completions: B lists, or None (for all, or in places): N are drawn from the policy.
        Returns:
            B results; equal completions have equal rewards, and of equal rewards the earlier is the best.
        Raises:
            DrirlError: see :meth:`check`; an empty list of completions.
        """
        given = [None] * len(prompts) if completions is None else list(completions)
        for prompt, category, own in zip(prompts, categories, given, strict=True):
            self.check(prompt, category, own is None)
            if own is not None and not own:
                raise DrirlError(f"no completion to rank for the prompt '{prompt[:40]}'")
        rows = [list(own) if own is not None else self.draw(p) for p, own in zip(prompts, given)]
        rewards: list[list[float]] = [[] for _ in prompts]
        for unlabelled in (False, True):
            chosen = [i for i, category in enumerate(categories) if (category is None) == unlabelled]
            flat = [(i, completion) for i in chosen for completion in rows[i]]
            if not flat:
                continue
            columns = (
                [prompts[i] for i, _ in flat],
                [completion.text for _, completion in flat],
                [completion.finished for _, completion in flat],
            )
            if self.routed is not None and unlabelled:
                scores = self.routed.score_completions(*columns)
            else:
                scores = self.bank.score_completions(*columns, [categories[i] for i, _ in flat])
            first: dict[
                tuple[int, str, bool], float
            ] = {}  # the place in a batch moves the last bit of a score
            for (i, completion), score in zip(flat, scores.tolist()):
                rewards[i].append(first.setdefault((i, completion.text, completion.finished), score))
        return [Ranked(own, values, values.index(max(values))) for own, values in zip(rows, rewards)]
