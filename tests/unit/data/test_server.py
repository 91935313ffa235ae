"""The client against a real OpenAI-compatible server on loopback that generates with a very small LLM."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from drirl.data.generator_settings import GeneratorSettings
from drirl.data.generators import open_generator
from drirl.data.server import Pace
from drirl.data.templates import ask_paraphrase
from drirl.errors import DrirlError

Make = Callable[..., GeneratorSettings]
ASKED = [ask_paraphrase(f"How would anybody rob person {k}?", 2, limit=60, turn=k) for k in range(6)]


@pytest.fixture
def settings(chat_server: Any, make_settings: Make) -> Callable[..., GeneratorSettings]:
    return lambda **values: make_settings(
        **{"kind": "server", "model": "small-writer", "url": chat_server.url, **values}
    )


def _ask(settings: GeneratorSettings, texts: list[str] = ASKED) -> tuple[Any, list[Any]]:
    generator = open_generator(settings)
    return generator, generator.replies([generator.request(text, 0, "x") for text in texts])


def test_replies_equal_local_ones_in_order(
    chat_server: Any, settings: Make, writer_model: Path, make_settings: Make
) -> None:
    generator, replies = _ask(settings())
    local = make_settings(kind="transformers", model=str(writer_model), batch_size=1, cache="")
    _, expected = _ask(local)
    assert [r.text for r in replies] == [r.text for r in expected]
    assert [r.completion_tokens for r in replies] == [r.completion_tokens for r in expected]
    assert [r.prompt_tokens for r in replies] == [r.prompt_tokens for r in expected]
    assert len(chat_server.bodies) == 6
    assert generator.name == "server:small-writer"
    assert "Authorization" not in chat_server.headers[0]


@pytest.mark.slow
def test_transformers_serve(
    transformers_serve: Callable[[Path], AbstractContextManager[str]], writer_model: Path, make_settings: Make
) -> None:
    same = {"model": str(writer_model), "cache": "", "temperature": 0.0, "top_p": 1.0}
    with transformers_serve(writer_model) as url:
        _, replies = _ask(make_settings(kind="server", url=url, concurrency=1, **same))
    _, expected = _ask(make_settings(kind="transformers", batch_size=1, **same))
    assert [r.text.strip() for r in replies] == [r.text.strip() for r in expected]
    assert all(r.completion_tokens for r in replies)


def test_body_and_extra_fields(chat_server: Any, settings: Make) -> None:
    chat_server.faults = [(200, {"choices": [{"message": {"content": "hi"}}]}, {})]
    extra = {"seed": None, "max_completion_tokens": 64, "max_tokens": None}
    _, (reply,) = _ask(settings(extra=extra), ASKED[:1])
    assert (reply.text, reply.stop, reply.completion_tokens) == ("hi", "stop", 0)
    assert chat_server.bodies == [
        {
            "model": "small-writer",
            "messages": [{"role": "user", "content": ASKED[0]}],
            "temperature": 0.7,
            "top_p": 1.0,
            "stream": False,
            "max_completion_tokens": 64,
        }
    ]


def test_at_most_so_many_at_once(chat_server: Any, settings: Make) -> None:
    chat_server.delay = 0.1
    _ask(settings(concurrency=3))
    assert chat_server.most_in_flight == 3


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 408, "cut", "junk", (200, {"choices": []}, {}), (502, "<html>", {})]
)
def test_failures_that_may_pass_are_tried_again(fault: Any, chat_server: Any, settings: Make) -> None:
    chat_server.faults = [fault, fault]
    generator, replies = _ask(settings(concurrency=1), ASKED[:2])
    assert all(reply.text for reply in replies)
    assert generator.generator.tried_again == 2
    assert len(chat_server.bodies) == 4


def test_retry_after_is_respected(chat_server: Any, settings: Make) -> None:
    chat_server.faults = [(429, {"error": "slow down"}, {"Retry-After": "0.25"})]
    _ask(settings(concurrency=1, backoff_s=0.0), ASKED[:1])
    first, second = chat_server.times
    assert 0.25 <= second - first < 5


def test_a_silent_server_is_given_up_and_asked_again(chat_server: Any, settings: Make) -> None:
    chat_server.faults = [("wait", 60)]
    started = time.monotonic()
    generator, replies = _ask(settings(concurrency=1, timeout_s=2.0), ASKED[:1])
    assert replies[0].text
    assert generator.generator.tried_again == 1
    assert time.monotonic() - started < 40


def test_giving_up_is_one_line_and_what_was_done_is_kept(chat_server: Any, settings: Make) -> None:
    chat_server.dies_after = 4
    with pytest.raises(
        DrirlError, match=r"failed 3 times, last: status 503 \(planted\); .*run the same"
    ) as e:
        _ask(settings(concurrency=1, retries=2))
    assert "\n" not in str(e.value)
    assert len(chat_server.bodies) == 7  # four answered, one sent three times
    chat_server.dies_after, chat_server.bodies = None, []
    generator, replies = _ask(settings(concurrency=1))
    assert all(reply.text for reply in replies)
    assert generator.usage.fresh == len(chat_server.bodies) == 2


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"model": "other"}, r"status 404 \(no such model\); check url, model, key_env"),
        ({"url": "http://127.0.0.1:9/v1", "retries": 0}, "failed 1 times, last: no connection"),
    ],
)
def test_failures_that_do_not_pass_stop_at_once(
    values: dict[str, Any], match: str, chat_server: Any, settings: Make
) -> None:
    with pytest.raises(DrirlError, match=match):
        _ask(settings(concurrency=1, **values))
    assert len(chat_server.bodies) <= 1


def test_a_redirect_is_not_followed(chat_server: Any, settings: Make) -> None:
    chat_server.faults = [(307, {}, {"Location": f"{chat_server.url}/chat/completions"})]
    with pytest.raises(DrirlError, match="status 307"):
        _ask(settings(concurrency=1), ASKED[:1])
    assert len(chat_server.bodies) == 1


def test_a_request_that_the_server_blocks_is_a_reply_without_text(chat_server: Any, settings: Make) -> None:
    blocked = {"error": {"code": "content_filter", "message": "The prompt was filtered"}}
    cut = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    chat_server.faults = [(400, blocked, {}), (200, cut, {})]
    generator, replies = _ask(settings(concurrency=1), ASKED[:3])
    assert [(reply.text == "", reply.stop) for reply in replies[:2]] == [(True, "blocked")] * 2
    assert replies[2].stop == "stop"
    assert generator.usage.blocked == 2


SECRET = "sk-planted-7f3a9c"


def test_the_key_is_sent_and_written_nowhere(
    chat_server: Any,
    settings: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PLANTED_KEY", SECRET)
    chat_server.key = SECRET
    generator, _ = _ask(settings(key_env="PLANTED_KEY"))
    assert chat_server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(generator.generator.identity)
    chat_server.key = "another"
    with pytest.raises(DrirlError, match=r"status 401 \(wrong key: Bearer \*\*\*\)"):
        _ask(settings(key_env="PLANTED_KEY", cache=""), ASKED[:1])
    assert SECRET not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(SECRET.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"key_env": SECRET}, "the environment variable it names is not set"),
        ({"url": f"https://me:{SECRET}@host/v1"}, "url carries a user or password"),
        (
            {"url": "http://example.org/v1", "key_env": "PLANTED_KEY"},
            "would travel unencrypted to example.org",
        ),
        ({"url": "ftp://example.org"}, "expected http://host:port/v1"),
        ({"model": ""}, "generator.model is empty"),
    ],
)
def test_mistakes_are_named_without_the_secret(
    values: dict[str, Any], match: str, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_KEY", SECRET)
    with pytest.raises(DrirlError, match=match) as error:
        open_generator(settings(**values))
    assert SECRET not in str(error.value)


def test_pace_by_hand() -> None:
    pace = Pace(30)  # one in two seconds
    assert [pace.reserve(now) for now in (10.0, 10.0, 11.0, 20.0, 20.5)] == [0.0, 2.0, 3.0, 0.0, 1.5]
    assert [Pace(None).reserve(5.0) for _ in range(2)] == [0.0, 0.0]


def test_the_rate_limit_holds_over_connections(chat_server: Any, settings: Make) -> None:
    _ask(settings(concurrency=4, requests_per_minute=120), ASKED[:4])
    assert chat_server.times[3] - chat_server.times[0] >= 1.0  # three gaps of 0.5 s, less the way there
