"""Streaming JSON lines: a file or standard input in, a file or standard output out, bad lines named."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from drirl.errors import DrirlError
from drirl.records import atomic_write

__all__ = ["Line", "Summary", "stream", "text_of"]

STANDARD = "-"


@dataclass(frozen=True)
class Line:
    """One input object and where it stood (``file:line``)."""

    where: str
    value: dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """How many lines were written, and the complaints about the others."""

    written: int
    bad: list[str]


Check = Callable[[Line], None]
Work = Callable[[Sequence[Line]], list[dict[str, Any]]]


def stream(
    source: str,
    target: str,
    check: Check,
    work: Work,
    *,
    batch: int = 32,
    keep_going: bool = False,
) -> Summary:
    """Read objects from ``source`` in batches, write what ``work`` makes of them to ``target``, in order.

    No more than one batch is held. Standard output is flushed after every batch; a file appears when all
    lines are done. Blank lines are skipped.

    Args:
        source, target: a path, or "-" for standard input or output.
        check: raises :class:`DrirlError` on a line it does not want.
        work: gives one object per line of a batch.
        keep_going: report a bad line on standard error and leave it out, instead of stopping at it.
    Raises:
        DrirlError: no such file; without ``keep_going``, a line that is not a JSON object or that
            ``check`` refuses, with its number.
    """
    bad: list[str] = []
    written = 0
    with _reading(source) as (name, lines), _writing(target) as out:
        for group in _batches(lines, name, check, bad if keep_going else None, batch):
            for value in work(group):
                out.write(_dumped(value) + "\n")
                written += 1
            out.flush()
    return Summary(written, bad)


def text_of(line: Line, field: str) -> str:
    """Return the text in ``field``.

    Raises:
        DrirlError: the field is missing, no text, or empty.
    """
    value = line.value.get(field)
    if value is None:
        found = ", ".join(sorted(line.value)) or "nothing"
        raise DrirlError(f"{line.where}: field '{field}' is missing; the line has {found}")
    if not isinstance(value, str):
        raise DrirlError(f"{line.where}: field '{field}' should be text, found {type(value).__name__}")
    if not value.strip():
        raise DrirlError(f"{line.where}: field '{field}' is empty")
    return value


def _batches(
    lines: Iterator[bytes], name: str, check: Check, bad: list[str] | None, size: int
) -> Iterator[list[Line]]:
    """Yield checked lines; a bad one ends it (what stood before comes first), or ``bad`` collects it."""
    group: list[Line] = []
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            line = _parse(raw, f"{name}:{number}")
            check(line)
        except DrirlError as problem:
            if bad is None:
                if group:
                    yield group
                raise
            bad.append(str(problem))
            print(f"warning: {problem}", file=sys.stderr)
            continue
        group.append(line)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _parse(raw: bytes, where: str) -> Line:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DrirlError(f"{where}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise DrirlError(f"{where}: not valid JSON: {error.msg}") from None
    if not isinstance(value, Mapping):
        raise DrirlError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return Line(where, dict(value))


def _dumped(value: dict[str, Any]) -> str:
    """Return one line of JSON; half a surrogate pair stays the escape it came as."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def _reading(source: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    if source == STANDARD:
        yield "stdin", iter(sys.stdin.buffer)
        return
    path = Path(source)
    try:
        handle = path.open("rb")
    except OSError as error:
        raise DrirlError(f"{path}: cannot be read: {error.strerror or error}") from None
    with handle:
        yield str(path), iter(handle)


@contextlib.contextmanager
def _writing(target: str) -> Iterator[TextIO]:
    if target == STANDARD:
        yield sys.stdout
        return
    with atomic_write(Path(target)) as temporary, temporary.open("w", encoding="utf-8") as handle:
        yield handle
