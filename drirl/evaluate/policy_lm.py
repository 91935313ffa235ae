"""lm-eval's HFLM with two things it lacks: did a completion end by itself, and does every prompt fit."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix

from drirl.errors import DrirlError
from drirl.evaluate.cache import Batches, digest

__all__ = ["PolicyLM"]

Key = tuple[str, str]


class _EndRecorder(CacheHook):
    """Receives each completion right after it was decoded, in the order of the generated rows."""

    def __init__(self) -> None:
        super().__init__(None)
        self.pending: deque[bool] = deque()
        self.ended: dict[Key, bool] = {}

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        if attr == "generate_until":
            self.ended[_key(*req)] = self.pending.popleft()


class PolicyLM(HFLM):
    """A policy as lm-eval sees it, decoding greedily.

    Decoding, batching by length, stop strings and log-likelihoods are HFLM's own. HFLM returns text, from
    which the end token is gone, so :meth:`_model_generate` notes per row whether an end token was generated.
    HFLM cuts what exceeds the context with a warning; here :meth:`check` decides.

    Args:
        model: a causal LM in evaluation mode, on its device.
        tokenizer: its tokenizer, with a padding token.
        overlong: what a prompt does that leaves no room for ``max_gen_toks`` tokens in the context.
        plain: prompts come without a chat template.
        progress: show a progress bar.

    Attributes:
        batches: where the tokens of finished batches are kept for a run that goes on; None: nowhere.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        overlong: Literal["error", "truncate"] = "error",
        plain: bool = False,
        progress: bool = False,
    ) -> None:
        add_bos = None if plain else False  # the chat template writes its own special tokens
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=add_bos)
        self.overlong = overlong
        self.progress = progress
        self.generated_tokens = 0
        self.truncated: set[Key] = set()
        self._checked: set[Key] = set()
        self.cache_hook = _EndRecorder()
        self.batches: Batches | None = None
        configured = getattr(model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        self.end_ids: list[int] = sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Complete every request; see HFLM.

        Raises:
            DrirlError: before any generation, as :meth:`check`.
        """
        self.check(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm or not self.progress)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation (nats), and whether it is the greedy one; see HFLM.

        Raises:
            DrirlError: before any scoring, as :meth:`check`.
        """
        self.check(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not self.progress)

    def finished(self, context: str, gen_kwargs: dict[str, Any]) -> bool:
        """Return whether the completion of this request ended by itself (end token or stop string)."""
        return self.cache_hook.ended[_key(context, gen_kwargs)]

    def was_truncated(self, *arguments: Any) -> bool:
        """Return whether the beginning of the request with these arguments was dropped to fit the context."""
        return _key(*arguments) in self.truncated

    def flags(self, *arguments: Any) -> dict[str, Any]:
        """Return ``truncated_prompt`` if :meth:`was_truncated`, for the record."""
        return {"truncated_prompt": True} if self.was_truncated(*arguments) else {}

    def check(self, requests: Sequence[Instance]) -> None:
        """Compare every request with the context; what was checked once is not tokenized again.

        Raises:
            DrirlError: a prompt that leaves no room for its completion, or that is too long together with its
                continuation, and ``overlong`` is "error"; a continuation alone longer than the context.
        """
        new = [request for request in requests if _key(*request.args) not in self._checked]
        plans = [self._plan(request) for request in new]
        lengths = self._lengths([text for text, *_ in plans])
        first, count = "", 0
        for request, (_, room, what, left), length in zip(new, plans, lengths):
            if length > room:
                self.truncated.add(_key(*request.args))
                count += 1
                first = first or f"{_where(request)}: {what} has {length} tokens, {left}"
        if count and self.overlong == "error":
            more = f" (and {count - 1} more)" if count > 1 else ""
            raise DrirlError(
                f"{first}{more}; set evaluate.overlong: truncate, lower max_new_tokens, or take "
                "a model with a longer context"
            )
        self._checked.update(_key(*request.args) for request in new)

    def _plan(self, request: Instance) -> tuple[str, int, str, str]:
        """Return the text that has to fit, the tokens there are for it, and the words for an error."""
        context, second = request.args
        if isinstance(second, str):  # a continuation, whose last token is never read by the model
            long = (
                len(second.encode("utf-8", "surrogatepass")) > self.max_length
            )  # no token is less than a byte
            if long and len(self.tok_encode(second, add_special_tokens=False)) > self.max_length:
                raise DrirlError(
                    f"{_where(request)}: an answer option alone exceeds the model's context of "
                    f"{self.max_length} tokens; take a model with a longer context"
                )
            room = self.max_length + 1
            return context + second, room, "a prompt with its answer option", f"the context takes {room}"
        new = int(second["max_gen_toks"])
        room = self.max_length - new
        if room < 1:
            raise DrirlError(
                f"{_where(request)}: max_new_tokens {new} leaves no room for a prompt in the model's context "
                f"of {self.max_length} tokens; lower it"
            )
        left = f"the context of {self.max_length} less max_new_tokens {new} leaves {room}"
        return context, room, "the prompt", left

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text as ``tok_encode`` gives it, tokens; many at once are faster."""
        start = self.tokenizer.decode(self.prefix_token_id)
        lengths = [0] * len(texts)
        for marked in (False, True):
            chosen = [i for i, text in enumerate(texts) if has_bos_prefix(text, start) is marked]
            special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
            if marked:
                special = {"add_special_tokens": False}
            rows = self.tokenizer([texts[i] for i in chosen], **special)["input_ids"] if chosen else []
            for i, row in zip(chosen, rows):
                lengths[i] = len(row)
        return lengths

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        """As HFLM, with the end tokens passed on as ids; shapes (B, P) -> (B, P + new tokens).

        A batch that is in ``batches`` is not generated again.
        """
        key = digest([context.tolist(), max_length, stop, generation_kwargs]) if self.batches else ""
        known = self.batches.get(key) if self.batches else None
        if known is not None:
            new = torch.tensor(known, dtype=context.dtype, device=context.device)  # (B, T)
            out = torch.cat([context, new.reshape(len(known), -1)], dim=1)
            self._note_ends(known, self._words(stop))
            return out
        out = self._generate(context, max_length, stop, **generation_kwargs)
        rows: list[list[int]] = out[:, context.shape[1] :].tolist()
        if self.batches:
            self.batches.put(key, rows)
        self._note_ends(rows, self._words(stop))
        return out

    def _words(self, stop: list[str]) -> list[str]:
        """Return the stop strings that are no end token."""
        ends = [self.tokenizer.decode([i]) for i in self.end_ids]
        return [s for s in stop if s not in ends]

    def _generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        if self._words(stop):
            return super()._model_generate(
                context, max_length, stop, eos_token_id=self.end_ids, **generation_kwargs
            )
        # No stop strings: skip HFLM's criterion, which decodes every row at every step.
        generation_kwargs.pop("temperature", None)
        generation_kwargs["do_sample"] = False
        out: torch.Tensor = self.model.generate(
            input_ids=context,
            max_length=max_length,
            eos_token_id=self.end_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **generation_kwargs,
        )
        return out

    def _note_ends(self, rows: list[list[int]], words: list[str]) -> None:
        for tokens in rows:
            at = next((i for i, token in enumerate(tokens) if token in self.end_ids), None)
            self.generated_tokens += len(tokens) if at is None else at + 1
            ended = at is not None
            if words and not ended:
                text = self.tok_decode(tokens)
                ended = any(word in text for word in words)
            self.cache_hook.pending.append(ended)


def _key(context: str, second: dict[str, Any] | str) -> Key:
    return context, json.dumps(second, sort_keys=True)


def _where(request: Instance) -> str:
    return f"{request.task_name}: item '{(request.doc or {}).get('item_id', request.doc_id)}'"
