"""docs/paper.md points to things that exist: files, functions and classes in them, parameters."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:drirl|baselines|benchmarks|tests)/[\w/]+\.py)(?::\w+)?`", TEXT)))
NAMES = sorted(set(re.findall(r"`((?:drirl|baselines|benchmarks)/[\w/]+\.py):(\w+)`", TEXT)))
PARAMETERS = sorted(set(re.findall(r"`((?:run|data|base|reward|align|evaluate|compare)\.[\w.]+)`", TEXT)))


def _values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))


def test_the_table_is_read() -> None:
    assert len(FILES) > 30
    assert len(NAMES) > 40
    assert len(PARAMETERS) > 30


@pytest.mark.parametrize("path", FILES)
def test_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_name_is_defined_in_its_file(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_parameter_is_in_the_default_profile(parameter: str) -> None:
    value: Any = _values()
    for part in parameter.split("."):
        assert part in value, f"{parameter}: no '{part}'"
        value = value[part]


TARGETS = sorted(set(re.findall(r"`dvc repro ([\w./:@-]+)", TEXT)))
COMMANDS = sorted(set(re.findall(r"`drirl ([a-z][a-z ]*[a-z])", TEXT)))


@pytest.mark.parametrize("target", TARGETS)
def test_target_is_a_stage(target: str) -> None:
    path, _, name = target.rpartition(":")
    stages = yaml.safe_load((ROOT / (path or "dvc.yaml")).read_text(encoding="utf-8"))["stages"]
    stage, _, cell = name.partition("@")
    assert stage in stages
    assert bool(cell) == ("matrix" in stages[stage])


@pytest.mark.parametrize("words", COMMANDS)
def test_command_exists(words: str) -> None:
    from typer.main import get_command

    from drirl.cli import app

    command: Any = get_command(app)
    for word in words.split():
        commands = getattr(command, "commands", None)
        if commands is None:  # an argument
            break
        assert word in commands, f"drirl {words}: no command '{word}'"
        command = commands[word]


def test_hardness_parameters_exist() -> None:
    section = TEXT[TEXT.index("## 5.") : TEXT.index("## 6.")]
    cells = [
        row.split("|")[5] for row in section.splitlines() if row.count("|") == 6 and row[2] in "123456789 "
    ]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert len(named) > 12
    assert named <= set(_values()["align"]["methods"]["dr_irl"]["hardness"])


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
