"""How often the test split was looked at, kept by hand in docs/test_looks.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from drirl.compare.names import escape
from drirl.compare.texts import table
from drirl.errors import DrirlError

__all__ = ["Look", "load_looks", "looks_section"]


@dataclass(frozen=True)
class Look:
    """One time the test split was looked at."""

    date: str
    commit: str
    why: str


def load_looks(path: Path) -> tuple[Look, ...] | None:
    """Read how often the test split was looked at; None if the file does not exist.

    Raises:
        DrirlError: not a list of entries with date, commit and why.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DrirlError(f"{path}{line}: not valid YAML; expected a list of date, commit, why") from None
    looks = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        if not isinstance(entry, dict) or set(entry) != {"date", "commit", "why"}:
            raise DrirlError(f"{path}: entry {number}: expected the keys date, commit and why")
        looks.append(Look(str(entry["date"]), str(entry["commit"]), str(entry["why"])))
    return tuple(looks)


def looks_section(looks: tuple[Look, ...] | None) -> str:
    """Return the section on how often the test split was looked at."""
    text = "## How often the test split was looked at\n\n"
    if looks is None:
        return text + "No record is kept (`docs/test_looks.yaml` is missing)."
    times = {0: "Not yet.", 1: "Once."}.get(len(looks), f"{len(looks)} times.")
    if not looks:
        return text + times
    lines = [[escape(look.date), escape(look.commit), escape(look.why)] for look in looks]
    return f"{text}{times}\n\n" + table(["Date", "Commit", "Why"], lines)
