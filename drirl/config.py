"""Typed settings: ``params.yaml`` is the only place for values, and it is checked here once."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from drirl.align.settings import AlignSettings
from drirl.attack.settings import AttackSettings
from drirl.base.settings import BaseSettings
from drirl.compare.settings import CompareSettings
from drirl.data.settings import DataSettings
from drirl.errors import DrirlError, nearest
from drirl.evaluate.settings import EvaluateSettings
from drirl.judge.settings import JudgeSettings
from drirl.reward.settings import RewardSettings
from drirl.settings import Section

__all__ = ["Params", "RunSettings", "load_params", "parse_params", "project_root", "validate"]


class RunSettings(Section):
    """What is run: shared by every stage."""

    profile: str = Field(description="name of the profile these values came from")
    meaningful: bool = Field(True, description="false labels every table as a wiring check, not a result")
    models: list[str] = Field(min_length=1, description="names of sections under base.models")
    methods: list[str] = Field(min_length=1, description="file names in baselines/, without .py")
    seeds: list[int] = Field(min_length=1, description="one policy is trained per seed")
    seed: int = Field(0, description="seed of every step that is not repeated per seed")
    out: Path = Field(Path("out"), description="folder of the stage outputs")
    workers: int = Field(0, ge=0, description="processes side by side in a stage; 0: one per item")
    threads: int = Field(1, ge=1, description="threads of each process on a CPU")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models run")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="number format of the weights")


class Params(Section):
    """The whole of params.yaml."""

    run: RunSettings
    data: DataSettings
    base: BaseSettings
    reward: RewardSettings
    align: AlignSettings
    evaluate: EvaluateSettings
    attack: AttackSettings = AttackSettings()
    compare: CompareSettings
    judge: JudgeSettings = JudgeSettings()


def project_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above ``start`` that holds a params.yaml.

    Raises:
        DrirlError: if there is none.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise DrirlError(f"no params.yaml in {start} or above: run drirl inside a clone of the project")


def validate(values: Any, where: str = "params.yaml") -> Params:
    """Check plain values and return them typed; the first mistake becomes a one-line error."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise DrirlError(_explain(error, where)) from None
    for name in params.run.models:
        if name not in params.base.models:
            raise DrirlError(
                f"{where}: run.models: unknown model '{name}'; {nearest(name, params.base.models)}"
            )
    for name in params.run.methods:
        if name not in params.align.methods:
            raise DrirlError(
                f"{where}: run.methods: '{name}' has no section under align.methods; "
                f"{nearest(name, params.align.methods)}"
            )
    return params


def load_params(path: Path | None = None) -> Params:
    """Read and check params.yaml; ``${VAR}`` in a value is replaced by that environment variable."""
    path = Path(path) if path else project_root() / "params.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None
    return parse_params(text, str(path))


def parse_params(text: str, where: str) -> Params:
    """Check the text of a params.yaml; ``where`` names it in errors."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DrirlError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise DrirlError(f"{where}: expected a mapping of sections")
    return validate(_expand(values), Path(where).name)


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return os.path.expandvars(value) if isinstance(value, str) and "${" in value else value


def _explain(error: ValidationError, where: str) -> str:
    problems = error.errors()
    # A misspelt key also leaves the right one missing: name the misspelling.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return (
            f"{where}: unknown key '{key}'; {nearest(str(first['loc'][-1]), _known_keys(first['loc'][:-1]))}"
        )
    if first["type"] == "missing":
        return f"{where}: '{key}' is missing"
    more = len(problems) - 1
    tail = f" (and {more} more)" if more else ""
    return f"{where}: {key}: {first['msg']}, found {first['input']!r}{tail}"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the section at ``path``."""
    section: Any = Params
    for part in path:
        if typing.get_origin(section) in (dict, list):
            section = typing.get_args(section)[-1]
        else:
            field = getattr(section, "model_fields", {}).get(part)
            section = field.annotation if field else None
        if type(None) in typing.get_args(section):
            section = typing.get_args(section)[0]
    return list(getattr(section, "model_fields", {}))
