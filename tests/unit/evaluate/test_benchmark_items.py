"""Reading items and choosing subsets: lines in errors, fixed choices."""

from __future__ import annotations

import json
import math
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


def test_json_lines_keep_line_separators_inside_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "a\u2028b"}\n{"question": "c"}\n', encoding="utf-8")
    assert [(n, row["question"]) for n, row in tasks.read_json_lines(path, ["question"])] == [
        (1, "a\u2028b"),
        (2, "c"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[1,\n2,\n"cut', r"x\.json:3: not valid JSON"),
        (b"", r"x\.json:1: not valid JSON"),
        (b'"\xff"', r"x\.json: not UTF-8"),
    ],
)
def test_malformed_json_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DrirlError, match=message):
        tasks.read_json(path)


def parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_a_table_is_read_by_the_end_of_its_name(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": "1", "n": 3}, {"id": "2", "n": 4}]
    path = parquet(tmp_path / "x.parquet", rows)
    assert tasks.read_table(path, ["id"]) == [(1, rows[0]), (2, rows[1])]
    assert list(tasks.read_parquet_rows(path, ["id"], keep=["id", "other"])) == [
        (1, {"id": "1"}),
        (2, {"id": "2"}),
    ]
    (tmp_path / "x.csv").write_text("id,n\n1,3\n")
    (tmp_path / "x.jsonl").write_text('{"id": "1", "n": 3}\n')
    assert tasks.read_table(tmp_path / "x.csv", ["id"]) == [(2, {"id": "1", "n": "3"})]
    assert tasks.read_table(tmp_path / "x.jsonl", ["id"]) == [(1, {"id": "1", "n": 3})]
    with pytest.raises(DrirlError, match=r"expected a name that ends with \.csv, \.jsonl, \.parquet"):
        tasks.read_table(tmp_path / "x.txt", ["id"])


def test_malformed_parquet_is_one_error(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", [{"id": "1"}, {"id": " "}])
    with pytest.raises(DrirlError, match=r"x\.parquet: row 2: column 'id' is empty"):
        tasks.read_table(path, ["id"])
    with pytest.raises(DrirlError, match=r"column 'text' is missing; found id"):
        tasks.read_table(path, ["text"])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DrirlError, match=r"not a readable parquet file"):
        tasks.read_table(path, ["id"])


def test_choices_by_log_likelihood() -> None:
    results = [(-1.0, True), (-0.5, False), (-2.0, False)]
    assert tasks.score_choice(results, 1, "accuracy") == {"accuracy": 1.0}
    assert tasks.score_choice(results, 0, "accuracy") == {"accuracy": 0.0}
    assert tasks.score_choice([-1.0, -1.0], 0, "mc1") == {"mc1": 0.0}  # a tie is wrong
    infinite = [-math.inf, -math.inf]
    assert tasks.score_choice(infinite, 0, "mc1") == {"mc1": 0.0}
    assert math.isnan(tasks.score_choice([math.nan, -1.0], 1, "mc1")["mc1"])
    # probabilities 0.1, 0.3 and 0.2 of which the first and the last are true: 0.3 / 0.6
    masses = [math.log(0.1), math.log(0.3), math.log(0.2)]
    assert tasks.score_mass(masses, [0, 2], "mc2")["mc2"] == pytest.approx(0.5)
    # far below the smallest float: the ratio is kept
    low = [value - 2000 for value in masses]
    assert tasks.score_mass(low, [0, 2], "mc2")["mc2"] == pytest.approx(0.5)
    assert math.isnan(tasks.score_mass(infinite, [0], "mc2")["mc2"])


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_data_of_a_pinned_hub_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot in the hub's own cache layout stands for the repository; the client is the real one."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "datasets--some--sums" / "snapshots" / REVISION
    parquet(snapshot / "main" / "test-0.parquet", [{"question": "1+1?", "answer": "#### 2"}])
    (snapshot / "test.jsonl").write_text('{"question": "2+2?", "answer": "#### 4"}\n')
    monkeypatch.setenv("DRIRL_DATA", str(tmp_path))  # an entry goes before the folder

    hub = {"gsm8k": f"some/sums@{REVISION}:main/test-*.parquet"}
    path = tasks.data_file("gsm8k/test.jsonl", hub=hub)
    assert tasks.read_table(path, ["question"]) == [(1, {"question": "1+1?", "answer": "#### 2"})]
    monkeypatch.setenv("DRIRL_HUB", json.dumps({"gsm8k": f"some/sums@{REVISION}"}))
    assert tasks.data_file("gsm8k/test.jsonl") == snapshot / "test.jsonl"
    with pytest.raises(DrirlError, match=r"other\.csv: no such file; DRIRL_DATA"):
        tasks.data_file("xstest/other.csv")  # not in the table: the folder

    with pytest.raises(DrirlError, match=r"has no file 'missing\.csv'"):
        tasks.data_file("gsm8k/x", hub={"gsm8k": f"some/sums@{REVISION}:missing.csv"})
    other = f"some/other@{REVISION}"
    with pytest.raises(DrirlError, match=f"hub entry 'gsm8k': cannot get {other}: "):
        tasks.data_file("gsm8k/test.jsonl", hub={"gsm8k": other})
    for unpinned in ("some/sums", "some/sums@main", f"some/sums@{REVISION[:7]}"):
        with pytest.raises(DrirlError, match=f"full commit of 40 hex digits, found '{unpinned}'"):
            tasks.data_file("gsm8k/test.jsonl", hub={"gsm8k": unpinned})
    monkeypatch.setenv("DRIRL_HUB", "gsm8k=some/sums")
    with pytest.raises(DrirlError, match="DRIRL_HUB: not valid JSON"):
        tasks.data_file("gsm8k/test.jsonl")
    monkeypatch.setenv("DRIRL_HUB", "[1]")
    with pytest.raises(DrirlError, match="DRIRL_HUB: expected"):
        tasks.data_file("gsm8k/test.jsonl")


def test_a_pattern_that_should_name_one_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("id\n1\n")
    assert len(tasks.data_files("*.csv", str(tmp_path))) == 2
    with pytest.raises(DrirlError, match="expected one file, found 2"):
        tasks.data_file("*.csv", str(tmp_path))
