"""A chat model that judges: local transformers or any OpenAI-compatible server, behind one template.

Requests, retries of failed connections, rate limit, concurrency, cache and cost are those of
:mod:`drirl.data.generators`. Every answer is kept on disk as it came, so an interrupted run goes on where it
stopped and a new parser needs no new answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drirl.data.generator_settings import GeneratorSettings
from drirl.data.generators import (
    Generator,
    Keep,
    LocalModel,
    Reply,
    ReplyCache,
    Request,
    TextGenerator,
    open_generator,
)
from drirl.errors import DrirlError
from drirl.judge.fence import special_tokens
from drirl.judge.interface import BLOCKED, MALFORMED, OVERLONG, Item, Progress, Verdict, hash_of
from drirl.judge.settings import ChatSettings, JudgeSettings
from drirl.judge.templates import Asked, MalformedError, load_template

__all__ = ["ChatJudge", "Watched", "renamed"]

_SHOWN = 200
"""So much of an unreadable answer goes into the record, characters."""


class Watched:
    """A generator that says how many requests it has answered; all else is passed through."""

    def __init__(self, inner: Generator) -> None:
        self.inner = inner
        self.name = inner.name
        self.identity = inner.identity
        self.progress: Progress | None = None

    def groups(self, count: int) -> list[range]:
        return self.inner.groups(count)

    def generate(self, requests: Sequence[Request], keep: Keep) -> None:
        def kept(index: int, reply: Reply) -> None:
            keep(index, reply)
            if self.progress:
                self.progress(1)

        self.inner.generate(requests, kept)


def renamed(where: str, call: Callable[[], Any]) -> Any:
    """Call and let errors name the judge's own settings, ``where``, instead of data.generator."""
    try:
        return call()
    except DrirlError as error:
        text = str(error).replace("data.generator.cache", "judge.cache").replace("data.generator", where)
        raise DrirlError(text) from None


class ChatJudge:
    """Asks a chat model about each item and reads its answers strictly; see :class:`interface.Judge`.

    The first try is greedy. A malformed answer is asked for again with another seed, ``retries`` times at the
    retry temperature, and then counted as malformed.
    """

    def __init__(self, name: str, settings: ChatSettings, shared: JudgeSettings) -> None:
        """Load the model, or check the server's address and key (nothing is sent yet).

        Raises:
            DrirlError: the template is malformed, the model cannot be loaded, or as ``open_generator``.
        """
        self.name = name
        self.where = f"judge.chats.{name}.generator"
        self.template = load_template(settings.template)
        self.kind = self.template.kind
        self.metrics = self.template.metrics
        self.shared = shared
        first = settings.generator.model_copy(update={"temperature": 0.0, "top_p": 1.0, "cache": ""})
        self._first: GeneratorSettings = first
        opened = renamed(self.where, lambda: open_generator(first))
        self._watched = Watched(opened.generator)
        self._special: tuple[str, ...] = ()
        self._local: LocalModel | None = None
        if isinstance(opened.generator, LocalModel):
            self._local = opened.generator
            self._special = special_tokens(self._local.tokenizer)
        cache = renamed(self.where, lambda: ReplyCache(Path(shared.cache))) if shared.cache else None
        self._generator = TextGenerator(self._watched, first, cache)
        self.cache_key = hash_of(
            {
                "template": self.template.digest,
                "generator": opened.generator.identity,
                "max_tokens": first.max_tokens,
                "retries": shared.retries,
                "retry_temperature": shared.retry_temperature,
                "max_chars": shared.max_chars,
                "special": self._special,
            }
        )
        self.version = f"{self.template.name}-{self.template.version}-{self.cache_key[:8]}"

    def verdicts(self, items: Sequence[Item], progress: Progress | None = None) -> list[Verdict]:
        salt = self.template.digest
        asked = [
            self.template.ask(item, salt=salt, max_chars=self.shared.max_chars, special=self._special)
            for item in items
        ]
        found: list[Verdict | None] = [self._overlong(one) for one in asked]
        todo = [i for i, verdict in enumerate(found) if verdict is None]
        answers: dict[int, tuple[Reply, str]] = {}
        fresh = self._generator.usage.fresh
        for attempt in range(self.shared.retries + 1):
            if not todo:
                break
            # Malformed answers are asked for again only while the bar stands at its end.
            self._watched.progress = progress if attempt == 0 else None
            requests = [self._request(asked[i], attempt) for i in todo]
            replies = renamed(self.where, lambda requests=requests: self._generator.replies(requests))  # type: ignore[misc]
            if attempt == 0 and progress:
                progress(len(items) - (self._generator.usage.fresh - fresh))
            left = []
            for i, reply in zip(todo, replies, strict=True):
                try:
                    found[i] = self._read(asked[i], reply, attempt)
                except MalformedError as wrong:
                    answers[i] = (reply, str(wrong))
                    left.append(i)
            todo = left
        for i in todo:
            reply, problem = answers[i]
            raw = {"problem": problem, "answer": reply.text[:_SHOWN], "tries": self.shared.retries + 1}
            found[i] = Verdict(None, MALFORMED, raw, malformed=True)
        return [verdict for verdict in found if verdict is not None]

    def usage(self) -> dict[str, Any]:
        return self._generator.usage.figures(self._first)

    def _request(self, asked: Asked, attempt: int) -> Request:
        request = self._generator.request(asked.text, "judge", attempt)
        if attempt == 0:
            return request
        return dataclasses.replace(request, temperature=self.shared.retry_temperature)

    def _read(self, asked: Asked, reply: Reply, attempt: int) -> Verdict:
        if reply.stop == "blocked":
            return Verdict(None, BLOCKED)
        verdict = self.template.read(reply.text, asked.code)
        more = ({"tries": attempt + 1} if attempt else {}) | ({"cut": True} if asked.cut else {})
        return dataclasses.replace(verdict, raw=verdict.raw | more)

    def _overlong(self, asked: Asked) -> Verdict | None:
        """A request that a local model has no room for gets no verdict, instead of stopping the run."""
        if self._local is None or not self._local.window:
            return None
        from drirl.generate import render

        tokenizer = self._local.tokenizer
        (text,) = render(tokenizer, [asked.text])
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if length + self._first.max_tokens <= self._local.window:
            return None
        return Verdict(None, OVERLONG, {"tokens": length, "window": self._local.window})
