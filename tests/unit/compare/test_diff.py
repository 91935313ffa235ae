"""Two result folders prompt by prompt, with counts and p-values worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from drirl.cli import main
from drirl.compare.diff import COLUMNS, FLIPS, compare_folders, render_diff, write_diff
from drirl.errors import DrirlError
from drirl.records import EvalItem

from .conftest import item, write_cell


def scored(values: list[float | None], **fields: object) -> list[EvalItem]:
    """Return one record per value, prompts p0, p1, ..., the first half direct, the others disguised."""
    half = len(values) // 2
    return [
        item(
            item_id=f"p{place}",
            value=value,
            level="direct" if place < half else "disguised",
            category=place % 2,
            **fields,
        )
        for place, value in enumerate(values)
    ]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of one policy each: of ten prompts seven flip up, one down, two stay."""
    write_cell(tmp_path / "one", "tiny", "base", scored([0] * 7 + [1, 0, 1]))
    write_cell(tmp_path / "two", "tiny", "dpo", scored([1] * 7 + [0, 0, 1], method="dpo"))
    return tmp_path / "one" / "evaluate/tiny/base", tmp_path / "two" / "evaluate/tiny/dpo"


def test_what_flipped_and_where(two: tuple[Path, Path]) -> None:
    diff = compare_folders(*two)
    whole = diff.lines[0]
    assert (whole.model, whole.method, whole.metric) == ("tiny", "base / dpo", "refusal_rate")
    assert (whole.prompts, whole.seeds, whole.up, whole.down) == (10, 1, 7, 1)
    assert (whole.before, whole.after) == (0.2, 0.8)
    assert whole.p == pytest.approx(18 / 256)
    parts = {line.metric: (line.prompts, line.up, line.down) for line in diff.lines[1:]}
    assert parts["refusal_rate[level=direct]"] == (5, 5, 0)
    assert parts["refusal_rate[level=disguised]"] == (5, 2, 1)
    assert parts["refusal_rate[category=Insult]"] == (5, 4, 0)  # p0, p2, p4, p6
    assert parts["refusal_rate[category=Unfairness & Discrimination]"] == (5, 3, 1)
    assert [flip.before.item_id for flip in diff.flips] == [f"p{place}" for place in range(8)]
    assert (diff.missing, diff.unlike) == ([], [])


def test_tables_and_files(two: tuple[Path, Path], tmp_path: Path) -> None:
    diff = compare_folders(*two)
    text = render_diff(diff, shown=3)
    assert (
        "| tiny | base / dpo | `drirl_tiny_harmful` | `refusal_rate` | 10 | 0.200 | 0.800 | 7 | 1 | 0.0703 |"
        in text
    )
    assert "5 more" in text
    files = write_diff(diff, tmp_path / "diff")
    lines = [list(csv.reader(file.open(encoding="utf-8"))) for file in files]
    assert [found[0] for found in lines] == [list(COLUMNS), list(FLIPS)]
    assert lines[0][1][4:] == ["10", "1", "0.2", "0.8", "0.6", "7", "1", "0.0703125"]
    assert lines[1][1] == [
        "tiny",
        "base / dpo",
        "drirl_tiny_harmful",
        "refusal_rate",
        "0",
        "p0",
        "Insult",
        "direct",
        "0",
        "1",
        "true",
    ]
    assert len(lines[1]) == 9


def test_a_folder_against_itself_has_no_flips(two: tuple[Path, Path]) -> None:
    diff = compare_folders(two[0], two[0])
    assert {line.p for line in diff.lines} == {1.0}
    assert diff.flips == []
    assert "Nothing." in render_diff(diff)


def test_a_prompt_counts_once_over_its_seeds(tmp_path: Path) -> None:
    """Of three seeds: prompt 0 rises in two, 1 rises in one and falls in one, 2 falls in two."""
    for name, seeds in (("a", ([0, 0, 1], [0, 1, 1], [1, 1, 1])), ("b", ([1, 1, 0], [1, 0, 0], [1, 1, 1]))):
        items = [one for seed, values in enumerate(seeds) for one in scored(list(values), seed=seed)]
        write_cell(tmp_path / name, "tiny", "base", items)
    diff = compare_folders(tmp_path / "a", tmp_path / "b")
    assert (diff.lines[0].prompts, diff.lines[0].seeds, diff.lines[0].up, diff.lines[0].down) == (3, 3, 1, 1)
    assert len(diff.flips) == 6


def test_out_folders_are_matched_by_name_and_the_rest_is_missing(tmp_path: Path) -> None:
    for method in ("base", "dpo"):
        write_cell(tmp_path / "a", "tiny", method, scored([0, 1], method=method))
    for method in ("base", "ppo"):
        write_cell(tmp_path / "b", "tiny", method, scored([1, 1], method=method))
    diff = compare_folders(tmp_path / "a", tmp_path / "b")
    assert {line.method for line in diff.lines} == {"base"}
    assert diff.missing == [f"tiny/dpo: only in {tmp_path / 'a'}", f"tiny/ppo: only in {tmp_path / 'b'}"]
    with pytest.raises(DrirlError, match=r"no policy is in both folders: .*a has tiny/dpo; .*b has none"):
        compare_folders(tmp_path / "a", tmp_path / "b", methods=["dpo"])
    with pytest.raises(
        DrirlError, match="--methods: no records of 'dp' in either folder; known: base, dpo, ppo"
    ):
        compare_folders(tmp_path / "a", tmp_path / "b", methods=["dp"])


def test_missing_parts_and_other_measures_are_said(tmp_path: Path) -> None:
    first = [*scored([0, 1, 1, None]), *scored([1, 1], benchmark="drirl_tiny_help", metric="accuracy")]
    second = scored([1, 1, 1], judge="other", seed=4)
    write_cell(tmp_path / "a", "tiny", "base", first)
    write_cell(tmp_path / "b", "tiny", "base", second)
    runs = tmp_path / "b/evaluate/tiny/base/runs.jsonl"
    run = json.loads(runs.read_text())
    runs.write_text(json.dumps({**run, "task_version": "2"}) + "\n")
    diff = compare_folders(tmp_path / "a", tmp_path / "b")
    assert diff.lines[0].prompts == 3  # one seed each: paired, though their numbers differ
    said = "\n".join(diff.missing)
    assert f"drirl_tiny_harmful, refusal_rate: 1 of 4 records (prompts by seeds) of {tmp_path / 'a'}" in said
    assert "seeds [0] against [4]" in said
    assert "drirl_tiny_help, accuracy: only in" in said
    assert diff.unlike == [
        "tiny/base: drirl_tiny_harmful: task version 1 against 2",
        "tiny/base: drirl_tiny_harmful, refusal_rate: judged by rules against other",
    ]
    assert "## Not measured alike" in render_diff(diff)


def test_scores_lost_in_some_seeds_only_are_counted(tmp_path: Path) -> None:
    """Every prompt has a partner in one of the seeds; two of the six records of the first have none."""
    whole = [one for seed in (0, 1) for one in scored([0, 1, 1], seed=seed)]
    holes = [*scored([1, None, 1], seed=0), *scored([1, 1], seed=1)]
    write_cell(tmp_path / "a", "tiny", "base", whole)
    write_cell(tmp_path / "b", "tiny", "base", holes)
    diff = compare_folders(tmp_path / "a", tmp_path / "b")
    name = "tiny/base: drirl_tiny_harmful, refusal_rate"
    assert diff.missing == [
        f"{name}: 2 of 6 records (prompts by seeds) of {tmp_path / 'a'} have no scored partner",
        f"{name}: 1 of 5 records (prompts by seeds) of {tmp_path / 'b'} have no scored partner",
    ]
    # A seed that only one side has is said as such, not counted again.
    write_cell(tmp_path / "b", "tiny", "base", scored([0, 1, 1]))
    missing = compare_folders(tmp_path / "a", tmp_path / "b").missing
    assert missing == [f"{name}: seeds [0, 1] against [0]; those in both are compared"]


def test_a_value_that_is_no_number_has_no_partner(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "tiny", "base", scored([0.5, float("nan"), float("inf")]))
    write_cell(tmp_path / "b", "tiny", "base", scored([1.0, 0.0, 0.0]))
    diff = compare_folders(tmp_path / "a", tmp_path / "b")
    assert (diff.lines[0].prompts, diff.lines[0].before, diff.lines[0].after) == (1, 0.5, 1.0)
    assert "2 of 3 records" in diff.missing[0]


def test_a_record_twice_and_two_judges_are_refused(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "tiny", "base", scored([0, 1]))
    write_cell(tmp_path / "b", "tiny", "base", [*scored([0, 1]), *scored([1])])
    with pytest.raises(
        DrirlError, match=r"items\.jsonl: item 'p0' of .*, refusal_rate, seed 0 is there twice"
    ):
        compare_folders(tmp_path / "a", tmp_path / "b")
    mixed = [*scored([0, 1]), *scored([1], seed=1, judge="model/2")]
    write_cell(tmp_path / "b", "tiny", "base", mixed)
    for sides in ("ab", "ba", "bb"):  # the same two judges on both sides are no better
        with pytest.raises(
            DrirlError, match="refusal_rate was judged by 'model/2' and by 'rules'; judges do"
        ):
            compare_folders(*(tmp_path / side for side in sides))


def test_bad_folders_are_one_clear_error(tmp_path: Path, two: tuple[Path, Path]) -> None:
    with pytest.raises(DrirlError, match="no such folder"):
        compare_folders(tmp_path / "gone", two[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DrirlError, match=r"no items\.jsonl in it; expected an out folder"):
        compare_folders(tmp_path / "empty", two[0])
    for text, message in (
        ("", "no records in it"),
        ("[1]\n", "not a record of drirl"),
        (
            json.dumps({**dataclasses.asdict(item()), "schema_version": 9, "new": 1}) + "\n",
            "schema version 9",
        ),
    ):
        (tmp_path / "empty" / "items.jsonl").write_text(text)
        with pytest.raises(DrirlError, match=message):
            compare_folders(tmp_path / "empty", two[0])
    with pytest.raises(DrirlError, match="--benchmarks: no records of 'gsm8k'"):
        compare_folders(*two, benchmarks=["gsm8k"])
    write_cell(
        tmp_path / "other", "tiny", "base", scored([1], benchmark="drirl_tiny_help", metric="accuracy")
    )
    with pytest.raises(DrirlError, match="no scored prompt in common"):
        compare_folders(two[0], tmp_path / "other")


def test_command_line(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(two[0]), str(two[1]), "--output", str(tmp_path / "d")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"# {tmp_path}")
    assert "flips.csv" in shown.err
    assert (tmp_path / "d" / "diff.csv").is_file()
    assert main(["compare", str(two[0])]) == 2
    assert "expected two result folders, found 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--reference", "base"], ["--format", "csv"], ["--allow-uneven"], ["--texts", "all"]],
    ids=lambda options: options[0],
)
def test_options_of_the_tables_are_refused(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["compare", *map(str, two), *options]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: {options[0]}: not for two folders, which are compared as they are\n"
    assert shown.out == ""
