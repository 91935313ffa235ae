"""Where the base policy of a model lies: a folder trained by the stage, or a pointer to a hub id or path."""

from __future__ import annotations

from pathlib import Path

from drirl.errors import DrirlError
from drirl.records import read_json

__all__ = ["POINTER", "policy_path"]

POINTER = "policy.json"


def policy_path(out: Path, model: str) -> tuple[str, str | None]:
    """Return ``(path or hub id, revision or None)`` of the base policy ``model``.

    Raises:
        DrirlError: the stage ``base`` has not produced it.
    """
    folder = Path(out) / "base" / model
    pointer = folder / POINTER
    if pointer.is_file():
        value = read_json(pointer)
        return str(value["path"]), value.get("revision")
    if (folder / "config.json").is_file():
        return str(folder), None
    raise DrirlError(f"{folder}: no base policy there; run 'dvc repro base' (or 'drirl stage base') first")
