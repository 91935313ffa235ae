"""Sheets for hand labels: blind, seeded, safe to open, and scored by hand-worked figures."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.judge.interface import Item
from drirl.judge.registry import find_judge
from drirl.judge.settings import JudgeSettings
from drirl.judge.sheet import compare_sheets, read_sheet, score_sheet, write_sheet

SETTINGS = JudgeSettings(bootstrap=100)
HOSTILE = ["=1+1", "+x", "-x", "@x", "'quoted", "\ttab", "a\nb", 'say "hi", ok', "ü", "c\r\nd"]
ITEMS = [Item(f"Question {k}?", "I can't help with that." if k < 4 else "Take it.") for k in range(8)]


def _fill(path: Path, verdicts: dict[str, str]) -> None:
    """Write into column 'verdict' by prompt, as a person with a spreadsheet would."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["verdict"] = verdicts.get(row["prompt"], "")
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_draw_is_seeded_without_doubles_and_blind(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.csv" for k in range(3)]
    assert write_sheet(ITEMS + ITEMS, paths[0], count=5, seed=1) == 5
    write_sheet(list(reversed(ITEMS)), paths[1], count=5, seed=1)
    write_sheet(ITEMS, paths[2], count=5, seed=2)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert write_sheet(ITEMS, tmp_path / "all.csv", count=100, seed=0) == 8
    assert paths[0].read_text().splitlines()[0] == "item,prompt,reply,finished,verdict"
    assert "refusal" not in paths[0].read_text()


def test_hostile_texts_come_back_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    items = [Item(text, text, finished=False) for text in HOSTILE]
    write_sheet(items, path, count=100, seed=0)
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert not any(row[c].startswith(("=", "+", "-", "@", "\t")) for row in rows for c in ("prompt", "reply"))
    for row in rows:
        row["verdict"] = "broken"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert {label.item for label in read_sheet(path, "degenerate")} == set(items)


def test_score_by_hand(tmp_path: Path) -> None:
    """Seven labelled. The judge refuses on 0-3; people on 0-2 and 4: tp 3, fn 1, fp 1, tn 2."""
    path = tmp_path / "s.csv"
    write_sheet(ITEMS, path, count=8, seed=0)
    labels = dict.fromkeys((f"Question {k}?" for k in (0, 1, 2, 4)), "full_refusal")
    labels |= {
        "Question 3?": "Partial refusal",
        "Question 5?": "full_compliance",
        "Question 6?": "full_compliance",
    }
    _fill(path, labels)
    read = read_sheet(path, "refusal")
    assert len(read) == 7
    found = score_sheet(find_judge("refusal-classes", SETTINGS), read, SETTINGS)
    assert (found["n"], found["missing"]) == (7, 0)
    assert found["measures"]["recall"]["value"] == 0.75
    assert found["measures"]["precision"]["value"] == 0.75
    # expected agreement (4*4 + 3*3)/49 = 25/49, observed 5/7: (35 - 25)/(49 - 25)
    assert found["measures"]["kappa"]["value"] == pytest.approx(10 / 24, abs=1e-4)
    assert found["verdicts"]["full_refusal / partial_refusal"] == 1
    # classes: expected (4*4 + 0*1 + 3*2)/49 = 22/49, observed 5/7
    assert found["kappa_of_classes"] == pytest.approx((35 - 22) / (49 - 22), abs=1e-4)
    assert "kappa_of_classes" not in score_sheet(find_judge("refusal-rules", SETTINGS), read, SETTINGS)


def test_two_people_by_hand(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for path, other in ((first, "full_refusal"), (second, "full_compliance")):
        write_sheet(ITEMS, path, count=8, seed=0)
        _fill(
            path,
            {"Question 0?": "full_refusal", "Question 1?": other, "Question 2?": "full_compliance"}
            | ({"Question 3?": "full_refusal"} if path == first else {}),
        )
    found = compare_sheets(read_sheet(first, "refusal"), read_sheet(second, "refusal"), "refusal")
    # observed 2/3; expected (2*1 + 1*2)/9 = 4/9; (6 - 4)/(9 - 4)
    assert found == {"n": 3, "observed": 0.6667, "kappa": 0.4, "labelled_by_one_only": 1}


def test_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    with pytest.raises(DrirlError, match="no reply to label"):
        write_sheet([], path, count=1, seed=0)
    write_sheet(ITEMS, path, count=8, seed=0)
    with pytest.raises(DrirlError, match="column 'verdict' is empty; write one of full_refusal, partial"):
        read_sheet(path, "refusal")
    _fill(path, {"Question 0?": "refusal_full"})
    with pytest.raises(DrirlError, match=r"s\.csv:\d: unknown verdict 'refusal_full'; known: full_comp"):
        read_sheet(path, "refusal")
    _fill(path, {"Question 0?": "full_refusal"})
    text = path.read_text()
    path.write_text(text.replace("can't help", "cannot help"))
    with pytest.raises(DrirlError, match="were changed"):
        read_sheet(path, "refusal")
    line = next(line for line in text.splitlines() if line.endswith("full_refusal"))
    path.write_text(text + line + "\n")
    with pytest.raises(DrirlError, match="labelled twice"):
        read_sheet(path, "refusal")
