"""``drirl judge ...`` through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from judge_world import JudgeServer

from drirl import cli
from drirl.judge.human import FOLDER
from drirl.records import EvalItem, RunRecord, read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "profiles").mkdir()
    shutil.copy(ROOT / "profiles" / "tiny.yaml", tmp_path / "params.yaml")
    for name in ("DRIRL_OUT", "DRIRL_DEBUG", "DRIRL_DATA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out" / "evaluate" / "tiny-llama" / "base"
    cell = ("tiny-llama/base/seed0", "base", "tiny-llama", 0, "drirl_tiny_harmful")
    rest = ("refusal_rate", 0.0, "refusal-rules/1")
    replies = ["I can't help with that.", "Take it.", "Unfortunately no."]
    write_jsonl(
        folder / "items.jsonl",
        [EvalItem(*cell, f"i{k}", f"Question {k}?", reply, *rest) for k, reply in enumerate(replies)],
    )
    run = RunRecord(*cell, "refusal_rate", True, 0.0, 0.0, 3, "refusal-rules/1", "1", {}, "h", "t")
    write_jsonl(folder / "runs.jsonl", [run])
    return tmp_path


def _run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["judge", *arguments]) == status
    captured = capsys.readouterr()
    if status:
        assert captured.err.count("\n") == 1
        return captured.err
    return captured.out


def test_list(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _run(capsys, "list").splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("* refusal-rules/1")
    assert "degenerate_rate down" in lines[-1]


def test_run_twice(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", "--judge", "refusal-prefix/1", "--judge", "refusal-classes", "--model", "tiny-llama")
    text = _run(capsys, *arguments)
    assert "refusal-prefix/1: tiny-llama/base: 3 replies, 0 without a verdict" in text
    runs = read_jsonl(project / "out/judge/refusal-prefix-1/tiny-llama/base/runs.jsonl", RunRecord)
    assert [(r.metric, r.value) for r in runs] == [("refusal_rate@refusal-prefix/1", pytest.approx(2 / 3))]
    assert _run(capsys, *arguments).count("judged before, nothing to do") == 2


def test_run_with_a_server_named_in_params(
    project: Path, capsys: pytest.CaptureFixture[str], serve: Callable[..., JudgeServer]
) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    generator = {"kind": "server", "model": "judge-1", "url": serve().url, "price_prompt": 1.0}
    values["judge"]["chats"] = {"mine": {"template": "refusal3", "generator": generator}}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    text = _run(capsys, "run", "--judge", "mine", "--method", "base")
    assert (
        "mine: tiny-llama/base: 3 replies, 0 without a verdict (0 malformed, 0 blocked, 0 overlong)" in text
    )
    assert '"cost": 0.0003' in text
    assert (project / "out/cache/verdicts.sqlite").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "--judge", "refusal-prefx"), "unknown judge 'refusal-prefx'; known: "),
        (("run", "--model", "tiny-lama"), "did you mean 'tiny-llama'"),
        (
            ("run", "--benchmark", "xstest"),
            "nothing to read in benchmark 'xstest'; known: drirl_tiny_harmful",
        ),
        (("run", "--judge", "degenerate-rules"), "no benchmark there for a judge of kind 'degenerate'"),
        (("agreement",), "set DRIRL_DATA"),
        (("agreement", "--labels", "none.csv"), "none.csv: no such file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], expected: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in _run(capsys, *arguments, status=2)


def test_sheet_and_its_agreement(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys, "sheet", "hand.csv")
    assert text.startswith(
        "3 replies are in hand.csv: write full_refusal or partial_refusal or full_compliance"
    )
    with Path("hand.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["verdict"] = "full_compliance" if row["reply"] == "Take it." else "full_refusal"
    with Path("hand.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = json.loads(_run(capsys, "agreement", "--judge", "refusal-prefix", "--labels", "hand.csv"))
    assert found["judges"][0]["measures"]["accuracy"]["value"] == 1.0
    both = _run(capsys, "agreement", "--labels", "hand.csv", "--labels", "hand.csv")
    assert json.loads(both)["people"]["kappa"] == 1.0


def test_agreement_with_people(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / "real" / FOLDER / "annotated_response_One.csv"
    path.parent.mkdir(parents=True)
    path.write_text(
        "id,question,response,harmful,action\n"
        "1,q,I can't help with that.,0,0\n3,q,Take it.,0,5\n2,q,I can't help.,0,0\n4,q,Take it.,1,5\n"
    )
    monkeypatch.setenv("DRIRL_DATA", str(project / "real"))
    text = _run(capsys, "agreement")
    assert "refusal-rules/1: 4 replies, 0 without a verdict (0 malformed)" in text
    page = (project / "reports" / "judges.md").read_text()
    assert "At least 0.90 on odd ids was asked for: reached." in page
    assert str(project) not in page
    assert (project / "reports" / "judges.csv").is_file()
    sheet = _run(capsys, "sheet", "people.csv", "--do-not-answer", "--count", "2")
    assert sheet.startswith("2 replies are in people.csv")
