"""Local generation, the cache of replies and resuming, with a very small trained LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import drirl.generate
from drirl.data.generator_settings import GeneratorSettings
from drirl.data.generators import Reply, ReplyCache, Usage, open_generator
from drirl.data.templates import ask_paraphrase
from drirl.errors import DrirlError

Make = Callable[..., GeneratorSettings]
ASKED = [ask_paraphrase(f"How would anybody rob person {k}?", 2, limit=60, turn=k) for k in range(10)]


def _texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_a_local_model_writes_and_is_counted(writer_model: Path, make_settings: Make) -> None:
    generator = open_generator(make_settings(kind="transformers", model=str(writer_model), batch_size=4))
    replies = generator.replies([generator.request(text, 0, "x") for text in ASKED])
    assert all(text.startswith("Tell me a ") for text in _texts(replies))
    assert len(set(_texts(replies))) > 3
    usage = generator.usage
    assert (usage.requests, usage.fresh) == (10, 10)
    assert usage.completion_tokens == sum(reply.completion_tokens for reply in replies) > 50
    assert all(reply.prompt_tokens > 100 and reply.seconds > 0 for reply in replies)
    assert generator.name.startswith("transformers:small-writer@")
    assert str(writer_model.parent) not in generator.name


def test_seeds_decide_and_the_cache_gives_the_same(writer_model: Path, make_settings: Make) -> None:
    settings = make_settings(kind="transformers", model=str(writer_model), batch_size=4)
    first, second = open_generator(settings), open_generator(settings.model_copy(update={"cache": ""}))
    a = first.replies([first.request(text, 0, "x") for text in ASKED])
    b = second.replies([second.request(text, 0, "x") for text in ASKED])
    assert _texts(a) == _texts(b)
    other = second.replies([second.request(text, 1, "x") for text in ASKED])
    assert _texts(a) != _texts(other)
    again = open_generator(settings)
    assert again.replies([again.request(text, 0, "x") for text in ASKED]) == a  # seconds, too
    assert (again.usage.requests, again.usage.fresh) == (10, 0)


def test_an_interrupted_run_goes_on_with_the_same_replies(
    writer_model: Path, make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(kind="transformers", model=str(writer_model), batch_size=4)
    whole = open_generator(settings.model_copy(update={"cache": ""}))
    expected = _texts(whole.replies([whole.request(text, 0, "x") for text in ASKED]))
    complete, calls = drirl.generate.complete, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return complete(*args, **kwargs)

    monkeypatch.setattr(drirl.generate, "complete", interrupted)
    stopped = open_generator(settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.replies([stopped.request(text, 0, "x") for text in ASKED])
    resumed = open_generator(settings)
    assert _texts(resumed.replies([resumed.request(text, 0, "x") for text in ASKED])) == expected
    assert resumed.usage.fresh == 6  # the first batch of four was kept
    assert len(calls) == 4


def test_a_partly_kept_batch_is_done_again_whole(writer_model: Path, make_settings: Make) -> None:
    settings = make_settings(kind="transformers", model=str(writer_model), batch_size=4)
    generator = open_generator(settings)
    requests = [generator.request(text, 0, "x") for text in ASKED[:4]]
    expected = generator.replies(requests)
    assert generator.cache is not None
    with generator.cache._open() as connection:
        connection.execute("DELETE FROM replies WHERE key = ?", (generator._key(requests[2]),))
    again = open_generator(settings)
    assert _texts(again.replies(requests)) == _texts(expected)
    assert again.usage.fresh == 4


@pytest.mark.parametrize("field", ["text", "seed", "temperature", "top_p", "max_tokens"])
def test_a_reply_belongs_to_one_request_alone(field: str, writer_model: Path, make_settings: Make) -> None:
    generator = open_generator(make_settings(kind="transformers", model=str(writer_model)))
    request = generator.request("a", 0)
    value = "b" if field == "text" else getattr(request, field) / 2
    assert generator._key(request) != generator._key(dataclasses.replace(request, **{field: value}))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kind": "none"}, "generator.kind is 'none'"),
        ({"kind": "transformers"}, "generator.model is empty"),
        ({"kind": "transformers", "model": "/nowhere"}, "'/nowhere' is not a folder or hub id"),
    ],
)
def test_mistakes_are_one_line(values: dict[str, Any], match: str, make_settings: Make) -> None:
    with pytest.raises(DrirlError, match=match) as error:
        open_generator(make_settings(**values))
    assert "\n" not in str(error.value)


def test_a_prompt_that_does_not_fit_is_named(writer_model: Path, make_settings: Make) -> None:
    settings = make_settings(kind="transformers", model=str(writer_model), max_tokens=500)
    generator = open_generator(settings)
    with pytest.raises(DrirlError, match=r"max_tokens 500 do not fit in the model's 512 positions: lower"):
        generator.replies([generator.request(ASKED[0], 0)])


def test_a_foreign_file_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_bytes(b"this is something else" * 100)
    with pytest.raises(DrirlError, match=r"replies\.sqlite: cannot be used as the cache of replies"):
        ReplyCache(path)


def test_cost_by_hand() -> None:
    usage = Usage()
    usage.add(Reply("a", "stop", 1000, 200, 0.5), fresh=True)
    usage.add(Reply("", "blocked", 500, 0, 0.1), fresh=False)
    settings = GeneratorSettings(price_prompt=2.0, price_completion=10.0)
    # (1500 * 2 + 200 * 10) / 1e6
    assert usage.figures(settings) == {
        "requests": 2,
        "prompt_tokens": 1500,
        "completion_tokens": 200,
        "cut_at_max_tokens": 0,
        "blocked_by_server": 1,
        "cost": 0.005,
    }
