"""Reading items and choosing subsets: lines in errors, fixed choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.evaluate import tasks


def rows(n: int) -> list[dict[str, object]]:
    return [tasks.row(f"item{i:03}", f"text {i}", kind="benign") for i in range(n)]


def test_a_subset_is_fixed_nested_and_in_file_order() -> None:
    all_rows = rows(200)
    small, large = tasks.choose(all_rows, "t", subset=20), tasks.choose(all_rows, "t", subset={"t": 50})
    ids = [item["item_id"] for item in small]
    assert len(ids) == 20
    assert ids == sorted(ids)
    assert set(ids) <= {item["item_id"] for item in large}
    assert tasks.choose(list(reversed(all_rows)), "t", subset=20) == list(reversed(small))
    assert tasks.choose(all_rows, "t", subset=20, seed=1) != small
    assert tasks.choose(all_rows, "t", subset={"other": 3}) == all_rows
    assert tasks.choose(all_rows, "t", subset=20, limit=5) == tasks.choose(all_rows, "t", limit=5)


def test_a_subset_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIRL_SUBSET", "3")
    assert len(tasks.choose(rows(9), "t")) == 3
    assert len(tasks.choose(rows(9), "t", subset={})) == 9
    monkeypatch.setenv("DRIRL_SUBSET", "many")
    with pytest.raises(DrirlError, match="a subset is a number of items, found 'many'"):
        tasks.choose(rows(9), "t")
    with pytest.raises(DrirlError, match="at least one item"):
        tasks.choose(rows(9), "t", subset=0)


def test_equal_ids_are_an_error() -> None:
    with pytest.raises(DrirlError, match="two items have the id 'item000'"):
        tasks.choose([*rows(2), rows(1)[0]], "t")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n1,safe\n", r"x\.csv:1: column 'prompt' is missing; found id, label"),
        ("", r"x\.csv:1: column 'id' is missing; found nothing"),
        ("id,prompt\n1,a\n2\n", r"x\.csv:3: fewer cells than the 2 columns"),
        ("id,prompt\n1,a,b\n", r"x\.csv:2: more cells than the 2 columns"),
        ('id,prompt\n1,"a\nb"\n2,"c\n', r"x\.csv:\d+: not valid CSV"),
        ('id,prompt\n1,"a\nb"\n2, \n', r"x\.csv:4: column 'prompt' is empty"),
        ("id,prompt\n", "no rows below the header"),
    ],
)
def test_malformed_csv_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DrirlError, match=message):
        tasks.read_csv_rows(path, ["id", "prompt"])


def test_csv_with_mark_and_line_break(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffid,prompt\r\n1,"a\r\nb"\r\n'.encode())
    assert tasks.read_csv_rows(path, ["id", "prompt"]) == [(3, {"id": "1", "prompt": "a\r\nb"})]
    path.write_bytes(b"id,prompt\n1,\xff\n")
    with pytest.raises(DrirlError, match="not UTF-8"):
        tasks.read_csv_rows(path, ["id"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q", "answer": "a"}\n{"question"', r"x\.jsonl:2: not valid JSON"),
        ('\n{"question": "q"}\n', r"x\.jsonl:2: expected an object with the text 'answer'"),
        ('{"question": "q", "answer": 3}\n', r"x\.jsonl:1: expected an object with the text 'answer'"),
        ("[1]\n", r"x\.jsonl:1: expected an object with the text 'question'"),
        ("\n", "no rows"),
    ],
)
def test_malformed_json_lines_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DrirlError, match=message):
        tasks.read_json_lines(path, ["question", "answer"])


def test_a_missing_data_folder_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DRIRL_DATA", raising=False)
    with pytest.raises(DrirlError, match="set DRIRL_DATA"):
        tasks.data_file("xstest/xstest_prompts.csv")
    with pytest.raises(DrirlError, match="set DRIRL_DATA"):
        tasks.data_file("xstest/xstest_prompts.csv", "${DRIRL_DATA}")
    with pytest.raises(DrirlError, match=r"xstest_prompts\.csv: no such file"):
        tasks.data_file("xstest/xstest_prompts.csv", str(tmp_path))


def test_prompts_of_a_kind_and_split(out: Path) -> None:
    assert [item["text"] for item in tasks.prompt_rows("benign", out=str(out), split="val")] == [
        "Only for tuning."
    ]
    first = tasks.prompt_rows("harmful", out=str(out))[0]
    assert (first["category"], first["level"], first["cluster"]) == (0, "direct", "70")
    with pytest.raises(DrirlError, match="no prompt of kind 'task' in split 'val'"):
        tasks.prompt_rows("task", out=str(out), split="val")


def test_scores_read_the_reply_only() -> None:
    notes = "risk: I can't help with that #### Sure. First gather what you need."
    assert tasks.score_refusal(notes, "refusal_rate") == {"refusal_rate": 0.0, "degenerate_text": 0.0}
    assert tasks.score_refusal("plan: answer #### I won't help with that.", "r")["r"] == 1.0
    item = tasks.row("i", "What is 3 plus 4?", kind="task", reference="7", checker="number")
    assert tasks.score_correct(item, "sum 3 4 #### It is 7.", "accuracy")["accuracy"] == 1.0
    assert tasks.score_correct(item, "sum 7 #### It is 8.", "accuracy")["accuracy"] == 0.0
    assert tasks.score_correct(item, "7 ####", "accuracy") == {"accuracy": 0.0, "degenerate_text": 1.0}
