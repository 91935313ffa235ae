"""A stage names all code that its result can depend on, so that a change reruns it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.align.stage import CODE

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ARMS: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "dvc.yaml").read_text())["stages"]
DISPATCH = ("drirl/experiments/run.py", "drirl/experiments/plan.py")
"""Which arm is what: they import every stage, and arms.yaml is a parameter."""
WITHOUT_RESULT = {"__init__.py", "config.py", "errors.py", "resources.py", "settings.py"}
"""Files whose changes show in the parameters, in messages or in costs only; ``*settings.py`` of rooms too."""


def _module(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((p for p in found if p.is_file()), None)


def _imports(path: Path) -> Iterator[Path | None]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drirl"):
            for name in node.names:
                yield _module(f"{node.module}.{name.name}") or _module(str(node.module))
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("drirl"):
                    yield _module(name.name)


def _closure(starts: list[Path], without: tuple[str, ...] = ()) -> set[str]:
    """Return what ``starts`` import, directly or not; not ``without`` and what comes by it alone."""
    seen: set[Path] = set()
    waiting: list[Path | None] = [*starts]
    while waiting:
        path = waiting.pop()
        if path is not None and path not in seen and not path.as_posix().endswith(without):
            seen.add(path)
            waiting += _imports(path)
    return {p.relative_to(ROOT).as_posix() for p in seen}


def _missing(files: set[str], deps: list[str]) -> list[str]:
    named = {f for f in files if any(f == dep or f.startswith(f"{dep}/") for dep in deps)}
    rest = (f for f in files - named if f.startswith("drirl/"))
    return sorted(f for f in rest if Path(f).name not in WITHOUT_RESULT and not f.endswith("_settings.py"))


@pytest.mark.parametrize("stage", ["data", "base", "reward", "align", "evaluate"])
def test_a_stage_depends_on_all_it_imports(stage: str) -> None:
    starts = [ROOT / "drirl" / stage / "stage.py"]
    if stage == "align":
        starts += sorted((ROOT / "baselines").glob("*.py"))
    if stage == "evaluate":
        starts += sorted((ROOT / "benchmarks").rglob("*.py"))
    assert _missing(_closure(starts), STAGES[stage]["deps"]) == []


@pytest.mark.parametrize(
    ("stage", "starts", "without"),
    [
        ("data-variants", ["experiments/variants"], ()),
        ("reward-learning", ["reward/stage"], ()),
        ("arms-table1", ["align/stage", "evaluate/stage", "experiments/jobs"], ()),
        ("rescored-table4", ["evaluate/stage", "experiments/jobs"], ("drirl/align/stage.py",)),
        # of evaluate, the records alone: no cache of scores, no generation through lm-eval
        ("attacked-table4b", ["attack/stage"], ("evaluate/cache.py", "evaluate/policy_lm.py")),
        ("routed-q07", ["experiments/methods/dr_irl", "experiments/routed_trainer"], ()),
        # routing.py also trains routed arms; the classifier alone counts here
        ("routes", ["serve/router"], ()),
        ("grid", ["experiments/grid"], ()),
        ("cross", ["experiments/cross"], ()),
        ("scoring", ["experiments/scoring"], ()),
    ],
)
def test_a_stage_of_an_experiment_does_too(stage: str, starts: list[str], without: tuple[str, ...]) -> None:
    files = _closure([ROOT / "drirl" / f"{name}.py" for name in starts], (*DISPATCH, *without))
    assert _missing(files, ARMS[stage]["deps"]) == []


def test_a_forgotten_file_is_found() -> None:
    files = _closure([ROOT / "drirl" / "reward" / "stage.py"])
    deps = [dep for dep in STAGES["reward"]["deps"] if dep != "drirl/packs.py"]
    assert _missing(files, deps) == ["drirl/packs.py"]


def test_a_seed_is_hashed_with_the_code_of_its_stage() -> None:
    listed = [dep for dep in STAGES["align"]["deps"] if dep.startswith("drirl/")]
    assert sorted(f"drirl/{part}" for part in CODE) == sorted(listed)
