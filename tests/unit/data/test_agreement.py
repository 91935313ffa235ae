"""Cohen's kappa of two hand-labelled sheets."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from drirl.data.agreement import agreement, cohen_kappa, compare_labels, read_labels, write_sheet
from drirl.errors import DrirlError
from drirl.records import Prompt


def test_kappa_by_hand() -> None:
    # 10 items, 7 agreed: p_o = 0.7; first says 0 six times, second five: p_e = 0.6 * 0.5 + 0.4 * 0.5 = 0.5
    first = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    second = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert cohen_kappa([3, 3], [3, 3]) is None
    assert cohen_kappa([], []) is None
    assert cohen_kappa([0, 1], [1, 0]) == pytest.approx(-1)
    with pytest.raises(ValueError, match="equally long"):
        cohen_kappa([0], [])


def test_kappa_equals_scikit_learn() -> None:
    rng = random.Random(0)
    first = [rng.randrange(-1, 7) for _ in range(100)]
    second = [a if rng.random() < 0.7 else rng.randrange(-1, 7) for a in first]
    found = agreement(first, second)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-4)
    low, high = found["interval"]
    assert low < found["kappa"] < high
    assert sum(found["confused"].values()) == round(100 * (1 - found["observed"]))


def sheet(path: Path, rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["prompt_id", "text", "category"])
        writer.writerows((key, f"text of {key}", value) for key, value in rows.items())
    return path


def test_two_sheets_and_the_mapping(tmp_path: Path) -> None:
    first = sheet(tmp_path / "a.csv", {"p0": "0", "p1": "crime", "p2": "benign", "p3": "Privacy & Property"})
    second = sheet(tmp_path / "b.csv", {"p0": "0", "p1": "2", "p2": "-1", "p3": "6", "p4": "1", "p5": ""})
    found = compare_labels(first, second, {"p0": 0, "p1": 3})
    assert (found["labellers"]["n"], found["labellers"]["observed"]) == (4, 0.75)
    assert found["labellers"]["confused"] == {"Privacy & Property / Ethics & Morality": 1}
    assert found["labelled_by_one_only"] == 1
    assert (found["first_with_mapping"]["n"], found["first_with_mapping"]["observed"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ({"p0": "crme"}, r"b\.csv:2: unknown category 'crme'; .*did you mean 'crime'"),
        ({"p0": ""}, "column 'category' is empty"),
        ({"p9": "1"}, "no labelled prompt in common"),
    ],
)
def test_mistakes_are_one_line(rows: dict[str, str], match: str, tmp_path: Path) -> None:
    first = sheet(tmp_path / "a.csv", {"p0": "0"})
    with pytest.raises(DrirlError, match=match):
        compare_labels(first, sheet(tmp_path / "b.csv", rows))


def test_a_prompt_labelled_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt_id,category\np0,1\np0,2\n")
    with pytest.raises(DrirlError, match="p0 is labelled twice"):
        read_labels(path)


def test_the_sheet_spreads_over_categories_and_hides_them(tmp_path: Path) -> None:
    prompts = [Prompt(f"p{j}{k}", f"text {j} {k}", j, "train") for j in range(7) for k in range(30)]
    prompts += [Prompt("s", "made up", 0, "train", synthetic=True), Prompt("b", "kind", -1, "train")]
    assert write_sheet(prompts, tmp_path / "sheet.csv", count=21, seed=0) == 21
    with (tmp_path / "sheet.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    by_id = {p.prompt_id: p for p in prompts}
    categories = [by_id[row["prompt_id"]].category for row in rows]
    assert sorted(categories) == sorted([*range(7)] * 3)
    assert categories != sorted(categories)
    assert {row["category"] for row in rows} == {""}
    with pytest.raises(DrirlError, match="no harmful prompt"):
        write_sheet([], tmp_path / "none.csv", count=1, seed=0)
