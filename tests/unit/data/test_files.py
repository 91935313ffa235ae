"""Reading data files: every complaint names the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.data.files import csv_rows, data_root, json_document, json_rows, text_field
from drirl.errors import DrirlError


def test_csv_rows_with_line_breaks_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\n1,"two\nlines"\n2,plain\n')
    assert list(csv_rows(path, ("id", "text"))) == [
        (f"{path}:3", {"id": "1", "text": "two\nlines"}),
        (f"{path}:4", {"id": "2", "text": "plain"}),
    ]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"id,body\n1,x\n", r"a\.csv:1: column 'text' is missing; the header has id, body"),
        (b"", r"a\.csv:1: column 'id' is missing; the header has nothing"),
        (b"id,text\n1\n", r"a\.csv:2: expected 2 fields"),
        (b"id,text\n1,a,b\n", r"a\.csv:2: expected 2 fields"),
        (b'id,text\n1,"a" b\n', r"a\.csv:\d+: not valid CSV"),
        (b"id,text\n1,\xff\xfe\n", r"a\.csv: not UTF-8"),
    ],
)
def test_malformed_csv(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DrirlError, match=match):
        list(csv_rows(path, ("id", "text")))


def test_malformed_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(DrirlError, match=r"a\.jsonl:3: not valid JSON"):
        list(json_rows(path))
    path.write_text("[1]\n")
    with pytest.raises(DrirlError, match=r"a\.jsonl:1: expected a JSON object, found list"):
        list(json_rows(path))
    path.write_text('{"a": 1,\n "b": }\n')
    with pytest.raises(DrirlError, match=r"a\.jsonl:2: not valid JSON"):
        json_document(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match=r"no\.csv: no such file; it is expected under data\.root"):
        list(csv_rows(tmp_path / "no.csv", ("id",)))
    with pytest.raises(DrirlError, match="no such file"):
        list(json_rows(tmp_path / "no.jsonl"))
    with pytest.raises(DrirlError, match="is not a folder"):
        data_root(str(tmp_path / "no"), "catqa")
    assert data_root(str(tmp_path), "catqa") == tmp_path


def test_unset_variable_is_named() -> None:
    with pytest.raises(DrirlError, match=r"DRIRL_DATA is not set: export DRIRL_DATA="):
        data_root("${DRIRL_DATA}", "catqa")
    with pytest.raises(DrirlError, match=r"data\.root is empty but 'catqa' needs files"):
        data_root("", "catqa")


def test_text_field() -> None:
    assert text_field({"a": ""}, "a", "f:1", empty=True) == ""
    for row, match in (({}, "found nothing"), ({"a": 1}, "found int"), ({"a": " "}, "is empty")):
        with pytest.raises(DrirlError, match=f"f:1: field 'a' .*{match}"):
            text_field(row, "a", "f:1")
