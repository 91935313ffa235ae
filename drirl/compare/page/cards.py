"""Cards of the methods: what the docstring of a baseline says, and its parameters."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from drirl.config import Params
from drirl.errors import DrirlError

__all__ = ["Card", "cards", "read_docstring"]


@dataclass(frozen=True)
class Card:
    """One method as the page shows it.

    Attributes:
        name: file name in baselines/, without .py.
        summary: first line of the docstring; says so if there is no such file.
        blocks: ("text" | "formula", text) in the order of the docstring.
        labelled: text by label: Equations, Paper, Deviations.
        link: address of the paper, https only; "" if there is none.
        parameters: (name, value, description).
    """

    name: str
    summary: str
    blocks: tuple[tuple[str, str], ...] = ()
    labelled: dict[str, str] = field(default_factory=dict)
    link: str = ""
    parameters: tuple[tuple[str, str, str], ...] = ()


def cards(params: Params, names: Sequence[str], folder: Path) -> list[Card]:
    """Return the card of each method in ``names``, from its file in ``folder`` and its section."""
    from drirl.align.interface import find_method, known_methods, parse_config

    found = []
    for name in names:
        if name not in known_methods(folder):
            found.append(Card(name, f"There is no file baselines/{name}.py."))
            continue
        method = find_method(name, folder)
        text = inspect.getdoc(inspect.getmodule(method.train)) or ""
        summary, blocks, labelled = read_docstring(text.replace("``", ""))
        try:
            config = parse_config(method, params.align.methods.get(name) or {})
        except DrirlError:
            parameters: tuple[tuple[str, str, str], ...] = ()  # recorded with other parameters than today's
        else:
            parameters = tuple(_parameters(config))
        link = method.paper if method.paper.startswith("https://") else ""
        found.append(Card(name, summary, tuple(blocks), labelled, link, parameters))
    return found


def read_docstring(text: str) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
    """Split a docstring into its first line, its paragraphs and formulas, and its labelled paragraphs.

    An indented paragraph is a formula and keeps its lines. A line that starts with ``Word:`` in the last
    paragraphs starts a labelled one.
    """
    summary, _, rest = text.strip().partition("\n")
    blocks: list[tuple[str, str]] = []
    labelled: dict[str, str] = {}
    for paragraph in rest.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        if not lines:
            continue
        if all(line.startswith("    ") for line in lines):
            text = inspect.cleandoc("\n".join(["", *lines]))
            if blocks and blocks[-1][0] == "formula":
                blocks[-1] = ("formula", f"{blocks[-1][1]}\n\n{text}")
            else:
                blocks.append(("formula", text))
            continue
        label = ""
        for line in lines:
            word, colon, after = line.partition(":")
            if colon and word in ("Equations", "Paper", "Deviations", "Source"):
                labels = [word] if ". Paper:" not in after else ["Equations", "Paper"]
                pieces = [after] if len(labels) == 1 else after.split(". Paper:", 1)
                for label, piece in zip(labels, pieces, strict=True):
                    labelled[label] = piece.strip()[:1].upper() + piece.strip()[1:]
            elif label:
                labelled[label] += " " + line.strip()
            elif blocks and blocks[-1][0] == "open":
                blocks[-1] = ("open", f"{blocks[-1][1]} {line.strip()}")
            else:
                blocks.append(("open", line.strip()))
        blocks = [("text", block[1]) if block[0] == "open" else block for block in blocks]
    return summary.strip(), blocks, labelled


def _parameters(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, about in type(section).model_fields.items():
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _parameters(value, f"{prefix}{name}.")
        else:
            plain = to_jsonable_python(value)
            text = plain if isinstance(plain, str) else json.dumps(plain)
            yield f"{prefix}{name}", text, about.description or ""
