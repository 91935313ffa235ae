"""Reading data files row by row; every complaint names the file and the line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl.errors import DrirlError

__all__ = ["csv_rows", "data_root", "json_document", "json_rows", "text_field"]


def data_root(root: str, reader: str) -> Path:
    """Return the folder of real data files.

    Raises:
        DrirlError: data.root is empty, names an unset environment variable, or is no folder.
    """
    if not root:
        raise DrirlError(f"data.root is empty but '{reader}' needs files: set it to their folder")
    if "${" in root:
        name = root.partition("${")[2].partition("}")[0]
        raise DrirlError(
            f"data.root is '{root}' but the environment variable {name} is not set: "
            f"export {name}=<folder with the data files> and rerun"
        )
    path = Path(os.path.expanduser(root))
    if not path.is_dir():
        raise DrirlError(f"data.root: {path} is not a folder; '{reader}' looks for its files there")
    return path


def _open_error(path: Path, error: OSError) -> DrirlError:
    if isinstance(error, FileNotFoundError):
        return DrirlError(f"{path}: no such file; it is expected under data.root (see docs/data.md)")
    return DrirlError(f"{path}: cannot be read: {error.strerror or error}")


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``(file:line, row)`` of a CSV file with a header; ``columns`` must be there in every row.

    The line is the last one of the row (a field may hold line breaks). A byte-order mark is skipped.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            for name in columns:
                if name not in (reader.fieldnames or []):
                    found = ", ".join(reader.fieldnames or []) or "nothing"
                    raise DrirlError(f"{path}:1: column '{name}' is missing; the header has {found}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DrirlError(f"{where}: expected {len(reader.fieldnames or [])} fields in the row")
                yield where, row
    except OSError as error:
        raise _open_error(path, error) from None
    except csv.Error as error:
        raise DrirlError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file:line, object)`` of a JSON-lines file; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DrirlError(f"{path}:{number}: not valid JSON: {error.msg}") from None
                if not isinstance(value, dict):
                    raise DrirlError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
                yield f"{path}:{number}", value
    except OSError as error:
        raise _open_error(path, error) from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None


def json_document(path: Path) -> Any:
    """Return the value of a JSON file; a malformed one is an error with its line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _open_error(path, error) from None
    except json.JSONDecodeError as error:
        raise DrirlError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None


def text_field(row: Mapping[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    """Return the string ``row[name]``; a missing, wrong or (unless allowed) blank one is an error."""
    value = row.get(name)
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise DrirlError(f"{where}: field '{name}' should be text, found {found}")
    if not value.strip() and not empty:
        raise DrirlError(f"{where}: field '{name}' is empty")
    return value
