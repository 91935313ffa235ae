"""``drirl evaluate`` and ``drirl export`` on the command line: what is passed on, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl import cli
from drirl.evaluate import served, stage
from drirl.records import RunRecord, write_jsonl

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _inside_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRIRL_OUT", "DRIRL_DEBUG", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)


def test_several_models_are_passed_on_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")

    def paths(params: Any, **values: Any) -> list[Path]:
        seen.update(values)
        return [values["output"] / "a", values["output"] / "b"]

    monkeypatch.setattr(stage, "evaluate_paths", paths)
    models = ["--model", str(tmp_path / "a"), "--model", str(tmp_path / "b")]
    assert (
        cli.main(["evaluate", *models, "--tasks", "xstest,drirl_tiny", "--output", str(tmp_path / "o")]) == 0
    )
    assert seen == {
        "models": [str(tmp_path / "a"), str(tmp_path / "b")],
        "tasks": ["xstest", "drirl_tiny"],
        "output": tmp_path / "o",
    }
    assert f"records are in {tmp_path / 'o' / 'b'}" in capsys.readouterr().out


def test_a_server_and_its_options_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(served, "evaluate_served", lambda params, **values: seen.update(values))
    options = ["--key-env", "KEY", "--concurrency", "9", "--requests-per-minute", "30", "--timeout", "5"]
    command = ["evaluate", "--server", "http://h/v1", "--model", "o/m", "--retries", "1", *options]
    assert cli.main([*command, "--output", str(tmp_path)]) == 0
    assert seen == {
        "server": "http://h/v1",
        "model": "o/m",
        "tasks": ["drirl_tiny"],
        "output": tmp_path,
        "key_env": "KEY",
        "concurrency": 9,
        "requests_per_minute": 30.0,
        "timeout_s": 5.0,
        "retries": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["evaluate", "--server", "http://h/v1", "--model", "a", "--model", "b"],
            "give one model with --server",
        ),
        (["evaluate", "--model", " "], "--model: give one model"),
        (["evaluate", "--model", "m", "--server", "x", "--concurrency", "0"], "--concurrency"),
        (
            ["export", "--format", "lm-evl"],
            "unknown format 'lm-evl'; known: lm-eval, model-card; did you mean",
        ),
        (["export", "--records", "benchmarks"], "no run records there"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_export_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunRecord(
        "m/external/seed0", "external", "m", 0, "t", "acc", True, 0.5, None, 1, "j", "1.0", {}, "ab", "cd"
    )
    write_jsonl(tmp_path / "records" / "runs.jsonl", [run])
    where = ["--records", str(tmp_path / "records"), "--output", str(tmp_path / "x")]
    assert cli.main(["export", "--format", "lm-eval", *where]) == 0
    assert f"1 files are in {tmp_path / 'x'}" in capsys.readouterr().out
    path = tmp_path / "x" / "lm-eval" / "m" / "external" / "seed0" / "results_ab.json"
    assert json.loads(path.read_text())["results"]["t"]["acc,none"] == 0.5
