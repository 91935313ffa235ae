"""Records: typed reading with line numbers, atomic writing."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.records import (
    Pair,
    Prompt,
    atomic_dir,
    atomic_write,
    prompt_id,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

PROMPT = Prompt(prompt_id="p", text="Wie geht es? naïve", category=-1, split="train", kind="benign")


def test_prompt_id_ignores_case_and_white_space() -> None:
    assert prompt_id("Hello   World\n") == prompt_id("hello world")
    assert prompt_id("hello world") != prompt_id("hello worlds")
    assert len(prompt_id("x")) == 16


def test_round_trip_is_exact_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "a" / "prompts.jsonl"
    assert write_jsonl(path, [PROMPT, PROMPT]) == 2
    assert read_jsonl(path, Prompt) == [PROMPT, PROMPT]
    assert "naïve" in path.read_text(encoding="utf-8")
    first = path.read_bytes()
    write_jsonl(path, [PROMPT, PROMPT])
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"split": None}, r":2: .*split"),
        ({"category": "two"}, r":2: .*category"),
        ({"weather": 1}, r":2: unknown field 'weather' for a Prompt record"),
        ({"weather": 1, "schema_version": 2}, r":2: schema version 2, this drirl reads 1; rerun"),
    ],
)
def test_a_wrong_record_is_named_with_its_line(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    good = {"prompt_id": "p", "text": "t", "category": 0, "split": "train"}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(DrirlError, match=expected):
        read_jsonl(path, Prompt)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "t"}\n')
    with pytest.raises(DrirlError, match=r"prompts\.jsonl:1: .*prompt_id"):
        read_jsonl(path, Prompt)


def test_an_integer_is_accepted_where_a_float_is_meant(tmp_path: Path) -> None:
    pair = Pair("a", "p", 0, "d", "no", "ref", irl_iter=0, temperature=1.0, weight=0.5)
    write_jsonl(tmp_path / "x.jsonl", [{**pair.__dict__, "temperature": 1}])
    assert read_jsonl(tmp_path / "x.jsonl", Pair)[0].temperature == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": \n', r":2: not valid JSON"),
        (b'{"a": 1}\n[1]\n', r":2: expected a JSON object, found list"),
        (b"\xff\xfe\n", r"not UTF-8"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DrirlError, match=expected):
        read_jsonl(path)


def test_missing_and_malformed_json(tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match="no such file; run the stage"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DrirlError, match=r"bad\.json: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_json_is_sorted(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


def _write_and_stop(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        _write_and_stop(temporary)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    with atomic_dir(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), atomic_dir(path) as temporary:
        _write_and_stop(temporary / "a")
    assert (path / "a").read_text() == "1"
    with atomic_dir(path) as temporary:
        (temporary / "b").write_text("3")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_full_disk_is_named_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with pytest.raises(DrirlError, match=r"cannot write .*x\.txt: No space left"), atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_half_a_surrogate_pair_is_written_as_the_replacement_character(tmp_path: Path) -> None:
    reply = "smile \ud83d"  # an emoji cut by a token limit, as some servers return it
    write_jsonl(tmp_path / "a.jsonl", [{"text": reply}, {"text": "whole \U0001f600"}])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"text": "smile \ufffd"}, {"text": "whole \U0001f600"}]
    write_json(tmp_path / "a.json", [reply])
    assert read_json(tmp_path / "a.json") == ["smile \ufffd"]
