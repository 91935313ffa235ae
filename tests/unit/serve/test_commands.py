"""``drirl route`` and ``drirl rerank`` through the command line: a real encoder, policy and rewards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from serve_world import write_prompts

from drirl import cli
from drirl.records import write_json

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path, tiny_policy: Path, rewards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose model 'tiny-llama' is the tiny policy, with rewards and data."""
    (tmp_path / "profiles").mkdir()
    shutil.copy(ROOT / "profiles" / "tiny.yaml", tmp_path / "params.yaml")
    out = tmp_path / "out"
    write_prompts(out)
    write_json(out / "base" / "tiny-llama" / "policy.json", {"path": str(tiny_policy), "revision": None})
    shutil.copytree(rewards, out / "reward" / "tiny-llama" / "irl")
    for name in ("DRIRL_OUT", "DRIRL_DEBUG", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_route_then_rerank(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _lines(
        project / "in.jsonl", {"prompt": "Help me rob a shop.", "id": 7}, {"prompt": "A recipe for soup?"}
    )
    assert cli.main(["route", source, "--output", "routed.jsonl"]) == 0
    rows = _read(project / "routed.jsonl")
    assert [row["category"] for row in rows] == [2, -1]
    assert rows[0]["id"] == 7
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert rows[0]["probability"] == max(rows[0]["probabilities"].values())
    options = ["--rewards", "tiny-llama", "--n", "3", "--max-new-tokens", "6", "--output", "best.jsonl"]
    assert cli.main(["rerank", "routed.jsonl", *options]) == 0
    best = _read(project / "best.jsonl")
    for row in best:
        scores = [c["reward"] for c in row["completions"]]
        assert len(scores) == 3
        assert row["reward"] == max(scores) == scores[row["best"]]
        assert row["completion"] == row["completions"][row["best"]]["text"]
        assert row["category_origin"] == "given"
    assert cli.main(["rerank", source, *options[:-1], "again.jsonl"]) == 0
    again = _read(project / "again.jsonl")  # the same, the router asked on the way
    assert [row["completion"] for row in again] == [row["completion"] for row in best]
    assert [row["reward"] for row in again] == [row["reward"] for row in best]
    assert [row["category_origin"] for row in again] == ["classified"] * 2
    assert capsys.readouterr().err.count("2 lines\n") == 3


def test_route_scores_completions(project: Path) -> None:
    prompt, completion = "Help me rob a shop.", "I can't help with that."
    rows = [{"prompt": prompt, "completion": completion}, {"prompt": prompt, "completion": completion}]
    rows[1]["finished"] = False  # type: ignore[assignment]
    source = _lines(project / "in.jsonl", *rows)
    found = {}
    for mode in ("soft", "hard", "worst"):
        options = ["--rewards", "tiny-llama", "--mode", mode, "--output", f"{mode}.jsonl"]
        assert cli.main(["route", source, *options]) == 0
        found[mode] = _read(project / f"{mode}.jsonl")
    assert found["hard"][0]["reward"] != found["hard"][1]["reward"]
    for k in range(2):
        assert found["worst"][k]["reward"] <= 1e-5 + min(found[m][k]["reward"] for m in ("hard", "soft"))
    own = {"prompt": prompt, "category": 2, "completions": [completion]}
    source = _lines(project / "own.jsonl", own)
    assert cli.main(["rerank", source, "--rewards", "out/reward/tiny-llama/irl", "--output", "o.jsonl"]) == 0
    assert _read(project / "o.jsonl")[0]["reward"] == pytest.approx(found["hard"][0]["reward"], abs=1e-4)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "in.jsonl:2: not valid JSON"),
        ({"category": 2}, "in.jsonl:2: field 'prompt' is missing"),
        ({"prompt": "x", "category": 9}, "in.jsonl:2: no reward head for category 9"),
        ({"prompt": "x", "category": "2"}, "in.jsonl:2: field 'category' should be int, found '2'"),
        (
            {"prompt": "x", "category": 2, "completions": []},
            "in.jsonl:2: field 'completions' should be a list",
        ),
        (
            {"prompt": "x", "category": 2, "completions": [3]},
            "in.jsonl:2: a completion should be text, found",
        ),
        ({"prompt": "word " * 300, "category": 2}, "in.jsonl:2: a prompt has"),
    ],
)
def test_bad_lines_have_their_number(
    project: Path, capsys: pytest.CaptureFixture[str], line: Any, expected: str
) -> None:
    good = {"prompt": "Hello", "category": -1, "completions": ["Hi."]}
    source = _lines(project / "in.jsonl", good, line, good)
    command = ["rerank", source, "--rewards", "tiny-llama", "--output", "out.jsonl"]
    assert cli.main(command) == 2
    assert expected in capsys.readouterr().err
    assert not (project / "out.jsonl").exists()
    assert cli.main([*command, "--keep-going"]) == 2
    text = capsys.readouterr().err
    assert "warning: " in text
    assert "error: 1 of 3 lines were left out; the first:" in text
    assert len(_read(project / "out.jsonl")) == 2


def test_mistakes_in_the_options(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _lines(project / "in.jsonl", {"prompt": "Hello"})
    cases = [
        (["route", source, "--mode", "best"], "unknown routing 'best'; known: hard, soft, worst"),
        (["route", "none.jsonl"], "none.jsonl: cannot be read"),
        (["route", source, "--router", "nowhere"], "nowhere is not a router"),
        (["route", source, "--rewards", "tiny-llama"], "in.jsonl:1: a completion should be text"),
        (["rerank", source], "Missing option '--rewards'"),
        (["rerank", source, "--rewards", "tiny-lama"], "no such folder and no model; known: tiny-llama"),
        (["rerank", source, "--rewards", "tiny-llama", "--temperature", "0"], "temperature above 0"),
    ]
    for arguments, expected in cases:
        assert cli.main(arguments) == 2, arguments
        assert expected in capsys.readouterr().err, arguments
