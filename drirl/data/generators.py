"""Text generators behind one interface: a local transformers model or an OpenAI-compatible server.

``open_generator`` gives what ``data.generator`` asks for, behind a cache on disk: a reply is stored as soon
as it is there, under a hash of everything it depends on, so an interrupted build goes on where it stopped.
The bundled grammar is no text generator; it stands beside these as a writer (``drirl/data/demonstrate.py``)
and as a filler (``data.fill: bundled``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from drirl.data.generator_settings import GeneratorSettings
from drirl.errors import DrirlError

__all__ = [
    "Generator",
    "LocalModel",
    "Reply",
    "ReplyCache",
    "Request",
    "TextGenerator",
    "Usage",
    "open_generator",
]

Keep = Callable[[int, "Reply"], None]
"""(index of the request, its reply): called once per request, as soon as the reply is there."""


@dataclass(frozen=True)
class Request:
    """One user message and how to answer it; the seed is part of what is asked."""

    text: str
    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Reply:
    """A completion. ``stop``: stop, length or blocked (a content filter of the server; the text is empty).

    ``seconds`` is wall time: of the request, or the share of a batch; a reply from the cache keeps its own.
    """

    text: str
    stop: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Generator(Protocol):
    """What answers requests. ``identity``: everything, besides the request, that a reply depends on."""

    name: str
    identity: dict[str, Any]

    def generate(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answer the requests in any order, calling ``keep`` for each.

        Raises:
            DrirlError: it cannot go on; what was kept stays kept.
        """
        ...

    def groups(self, count: int) -> list[range]:
        """Return which of ``count`` requests are answered together: a reply depends on all of its group."""
        ...


@dataclass
class Usage:
    """What was asked and what it cost; cached replies count in the tokens but not in ``fresh``."""

    requests: int = 0
    fresh: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: int = 0
    blocked: int = 0
    seconds: float = 0.0
    extra: dict[str, int] = field(default_factory=dict)

    def add(self, reply: Reply, *, fresh: bool) -> None:
        self.requests += 1
        self.fresh += fresh
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cut += reply.stop == "length"
        self.blocked += reply.stop == "blocked"
        self.seconds += reply.seconds

    def cost(self, settings: GeneratorSettings) -> float:
        """Return the price of all tokens, in the currency of the settings' prices."""
        total = (
            self.prompt_tokens * settings.price_prompt + self.completion_tokens * settings.price_completion
        )
        return round(total / 1e6, 6)

    def figures(self, settings: GeneratorSettings) -> dict[str, Any]:
        """Return the counts that do not depend on time or on what the cache held."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cut_at_max_tokens": self.cut,
            "blocked_by_server": self.blocked,
            "cost": self.cost(settings),
        }


class ReplyCache:
    """Replies by key in one SQLite file; each is committed at once. Texts of requests are not stored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from None
        with self._open() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Return the stored replies by key."""
        found: dict[str, Reply] = {}
        with self._open() as connection:
            for start in range(0, len(keys), 500):
                part = list(keys[start : start + 500])
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part)
                try:
                    found.update({key: Reply(**json.loads(text)) for key, text in rows})
                except (ValueError, TypeError) as error:
                    raise self._error(error) from None
        return found

    def put(self, key: str, reply: Reply) -> None:
        """Store one reply; a key that exists is overwritten."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?)",
                (key, json.dumps(asdict(reply), sort_keys=True)),
            )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> DrirlError:
        return DrirlError(
            f"{self.path}: cannot be used as the cache of replies ({error}); move the file away or name "
            "another in data.generator.cache"
        )


class TextGenerator:
    """A generator with its settings, its cache and a count of what was used."""

    def __init__(self, generator: Generator, settings: GeneratorSettings, cache: ReplyCache | None) -> None:
        self.generator = generator
        self.settings = settings
        self.cache = cache
        self.usage = Usage()

    @property
    def name(self) -> str:
        """What records call the generator: kind and model, no path."""
        return self.generator.name

    def request(self, text: str, *parts: object) -> Request:
        """Return a request with the sampling of the settings; ``parts`` name the draw and make its seed."""
        digest = hashlib.sha256("/".join(map(str, (*parts, text))).encode("utf-8", "surrogatepass")).digest()
        s = self.settings
        return Request(text, int.from_bytes(digest[:4], "big") >> 1, s.temperature, s.top_p, s.max_tokens)

    def replies(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request, from the cache where it can; the order is that of ``requests``.

        Requests that a generator answers together are taken from the cache together or not at all, so that
        the replies after an interruption are those of an uninterrupted run.
        """
        keys = [self._key(request) for request in requests]
        found = self.cache.get(keys) if self.cache is not None else {}
        answered: dict[int, Reply] = {}
        todo: list[int] = []
        for group in self.generator.groups(len(requests)):
            if all(keys[i] in found for i in group):
                answered.update({i: found[keys[i]] for i in group})
            else:
                todo += group
        fresh = set(todo)

        def keep(index: int, reply: Reply) -> None:
            answered[todo[index]] = reply
            if self.cache is not None:
                self.cache.put(keys[todo[index]], reply)

        if todo:
            self.generator.generate([requests[i] for i in todo], keep)
        for i in range(len(requests)):
            self.usage.add(answered[i], fresh=i in fresh)
        return [answered[i] for i in range(len(requests))]

    def _key(self, request: Request) -> str:
        value = {"version": 1, "generator": self.generator.identity, "request": asdict(request)}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class LocalModel:
    """Any causal LM that transformers loads, a folder or a hub id, with its chat template; seeded batches."""

    def __init__(self, settings: GeneratorSettings) -> None:
        """Load the model.

        Raises:
            DrirlError: no model is named, or it cannot be loaded, or it has no chat template.
        """
        from drirl.models import load_policy, policy_hash, resolve_device

        if not settings.model:
            raise DrirlError("data.generator.model is empty: name a transformers folder or hub id")
        self.settings = settings
        self.model, self.tokenizer = load_policy(
            settings.model, resolve_device(settings.device), settings.dtype, settings.revision
        )
        if self.tokenizer.chat_template is None:
            raise DrirlError(
                f"data.generator.model: '{settings.model}' has no chat template; name a chat (instruct) model"
            )
        folder = Path(settings.model)
        if folder.is_dir():
            what = policy_hash(folder)
            self.name = f"transformers:{folder.resolve().name}@{what[:8]}"
        else:
            what = str(getattr(self.model.config, "_commit_hash", None) or settings.revision)
            self.name = f"transformers:{settings.model}@{what[:8]}"
            what = f"{settings.model}@{what}"
        self.identity = {
            "kind": "transformers",
            "model": what,
            "dtype": settings.dtype,
            "device": self.model.device.type,
            "batch_size": settings.batch_size,
        }
        self.window = int(getattr(self.model.config, "max_position_embeddings", 0) or 0)

    def groups(self, count: int) -> list[range]:
        size = self.settings.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def generate(self, requests: Sequence[Request], keep: Keep) -> None:
        from drirl.generate import complete, render

        for group in self.groups(len(requests)):
            batch = [requests[i] for i in group]
            texts = render(self.tokenizer, [request.text for request in batch])
            lengths = [len(self.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
            first = batch[0]
            if self.window and max(lengths) + first.max_tokens > self.window:
                raise DrirlError(
                    f"data.generator: a prompt of {max(lengths)} tokens and max_tokens {first.max_tokens} "
                    f"do not fit in the model's {self.window} positions: lower data.generator.max_tokens or "
                    "data.generator.exemplars"
                )
            started = time.perf_counter()
            completions = complete(
                self.model,
                self.tokenizer,
                [request.text for request in batch],
                max_new_tokens=first.max_tokens,
                temperature=first.temperature,
                top_p=first.top_p,
                batch_size=len(batch),
                seed=first.seed,
            )
            seconds = (time.perf_counter() - started) / len(batch)
            for i, length, (one,) in zip(group, lengths, completions, strict=True):
                stop = "stop" if one.finished else "length"
                keep(i, Reply(one.text, stop, length, one.n_tokens, round(seconds, 6)))


def open_generator(settings: GeneratorSettings) -> TextGenerator:
    """Return the generator that the settings name.

    Raises:
        DrirlError: none is named, it cannot be loaded, or its key or cache is not there.
    """
    generator: Generator
    if settings.kind == "transformers":
        generator = LocalModel(settings)
    elif settings.kind == "server":
        from drirl.data.server import Server

        generator = Server(settings)
    else:
        raise DrirlError(
            "data.generator.kind is 'none' but a generator is asked for: set transformers or server"
        )
    return TextGenerator(generator, settings, ReplyCache(Path(settings.cache)) if settings.cache else None)
