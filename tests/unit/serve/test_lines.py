"""Streaming JSON lines: order, bounded batches, bad lines with their numbers."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.serve.lines import Line, stream, text_of


def _check(line: Line) -> None:
    text_of(line, "prompt")


def _write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return str(path)


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_keep_their_order_and_batches_their_size(tmp_path: Path) -> None:
    source = _write(tmp_path / "in", *(json.dumps({"prompt": f"p{i}", "k": i}) for i in range(5)), "", "  ")
    sizes = []

    def work(group: list[Line]) -> list[dict[str, object]]:
        sizes.append(len(group))
        return [{**line.value, "where": line.where} for line in group]

    summary = stream(source, str(tmp_path / "out"), _check, work, batch=2)
    assert (summary.written, summary.bad, sizes) == (5, [], [2, 2, 1])
    rows = _rows(tmp_path / "out")
    assert [row["k"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[3]["where"] == f"{source}:4"


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("{", "in:2: not valid JSON"),
        ("[1]", "in:2: expected a JSON object, found list"),
        (b"\xff{}", "in:2: not UTF-8 text"),
        ('{"text": "x"}', "in:2: field 'prompt' is missing; the line has text"),
        ('{"prompt": 3}', "in:2: field 'prompt' should be text, found int"),
        ('{"prompt": " "}', "in:2: field 'prompt' is empty"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str | bytes, expected: str
) -> None:
    source = _write(tmp_path / "in", '{"prompt": "a"}', bad, '{"prompt": "b"}')
    with pytest.raises(DrirlError, match=expected):
        stream(source, str(tmp_path / "out"), _check, lambda g: [x.value for x in g])
    assert not (tmp_path / "out").exists()  # no half a file
    summary = stream(source, str(tmp_path / "out"), _check, lambda g: [x.value for x in g], keep_going=True)
    assert summary.written == 2
    assert expected in summary.bad[0]
    assert expected in capsys.readouterr().err
    assert [row["prompt"] for row in _rows(tmp_path / "out")] == ["a", "b"]


def test_standard_streams_and_what_stands_before_a_bad_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"prompt": "café \\ud83d"}\n{"prompt": "b"}\nnonsense\n'.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    with pytest.raises(DrirlError, match="stdin:3: not valid JSON"):
        stream("-", "-", _check, lambda g: [x.value for x in g], batch=10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '{"prompt": "café \\ud83d"}'  # half a surrogate pair stays an escape
    assert [json.loads(line)["prompt"] for line in lines] == ["café \ud83d", "b"]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match="none: cannot be read: No such file"):
        stream(str(tmp_path / "none"), "-", _check, lambda g: [])
