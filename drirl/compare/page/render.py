"""Put the page together: one file, no network, nothing in it run but its own script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from drirl.compare.names import MEANS, TRAINING
from drirl.compare.page.cards import Card
from drirl.compare.page.markdown import lead, sections
from drirl.compare.page.records import Archive, pack
from drirl.compare.page.tables import details, headline
from drirl.compare.report import Notes
from drirl.compare.tables import COLUMNS, DIFFERENCE_COLUMNS, Analysis
from drirl.records import atomic_write

__all__ = ["Figure", "render_page", "script_json", "write_page"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Figure:
    """A PNG file and what it shows, in words."""

    path: Path
    text: str


def write_page(
    path: Path,
    analysis: Analysis,
    notes: Notes,
    *,
    report: str,
    archive: Archive,
    figures: Sequence[Figure] = (),
    cards: Sequence[Card] = (),
) -> Path:
    """Write the page; return its path. See :func:`render_page`."""
    text = render_page(analysis, notes, report=report, archive=archive, figures=figures, cards=cards)
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def render_page(
    analysis: Analysis,
    notes: Notes,
    *,
    report: str,
    archive: Archive,
    figures: Sequence[Figure] = (),
    cards: Sequence[Card] = (),
) -> str:
    """Return the page as HTML; the same arguments give the same text.

    Args:
        report: text of comparison.md; what the page has no table for is taken from it.
        archive: the per-prompt records.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    level = round(1 - notes.confidence, 6)
    index = dict(archive.index)
    chunks = dict(archive.chunks)
    chunks["results"] = pack(_lines(COLUMNS, [row.cells() for row in analysis.rows]))
    differences = analysis.differences(notes.reference) if notes.reference in analysis.records.methods else []
    chunks["differences"] = pack(_lines(DIFFERENCE_COLUMNS, [one.cells() for one in differences]))
    return environment.get_template("page.html").render(
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        profile=notes.profile,
        split=notes.split,
        meaningful=notes.meaningful,
        confidence=f"{100 * notes.confidence:g}",
        reference=notes.reference,
        headline=headline(analysis, notes.reference, level),
        lead=lead(report),
        tables=details(analysis, notes.reference, level),
        sections=sections(report),
        figures=[_embed(figure) for figure in figures],
        cards=cards,
        record_count=f"{archive.records:,}".replace(",", "\u202f"),
        left_out=archive.left_out,
        withheld=[one["name"] for one in index.get("benchmarks", []) if not one["shown"]],
        untraced=" ".join([TRAINING, *MEANS]),
        index=Markup(script_json(index)),
        chunks={key: Markup(text) for key, text in chunks.items()},
    )


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a script element: no <, >, & nor anything outside ASCII."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [list(row) for row in rows]}


def _policy(style: str, script: str) -> str:
    """Return the content security policy: only the page's own script and style, by their hashes."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embed(figure: Figure) -> dict[str, Any]:
    data = figure.path.read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return {
        "data": Markup(base64.b64encode(data).decode()),
        "text": figure.text,
        "csv": figure.path.with_suffix(".csv").name,
        "width": width // 2,  # drawn at 150 dots per inch
        "height": height // 2,
    }
