"""A client of OpenAI-compatible servers: POST <url>/chat/completions, one user message a request.

Failures that may pass (no connection, a timeout, statuses 408, 409, 425, 429 and 5xx, a malformed body) are
tried again with doubling waits and ``Retry-After`` respected; others stop with one line. The API key comes
from the environment variable that ``data.generator.key_env`` names; it is sent in the header alone and taken
out of every message.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from drirl.data.generator_settings import GeneratorSettings
from drirl.data.generators import Keep, Reply, Request
from drirl.errors import DrirlError

__all__ = ["Pace", "Server"]

_PASSING = {408, 409, 425, 429}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_BLOCKED = ("content_filter", "content_policy", "content_management")
"""Parts of the errors with which servers say that a filter refused the prompt."""


class _PassingError(Exception):
    """A failure that may pass; ``wait`` is what the server asked for, seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _StoppedError(DrirlError):
    """Not begun or broken off because another request failed."""


class Pace:
    """Spaces events evenly over threads: at most ``per_minute``, None for no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Take the next free moment and return how many seconds after ``now`` it is."""
        with self._lock:
            moment = max(now, self._next)
            self._next = moment + self.gap
        return moment - now


class Server:
    """An OpenAI-compatible server, asked over several connections at once.

    Attributes:
        tried_again: how many times a request was sent again.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        """Check the address and the key; nothing is sent yet.

        Raises:
            DrirlError: no model is named, the address is malformed or carries a password, the variable of
                the key is not set, the key would travel unencrypted, or ``requests`` is not installed.
        """
        try:
            import requests
        except ImportError:
            raise DrirlError(
                "data.generator: package 'requests' is not installed: pip install requests"
            ) from None
        self._requests = requests
        self.settings = settings
        self.url = settings.url.rstrip("/")
        parts = _checked(self.url)
        if not settings.model:
            raise DrirlError(
                "data.generator.model is empty: give the name by which the server knows its model"
            )
        self._key = _read_key(settings.key_env)
        if self._key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise DrirlError(
                f"data.generator.url: the key would travel unencrypted to {parts.hostname}; "
                "use https://, or empty data.generator.key_env if the server needs none"
            )
        self.name = f"server:{settings.model}"
        self.identity = {"kind": "server", "url": self.url, "model": settings.model, "extra": settings.extra}
        self.tried_again = 0
        self._pace = Pace(settings.requests_per_minute)
        self._stop = threading.Event()
        self._local = threading.local()
        self._count = threading.Lock()

    def groups(self, count: int) -> list[range]:
        return [range(i, i + 1) for i in range(count)]

    def generate(self, requests: Sequence[Request], keep: Keep) -> None:
        self._stop.clear()
        pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="generator")
        try:
            waiting = {pool.submit(self._answer, request): i for i, request in enumerate(requests)}
            failure: DrirlError | None = None
            for future in as_completed(waiting):
                if future.cancelled():
                    continue
                try:
                    keep(waiting[future], future.result())
                except DrirlError as error:
                    if failure is None or isinstance(failure, _StoppedError):
                        failure = error
                    for other in waiting:
                        other.cancel()
            if failure is not None:
                raise failure
        finally:  # on an interrupt, too: nothing new is sent
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, request: Request) -> Reply:
        try:
            return self._insist(request)
        except DrirlError:
            self._stop.set()  # before any other thread begins its next request
            raise

    def _insist(self, request: Request) -> Reply:
        rng = random.Random(f"{request.seed}/backoff")
        for attempt in range(self.settings.retries + 1):
            self._sleep(self._pace.reserve(time.monotonic()))
            try:
                return self._ask(request)
            except _PassingError as problem:
                reason, asked = str(problem), problem.wait
            if attempt < self.settings.retries:
                with self._count:
                    self.tried_again += 1
                wait = self.settings.backoff_s * 2**attempt * (0.5 + rng.random())
                self._sleep(min(max(wait, asked or 0.0), self.settings.max_wait_s))
        raise DrirlError(
            f"data.generator: {self.url} failed {self.settings.retries + 1} times, last: {reason}; "
            "the replies so far are kept, run the same command to go on"
        )

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise _StoppedError("data.generator: stopped")

    def _ask(self, request: Request) -> Reply:
        errors = self._requests.exceptions
        started = time.perf_counter()
        try:
            response = self._session().post(
                f"{self.url}/chat/completions",
                json=self._body(request),
                timeout=(min(10.0, self.settings.timeout_s), self.settings.timeout_s),
                allow_redirects=False,
            )
        except errors.Timeout:
            raise _PassingError(f"no answer within {self.settings.timeout_s:g} s") from None
        except (errors.ConnectionError, errors.ChunkedEncodingError, errors.ContentDecodingError):
            raise _PassingError("no connection, or it broke off") from None
        except errors.RequestException as error:
            raise DrirlError(
                self._clean(f"data.generator: {self.url}: {type(error).__name__}: {error}")
            ) from None
        seconds = round(time.perf_counter() - started, 6)
        if response.status_code in _PASSING or response.status_code >= 500:
            wait = _seconds(response.headers.get("Retry-After"))
            raise _PassingError(f"status {response.status_code}{self._reason(response)}", wait)
        if response.status_code != 200:
            reason = self._reason(response)
            if response.status_code in (400, 422) and any(word in reason.lower() for word in _BLOCKED):
                return Reply("", "blocked", 0, 0, seconds)
            raise DrirlError(
                f"data.generator: {self.url} answered with status {response.status_code}{reason}; check url, "
                "model, key_env and extra under data.generator"
            )
        return _read(response, seconds)

    def _body(self, request: Request) -> dict[str, Any]:
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": request.text}],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "stream": False,
            **self.settings.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _session(self) -> Any:
        if not hasattr(self._local, "session"):  # a session is not safe across threads
            self._local.session = self._requests.Session()
            self._local.session.auth = self._authorise  # also keeps .netrc out
        return self._local.session

    def _authorise(self, prepared: Any) -> Any:
        if self._key:
            prepared.headers["Authorization"] = f"Bearer {self._key}"
        return prepared

    def _reason(self, response: Any) -> str:
        try:
            error = response.json()["error"]
            parts = [error.get("code"), error.get("message")] if isinstance(error, dict) else [error]
            text = " ".join(str(part) for part in parts if part)
        except (ValueError, KeyError, TypeError):
            text = response.text
        text = " ".join(self._clean(text).split())[:200]
        return f" ({text})" if text else ""

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _checked(url: str) -> Any:
    try:
        parts = urlsplit(url)
        host, carries_password = parts.hostname, "@" in parts.netloc
    except ValueError:
        host, carries_password = None, False
    if carries_password:
        raise DrirlError(
            "data.generator.url carries a user or password: put the key into the variable of key_env"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise DrirlError("data.generator.url: expected http://host:port/v1 or https://host/v1")
    return parts


def _read_key(name: str) -> str:
    """Return the key; the message never shows ``name``, which may be the key itself by mistake."""
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise DrirlError(
            "data.generator.key_env: the environment variable it names is not set; export it, and write its "
            "name there, not the key and not ${...}"
        )
    return key


def _seconds(value: str | None) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(value or ""))
    return None


def _read(response: Any, seconds: float) -> Reply:
    try:
        body = response.json()
        choice = body["choices"][0]
        text, stop = choice["message"].get("content") or "", choice.get("finish_reason") or "stop"
        usage = body.get("usage") or {}
        asked, given = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _PassingError("the body is no chat completion") from None
    stop = {"length": "length", "content_filter": "blocked"}.get(stop, "stop")
    return Reply(text.strip(), stop, asked, given, seconds)
