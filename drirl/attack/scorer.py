"""How likely is the start of a compliant reply under a policy, and which token swaps would raise that?

Dimension letters: N sequences, P prompt tokens (template included), T target tokens, S suffix tokens,
V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from drirl.errors import DrirlError
from drirl.generate import Completion, complete, render

__all__ = ["Scorer"]

_MARK = "\u2402"
"""Stands for the message when the chat template is cut around it."""


class Scorer:
    """Target losses and their gradients under one policy.

    Args:
        policy: causal LM in evaluation mode, on its device.
        tokenizer: its tokenizer, with a chat template.
        target: start of a compliant reply.
        max_new_tokens: longest reply; a prompt has to leave room for it (and for the target) in the context.
        batch_size: sequences per forward pass.

    Raises:
        DrirlError: no chat template, or one that does not show the message as it is.
    """

    def __init__(
        self, policy: Any, tokenizer: Any, *, target: str, max_new_tokens: int, batch_size: int
    ) -> None:
        if not tokenizer.chat_template:
            raise DrirlError("attacks need a tokenizer with a chat template; this policy's has none")
        self.policy, self.tokenizer = policy, tokenizer
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.head, mark, self.tail = render(tokenizer, [_MARK])[0].partition(_MARK)
        if not mark:
            raise DrirlError("attacks need a chat template that shows the message unchanged")
        self.target_ids = self.encode(target)
        context = getattr(policy.config, "max_position_embeddings", None) or 2**31
        self.room = int(context) - max(max_new_tokens, len(self.target_ids))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a plain string, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, messages: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each message in the chat template, as the policy would be served them."""
        if not messages:  # the tokenizer takes no empty batch
            return []
        texts = [self.head + message + self.tail for message in messages]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    @torch.no_grad()
    def losses(self, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean negative log-likelihood of the target after each prompt, nats per token.

        Args:
            prompts: N prompts as token ids.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        found = [0.0] * len(prompts)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            tokens, mask = self._pad([prompts[i] for i in chosen])
            logits = self._logits(mask, input_ids=tokens)
            for i, value in zip(chosen, self._target_loss(logits).tolist(), strict=True):
                found[i] = value
        return found

    def suffix_gradients(self, prompts: Sequence[Sequence[int]], after: int, length: int) -> Tensor:
        """Return d(target loss)/d(one-hot of the suffix), (N, S, V): negative where a token would help.

        Source: Zou et al. 2023, equation 4. The one-hot rows are multiplied with the embedding matrix, so the
        gradient is exact for the relaxed input and a linear guess for a swap.

        Args:
            prompts: N prompts as token ids; the suffix lies at the same place from the end in all of them.
            after: prompt tokens after the suffix.
            length: S.
        """
        table = self.policy.get_input_embeddings().weight  # (V, H)
        found = []
        for start in range(0, len(prompts), self.batch_size):
            tokens, mask = self._pad(prompts[start : start + self.batch_size])  # (N, P + T)
            end = tokens.shape[1] - len(self.target_ids) - after
            chosen = one_hot(tokens[:, end - length : end], len(table)).to(table.dtype)  # (N, S, V)
            chosen.requires_grad_()
            embedded = self.policy.get_input_embeddings()(tokens).detach()
            embedded = torch.cat(
                [embedded[:, : end - length], chosen @ table.detach(), embedded[:, end:]], dim=1
            )
            loss = self._target_loss(self._logits(mask, inputs_embeds=embedded)).sum()
            found.append(torch.autograd.grad(loss, chosen)[0].float())
        return torch.cat(found)

    def replies(self, messages: Sequence[str]) -> list[Completion]:
        """Return the greedy reply to each message."""
        found = complete(
            self.policy,
            self.tokenizer,
            messages,
            max_new_tokens=self.max_new_tokens,
            temperature=0.0,
            batch_size=self.batch_size,
        )
        return [completions[0] for completions in found]

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return prompts with the target, padded on the left, and their mask: (N, P + T) both."""
        width = max(len(ids) for ids in prompts) + len(self.target_ids)
        tokens = torch.full((len(prompts), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros(tokens.shape, dtype=torch.long)
        for row, ids in enumerate(prompts):
            length = len(ids) + len(self.target_ids)
            tokens[row, width - length :] = torch.tensor([*ids, *self.target_ids])
            mask[row, width - length :] = 1
        return tokens.to(self.policy.device), mask.to(self.policy.device)

    def _logits(self, mask: Tensor, **inputs: Tensor) -> Tensor:
        """Return the logits that predict the target, (N, T, V)."""
        position = (mask.cumsum(-1) - 1).clamp_(min=0)
        out = self.policy(
            attention_mask=mask,
            position_ids=position,
            use_cache=False,
            logits_to_keep=len(self.target_ids) + 1,
            **inputs,
        )
        return out.logits[:, :-1]

    def _target_loss(self, logits: Tensor) -> Tensor:
        """(N, T, V) -> (N,) mean over the target's tokens."""
        target = torch.tensor(self.target_ids, device=logits.device).expand(len(logits), -1)  # (N, T)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(dim=-1)
