"""The one exception type whose text is meant for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DrirlError", "nearest"]


class DrirlError(Exception):
    """A mistake in the input: one line that says what was expected, where, and how to mend it.

    The command line prints the text without a traceback and exits with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``known: a, b, c; did you mean b?`` for an error about an unknown ``name``."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"known: {', '.join(known) or '(none)'}{hint}"
