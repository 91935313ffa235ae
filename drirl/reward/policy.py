"""The policy side of IRL: sampling for the outer loop and the cheap update pi_{t+1} between iterations.

:class:`LanguagePolicy` samples token ids with a key-value cache and can be moved by a few GRPO steps on the
current reward, so that the next negatives are what that reward would be exploited with (paper section 4,
step 7).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from drirl.errors import DrirlError
from drirl.generate import Completion, render
from drirl.models import load_policy
from drirl.reward.items import Item, group_key
from drirl.reward.settings import PolicyUpdate

__all__ = ["LanguagePolicy", "Policy", "group_advantages", "grpo_loss"]

RewardFunction = Callable[[Sequence[Item], Sequence[Completion]], Tensor]
"""Raw or calibrated rewards of completions, one item per completion: (B,) float32."""


class Policy(Protocol):
    """What the outer loop needs of a policy."""

    name: str

    def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
        """Draw ``count`` completions for each item's prompt."""

    def updated(self, items: Sequence[Item], reward: RewardFunction, name: str, seed: int) -> Policy:
        """Return the policy moved from the reference towards reference * exp(reward / beta)."""


@dataclass(frozen=True)
class Rollout:
    """Sampled token ids: prompts (left-padded) with their completions (right-padded)."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    new_ids: Tensor
    new_mask: Tensor
    finished: Tensor


def group_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Centre and scale rewards within each group: (r - mean) / (std + 1e-4).

    Args:
        rewards: (B*G,); completions of one prompt are adjacent.
        group_size: G; must divide len(rewards).
    Returns:
        (B*G,). A group of equal rewards gives zeros.
    Source: GRPO (arXiv:2402.03300), outcome supervision; paper section 6.
    """
    grouped = rewards.view(-1, group_size)  # (B, G)
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (grouped.std(1, keepdim=True) + 1e-4)).reshape(-1)


def grpo_loss(
    logps: Tensor, advantages: Tensor, mask: Tensor, ref_logps: Tensor | None, beta: float
) -> Tensor:
    """On-policy GRPO loss: the ratio is 1, so its gradient is the policy gradient; k3 estimate of the KL.

    Args:
        logps: (B, T) log-probabilities of the sampled tokens, with gradient.
        advantages: (B,); mask: (B, T), 1 on completion tokens.
        ref_logps: (B, T) under the reference policy, or None to leave the KL term out.
        beta: KL coefficient.
    Returns:
        Scalar: mean over completions of the mean over their tokens.
    Source: paper section 6 (one update per batch, so clipping never acts).
    """
    ratio = (logps - logps.detach()).exp()
    per_token = -ratio * advantages[:, None]  # (B, T)
    if ref_logps is not None and beta > 0:
        gap = ref_logps - logps
        per_token = per_token + beta * (gap.exp() - gap - 1)
    return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


class LanguagePolicy:
    """A causal LM as a :class:`Policy`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        settings: PolicyUpdate,
        max_new_tokens: int,
        temperature: float = 1.0,
        batch_size: int = 128,
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.settings, self.max_new_tokens = settings, max_new_tokens
        self.temperature, self.batch_size = temperature, batch_size
        self.generated_tokens = 0
        self.updates = 0

    @classmethod
    def load(cls, path: str, revision: str | None, device: Any, **options: Any) -> LanguagePolicy:
        """Load a policy folder or hub id; see :func:`drirl.models.load_policy`."""
        model, tokenizer = load_policy(path, device, revision=revision)
        return cls(model, tokenizer, **options)

    # ---------------------------------------------------------------------------------------------- sampling

    def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
        """Draw ``count`` completions per item; batches are formed by prompt length, results keep the
        order.
        """
        ids = self._prompt_ids([item.prompt.text for item in items])
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        generator = torch.Generator(device=self.model.device).manual_seed(seed)
        results: list[list[Completion]] = [[] for _ in items]
        rows = max(1, self.batch_size // count)
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            rollout = self._rollout([ids[i] for i in chosen], count, generator)
            for k, completion in enumerate(self._decode(rollout)):
                results[chosen[k // count]].append(completion)
        return results

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(render(self.tokenizer, prompts), add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    @torch.no_grad()
    def _rollout(self, prompts: Sequence[list[int]], count: int, generator: torch.Generator) -> Rollout:
        """Sample ``count`` completions of each prompt; the prompt is read once, finished rows leave the
        batch.
        """
        model, device = self.model, self.model.device
        pad, end = int(self.tokenizer.pad_token_id), int(self.tokenizer.eos_token_id)
        width = max(len(row) for row in prompts)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=device)  # (P, S)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in prompts], device=device)  # (P, S)
        cache = DynamicCache(config=model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (P, V)
        cache.batch_repeat_interleave(count)
        logits = logits.repeat_interleave(count, 0)  # (B, V), B = P * count
        prompt_ids, prompt_mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
        live_mask, position = prompt_mask, positions[:, -1:].repeat_interleave(count, 0)
        total = len(prompt_ids)
        new = torch.full((total, self.max_new_tokens), pad, device=device)
        lengths = torch.full((total,), self.max_new_tokens, device=device)
        finished = torch.zeros(total, dtype=torch.bool, device=device)
        alive = torch.arange(total, device=device)
        for t in range(self.max_new_tokens):
            token = _draw(logits / self.temperature, generator)  # (alive,)
            new[alive, t] = token
            ends = token == end
            finished[alive[ends]] = True
            lengths[alive[ends]] = t + 1
            if t + 1 == self.max_new_tokens or bool(ends.all()):
                break
            if bool(ends.any()):
                keep = (~ends).nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, token, live_mask, position = alive[keep], token[keep], live_mask[keep], position[keep]
            live_mask = torch.cat([live_mask, live_mask.new_ones(len(live_mask), 1)], 1)
            position = position + 1
            logits = model(
                input_ids=token[:, None],
                attention_mask=live_mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        longest = int(lengths.max())
        new_mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
        self.generated_tokens += int(lengths.sum())
        return Rollout(prompt_ids, prompt_mask, new[:, :longest], new_mask, finished)

    def _decode(self, rollout: Rollout) -> list[Completion]:
        lengths = rollout.new_mask.sum(1).tolist()
        finished = rollout.finished.tolist()
        rows = [row[: n - int(f)] for row, n, f in zip(rollout.new_ids.tolist(), lengths, finished)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [Completion(text.strip(), f, n) for text, f, n in zip(texts, finished, lengths)]

    # ------------------------------------------------------------------------------------------------ update

    def updated(self, items: Sequence[Item], reward: RewardFunction, name: str, seed: int) -> LanguagePolicy:
        """Run ``settings.steps`` GRPO steps from this policy, which is also the reference of the KL term.

        Args:
            items: prompts to draw from, spread evenly over the groups (seven categories, benign, task).
            reward: scores completions; the same function for every prompt of a batch.
        Returns:
            A new policy; this one is unchanged.
        Raises:
            DrirlError: a reward that is not finite.
        """
        import copy

        options = self.settings
        model = copy.deepcopy(self.model).train()
        moved = LanguagePolicy(
            model,
            self.tokenizer,
            name=name,
            settings=options,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            batch_size=self.batch_size,
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.0)
        generator = torch.Generator(device=model.device).manual_seed(seed)
        draws = _even_draws(items, options.prompts, options.steps, seed)
        for step, batch in enumerate(draws):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1.0, (step + 1) / 5)
            model.eval()
            prompts = self._prompt_ids([item.prompt.text for item in batch])
            rollout = moved._rollout(prompts, options.group_size, generator)
            rows = [item for item in batch for _ in range(options.group_size)]
            rewards = reward(rows, moved._decode(rollout))  # (B,)
            if not torch.isfinite(rewards).all():
                raise DrirlError("the IRL policy update met a reward that is not finite; lower reward.lr")
            advantages = group_advantages(rewards, options.group_size).to(model.device)
            ref_logps = None
            if options.beta > 0:
                with torch.no_grad():
                    ref_logps = _logps(self.model, rollout)
            model.train()
            loss = grpo_loss(_logps(model, rollout), advantages, rollout.new_mask, ref_logps, options.beta)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            moved.updates += 1
        model.eval()
        return moved


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sample one token per row by inverting the cumulative distribution; (B, V) -> (B,)."""
    cumulative = torch.softmax(logits.float(), -1).cumsum(-1)  # (B, V)
    u = torch.rand(len(logits), 1, generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _logps(model: Any, rollout: Rollout) -> Tensor:
    """Return log-probabilities of the completion tokens, (B, T)."""
    ids = torch.cat([rollout.prompt_ids, rollout.new_ids], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.new_mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    length = rollout.new_ids.shape[1]
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, :-1]  # (B, T, V)
    return -torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), rollout.new_ids, reduction="none"
    )  # (B, T)


def _even_draws(items: Sequence[Item], count: int, steps: int, seed: int) -> list[list[Item]]:
    """Return ``steps`` batches of ``count`` items that go round the groups in turn, reshuffled when used
    up.
    """
    rng = random.Random(seed)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(group_key(item), []).append(item)
    names = sorted(groups)
    piles: dict[str, list[Item]] = {name: [] for name in names}
    batches, turn = [], 0
    for _ in range(steps):
        batch = []
        for _ in range(count):
            name = names[turn % len(names)]
            turn += 1
            if not piles[name]:
                piles[name] = groups[name][:]
                rng.shuffle(piles[name])
            batch.append(piles[name].pop())
        batches.append(batch)
    return batches
