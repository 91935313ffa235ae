"""Checks across files that no single section can make: ``drirl validate`` and ``drirl methods``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from drirl.config import Params, load_params, parse_params
from drirl.errors import DrirlError, nearest

__all__ = ["benchmark_names", "check_params", "check_project", "describe_methods"]


_NAME = r"\s*['\"]?([\w.-]+)['\"]?\s*(?:#.*)?$"


def describe_methods(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield ``(name, first docstring line, paper link)`` of every method file, without importing it.

    Raises:
        DrirlError: a file that is not valid Python (with its line).
    """
    from drirl.align.interface import known_methods

    for name in known_methods(folder):
        path = Path(folder) / f"{name}.py"
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise DrirlError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from None
        paper = ""
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            named = [target.id for target in targets if isinstance(target, ast.Name)]
            if "PAPER" in named and isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                paper = str(node.value.value)
        yield name, (ast.get_docstring(tree) or "").split("\n", 1)[0], paper


def benchmark_names(folder: Path) -> dict[str, list[str]]:
    """Return the task and group names that the YAML files under ``folder`` define, sorted: each with the
    tasks of the group, none for a task.
    """
    names: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if group := re.search(rf"^group:{_NAME}", text, re.M):
            members = re.search(r"^task:\s*\[([^\]]*)\]", text, re.M)
            names[group[1]] = [name.strip(" '\"\n") for name in members[1].split(",")] if members else []
        elif task := re.search(rf"^task:{_NAME}", text, re.M):
            names[task[1]] = []
    return dict(sorted(names.items()))


def check_project(root: Path, profile: str | None = None) -> list[str]:
    """Check params.yaml (or a profile) and the files it names; return what was checked, one line each.

    Raises:
        DrirlError: the first mistake.
    """
    if profile is None:
        params, where = load_params(Path(root) / "params.yaml"), "params.yaml"
    else:
        from drirl.profiles import render

        where = f"profiles/{profile}.yaml"
        params = parse_params(render(profile, root), where)
        if params.run.profile != profile:
            raise DrirlError(f"{where}: run.profile: expected '{profile}', found '{params.run.profile}'")
    return check_params(params, Path(root), where)


def check_params(
    params: Params, root: Path, where: str = "params.yaml", *, stage: str | None = None
) -> list[str]:
    """Check every method's section against its Config, and that tasks, model folders and data exist.

    Args:
        stage: about to run: methods that are not run, and folders that it does not read, are left out.
    """
    from drirl.align.interface import find_method, parse_config

    for name, values in params.align.methods.items():
        if stage is not None and name not in params.run.methods:
            continue
        parse_config(find_method(name, root / "baselines"), values, where)
    known = benchmark_names(root / "benchmarks")
    own = params.evaluate
    for key, tasks in (
        ("tasks", own.tasks),
        ("subset", own.subset),
        ("max_new_tokens_by_task", own.max_new_tokens_by_task),
    ):
        for task in tasks:
            if task not in known:
                hint = nearest(task, known)
                raise DrirlError(f"{where}: evaluate.{key}: no task or group '{task}' in benchmarks/; {hint}")
            if key != "tasks" and known[task]:
                raise DrirlError(
                    f"{where}: evaluate.{key}: '{task}' is a group; name its tasks instead: "
                    f"{', '.join(known[task])}"
                )
    for name in params.run.models if stage in (None, "base") else ():
        spec = params.base.models[name]
        if (spec.path is None) == (spec.train is None):
            raise DrirlError(f"{where}: base.models.{name}: give either 'path' or 'train'")
        if (
            spec.path
            and spec.path.startswith((".", "/", "~"))
            and not (root / Path(spec.path).expanduser()).is_dir()
        ):
            raise DrirlError(f"{where}: base.models.{name}.path: no folder {spec.path}")
        folder = root / Path(spec.path or "").expanduser()
        if spec.path and folder.is_dir() and not (folder / "config.json").is_file():
            raise DrirlError(
                f"{where}: base.models.{name}.path: {spec.path} is not a transformers folder: there is no "
                "config.json in it"
            )
    if stage in (None, "data"):
        _check_kinds(params, where)
    if stage in (None, "reward"):
        _check_iterations(params, where)
    reads = stage in (None, "data", "evaluate")
    if reads and params.data.root and not (root / params.data.root).is_dir():
        raise DrirlError(
            f"{where}: data.root: no folder '{params.data.root}'; set DRIRL_DATA to the folder of data files"
        )
    cells = len(params.run.models) * len(params.run.methods)
    return [
        f"{where}: valid, profile '{params.run.profile}'",
        f"models: {', '.join(params.run.models)}",
        f"methods: {', '.join(params.run.methods)} ({len(params.align.methods)} sections checked)",
        f"seeds: {', '.join(map(str, params.run.seeds))}; {cells} cells",
        f"tasks: {', '.join(params.evaluate.tasks)}",
    ]


def _check_kinds(params: Params, where: str) -> None:
    """Raise a DrirlError if prompts of a kind are asked for that no source has."""
    from drirl.data.sources import SOURCES

    own = params.data
    if any(name.endswith(".jsonl") for name in own.sources):
        return  # a file of one's own may hold every kind
    for kind, key, counts in (("contrast", "contrast", own.contrast), ("task", "tasks", own.tasks)):
        givers = [name for name, source in SOURCES.items() if kind in getattr(source, "kinds", ())]
        if counts.train and not set(givers) & set(own.sources):
            raise DrirlError(
                f"{where}: data.{key}.train is {counts.train}, but none of data.sources gives "
                f"prompts of the kind "
                f"'{kind}'; add one of {', '.join(givers)}, or set the counts of data.{key} to 0"
            )


def _check_iterations(params: Params, where: str) -> None:
    """Raise a DrirlError if the outer loop of the rewards is asked for without what it does."""
    own = params.reward
    if own.update == "none" and own.iterations > 1:
        raise DrirlError(
            f"{where}: reward.update is none, so the policy does not move and reward.iterations has to be 1, "
            f"found {own.iterations}"
        )
    if own.update == "reweight" and own.iterations > 1 and own.samples < 2:
        raise DrirlError(
            f"{where}: reward.update is reweight: one sample has nothing to be weighed against; "
            "set reward.samples to 2 or more"
        )
