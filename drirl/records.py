"""Typed records that stages exchange, and atomic reading and writing of them.

Every record is one JSON object with ``schema_version``. Files are written to a temporary neighbour and
moved into place, so a reader never sees half a file and an interrupted stage leaves the old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from drirl.errors import DrirlError

__all__ = [
    "BENIGN",
    "SCHEMA_VERSION",
    "Demo",
    "EvalItem",
    "Pair",
    "Prompt",
    "RewardModelRecord",
    "RolloutGroup",
    "RunRecord",
    "atomic_dir",
    "atomic_write",
    "prompt_id",
    "read_json",
    "read_jsonl",
    "write_json",
    "write_jsonl",
]

SCHEMA_VERSION = 1
BENIGN = -1
"""Category of benign prompts; harmful prompts carry 0..6 (see ``drirl.data.taxonomy``)."""


@dataclass(frozen=True)
class Prompt:
    """One user message with its origin.

    ``kind`` is harmful, benign, contrast (benign, shares words with harmful prompts) or task (benign with
    a checkable ``reference``). ``level`` is direct, paraphrased or disguised. ``intent`` names the act
    asked for and ``cluster_id`` numbers it; splits and intervals go by cluster. ``wording`` names the
    sentence frame. ``novelty`` says what is unseen in training: any of intent, wording (a comma list).
    """

    prompt_id: str
    text: str
    category: int
    split: str
    kind: str = "harmful"
    level: str = "direct"
    intent: str = ""
    wording: str = ""
    novelty: str = ""
    reference: str = ""
    checker: str = ""
    lang: str = "en"
    source: str = ""
    source_id: str = ""
    source_label: str = ""
    category_origin: str = "mapped"
    weak_map: bool = False
    cluster_id: int = -1
    synthetic: bool = False
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Demo:
    """One safe (or, for benign prompts, helpful) demonstration in Chain-of-Draft form."""

    demo_id: str
    prompt_id: str
    category: int
    drafts: list[str]
    answer: str
    full_text: str
    verdict: str
    generator: str
    template_id: str
    n_tok_draft: int = 0
    n_tok_answer: int = 0
    filters: dict[str, bool] = field(default_factory=dict)
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Pair:
    """A demonstration set against one negative, for reward learning."""

    pair_id: str
    prompt_id: str
    category: int
    demo_id: str
    negative: str
    policy_id: str
    irl_iter: int
    temperature: float
    weight: float
    neg_kind: str = "sample"
    finished: bool = True
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class RewardModelRecord:
    """What one category reward is: its base, its calibration and its held-out figures."""

    rm_id: str
    category: int | str
    base: str
    irl_iter: int
    mu: float
    scale: float
    input_mode: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class RolloutGroup:
    """One prompt's group of G completions in one update, with the hardness factors used."""

    step: int
    prompt_id: str
    category: int
    completions: list[str]
    r_gen: list[float]
    r_demo: float | None
    delta: list[float]
    gap: list[float]
    mask: list[int]
    alpha_D: float  # noqa: N815
    alpha_M: float  # noqa: N815
    alpha: float
    adv: list[float]
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class EvalItem:
    """One prompt scored on one policy: ``value`` is the score of ``metric`` (None when it is missing)."""

    run_id: str
    method: str
    model: str
    seed: int
    benchmark: str
    item_id: str
    prompt: str
    response: str
    metric: str
    value: float | None
    judge: str
    category: int = BENIGN
    kind: str = ""
    level: str = ""
    cluster: str = ""
    novelty: str = ""
    finished: bool = True
    decode: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class RunRecord:
    """One (model, method, seed, benchmark, metric) result and what produced it; no wall times in here."""

    run_id: str
    method: str
    model: str
    seed: int
    benchmark: str
    metric: str
    higher_is_better: bool
    value: float | None
    stderr: float | None
    n: int
    judge: str
    task_version: str
    decode: dict[str, Any]
    policy_hash: str
    template_hash: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    schema_version: int = SCHEMA_VERSION


R = TypeVar("R")


def prompt_id(text: str) -> str:
    """Return a stable id: a hash of the text, lower-cased and with white space collapsed."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:16]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DrirlError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)  # some writers leave 0600
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise DrirlError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as temporary:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        temporary.write_text(_unicode(text) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or malformed one is a :class:`DrirlError`."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file; run the stage that writes it ('dvc repro')") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DrirlError(f"{path}: not valid JSON: {error}") from None


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write dataclass instances or plain dicts, one JSON object a line, atomically; return how many."""
    count = 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for record in records:
            value = record if isinstance(record, dict) else dataclasses.asdict(record)
            handle.write(_unicode(json.dumps(value, ensure_ascii=False, sort_keys=True)) + "\n")
            count += 1
    return count


_SURROGATE = re.compile("[\ud800-\udfff]")


def _unicode(text: str) -> str:
    """Return ``text`` with U+FFFD for halves of surrogate pairs: a reply may be cut inside a character."""
    return _SURROGATE.sub("\ufffd", text)


@typing.overload
def read_jsonl(path: Path, cls: type[R]) -> list[R]: ...
@typing.overload
def read_jsonl(path: Path, cls: None = None) -> list[dict[str, Any]]: ...


def read_jsonl(path: Path, cls: type[R] | None = None) -> list[R] | list[dict[str, Any]]:
    """Read JSON lines as ``cls`` instances (or dicts); errors name the file and the line.

    Raises:
        DrirlError: missing file, invalid JSON, a missing or unknown field, a value of the wrong type.
    """
    path = Path(path)
    rows: list[Any] = []
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DrirlError(f"{path}:{number}: not valid JSON: {error.msg}") from None
                if not isinstance(value, dict):
                    raise DrirlError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
                rows.append(value if cls is None else _construct(cls, value, f"{path}:{number}"))
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file; run the stage that writes it ('dvc repro')") from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None
    return rows


@dataclasses.dataclass(frozen=True)
class _Field:
    """How a field is checked: ``types`` are those of its JSON values, None if anything may stand there."""

    name: str
    types: frozenset[type] | None
    expected: str
    required: bool


_FIELDS: dict[type, tuple[frozenset[str], tuple[_Field, ...]]] = {}


def _fields(cls: type) -> tuple[frozenset[str], tuple[_Field, ...]]:
    """Return the names and the fields of a record class, looked up once."""
    if cls in _FIELDS:
        return _FIELDS[cls]
    hints = typing.get_type_hints(cls)
    found = []
    for spec in dataclasses.fields(cls):
        hint = hints[spec.name]
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        expected = getattr(hint, "__name__", str(hint))
        found.append(_Field(spec.name, _types(hint), expected, required))
    _FIELDS[cls] = frozenset(spec.name for spec in found), tuple(found)
    return _FIELDS[cls]


def _construct(cls: type[R], value: dict[str, Any], where: str) -> R:
    names, fields = _fields(cls)
    version = value.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION and "schema_version" in names:
        raise DrirlError(
            f"{where}: schema version {version}, this drirl reads {SCHEMA_VERSION}; "
            "rerun the stage that wrote the file"
        )
    if not value.keys() <= names:
        raise DrirlError(f"{where}: unknown field '{min(value.keys() - names)}' for a {cls.__name__} record")
    for spec in fields:
        if spec.name in value:
            if spec.types is not None and type(value[spec.name]) not in spec.types:
                found = type(value[spec.name]).__name__
                raise DrirlError(f"{where}: field '{spec.name}' should be {spec.expected}, found {found}")
        elif spec.required:
            raise DrirlError(f"{where}: field '{spec.name}' is missing from a {cls.__name__} record")
    return cls(**value)


def _types(hint: Any) -> frozenset[type] | None:
    """Return the types that a JSON value of a field may have; a float may be written as an integer."""
    if hint is Any:
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [_types(option) for option in typing.get_args(hint)]
        return None if None in options else frozenset().union(*(o for o in options if o is not None))
    if hint is float:
        return frozenset({float, int})
    return frozenset({origin or hint})
