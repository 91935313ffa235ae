"""Parts of comparison.md as HTML, so that the page and the report never say different things."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

__all__ = ["Part", "lead", "sections"]

_FOLDED = re.compile(r"^<details>\n<summary>(.*)</summary>$|^</details>$", re.MULTILINE)
"""What the report folds away; nothing else in it is HTML, its cells are escaped."""

_OWN = ("All columns", "By category", "By level", "By difficulty", "Mean reward")
"""Sections that the page has as tables of its own, with records behind the cells."""


@dataclass(frozen=True)
class Part:
    """A section under a heading of the second level; ``html`` is without that heading."""

    title: str
    html: Markup


def lead(text: str) -> Markup:
    """Return what stands above the first section, without its title, tables and figures."""
    parser = _parser()
    tokens = _until_section(parser.parse(text))
    kept: list[Token] = []
    depth, skip = 0, ""
    for number, token in enumerate(tokens):
        if skip:
            skip = "" if token.type == skip and token.level == depth else skip
            continue
        closing = {"heading_open": "heading_close", "table_open": "table_close"}.get(token.type)
        if token.type == "paragraph_open" and _is_figure(tokens[number + 1]):
            closing = "paragraph_close"
        if closing:
            skip, depth = closing, token.level
            continue
        kept.append(token)
    return _html(parser, kept)


def sections(text: str) -> list[Part]:
    """Return the sections that the page has no table of its own for, folded ones as sections of their own."""
    parser = _parser()
    tokens = parser.parse(_FOLDED.sub(lambda found: f"## {found[1]}" if found[1] else "", text))
    starts = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    parts = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        title = _plain(tokens[start + 1])
        if end > start + 3 and not title.startswith(_OWN):
            parts.append(Part(title, _html(parser, tokens[start + 3 : end], title)))
    return parts


def _parser() -> MarkdownIt:
    # Raw HTML in the text stays text; links other than http, https and mailto are refused by the parser.
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def _until_section(tokens: Sequence[Token]) -> Sequence[Token]:
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            return tokens[:number]
    return tokens


def _is_figure(token: Token) -> bool:
    return token.content.lstrip().startswith("![")


def _plain(token: Token) -> str:
    return "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))


def _html(parser: MarkdownIt, tokens: Sequence[Token], title: str = "") -> Markup:
    """Render tokens; a table gets a caption, what was last said above it, and a frame to scroll in."""
    kept, said = [], title
    for token in tokens:
        if token.type == "inline" and token.level <= 1 and _plain(token).endswith(":"):
            said = f"{title}, {_plain(token).rstrip(':')}"
        if token.type == "table_open":
            frame = Token("html_block", "", 0)
            frame.content = f'<div class="scroll"><table class="data"><caption>{escape(said)}</caption>'
            kept.append(frame)
            continue
        if token.type == "table_close":
            frame = Token("html_block", "", 0)
            frame.content = "</table></div>"
            kept.append(frame)
            continue
        if token.type == "th_open":
            token.attrSet("scope", "col")
        if token.tag in ("th", "td"):
            token.attrs.pop("style", None)
        kept.append(token)
    return Markup(parser.renderer.render(kept, parser.options, {}))
