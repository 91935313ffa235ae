"""The text of the page: what it says, and that untrusted text in it is data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from drirl.compare.page.cards import cards, read_docstring
from drirl.compare.page.markdown import lead, sections
from drirl.compare.page.render import script_json
from drirl.config import load_params
from drirl.errors import DrirlError

from ..conftest import ROOT


class Elements(HTMLParser):
    """Every element with its attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.texts.append((*self.found[-1], data))


def test_one_file_with_nothing_to_load(page: Path) -> None:
    parsed = Elements(page.read_text(encoding="utf-8"))
    for tag, attributes in parsed.found:
        assert not {name for name in attributes if name.startswith("on")}, (tag, attributes)
        assert "style" not in attributes
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
        assert not (attributes.get("src") or "data:image/png;base64,").partition("data:image/png;base64,")[0]
        if tag == "a":
            assert re.match(r"#|https://arxiv\.org/", attributes["href"] or ""), attributes
    assert page.stat().st_size < 3 * 2**20


def test_policy_allows_the_one_script_and_style_only(page: Path) -> None:
    parsed = Elements(page.read_text(encoding="utf-8"))
    meta = next(a for tag, a in parsed.found if a.get("http-equiv") == "Content-Security-Policy")
    policy = dict(part.split(" ", 1) for part in (meta["content"] or "").split("; "))
    assert policy["default-src"] == "'none'"
    programs = [(tag, text) for tag, a, text in parsed.texts if "type" not in a]
    assert [tag for tag, _ in programs] == ["style", "script"]
    for tag, text in programs:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in meta["content"]  # type: ignore[operator]


def test_hostile_texts_are_only_in_chunks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "window.hacked" not in text
    assert "onerror" not in text
    assert text.count("</script>") == text.count("<script")


def test_the_page_says_what_it_rests_on(page: Path, hostile: Path, make_page: Callable[..., Path]) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Profile <code>tiny</code>, split <code>test</code>, 95 % intervals" in text
    assert "meaningless" not in text
    assert "3 training seeds" in text
    assert "n=7" in text
    assert '<td class="missing">missing</td>' in text
    assert "drirl_gsm8k are not in this page" in text
    assert "Scores missing, drirl_gsm8k, accuracy: tiny-llama <code>dpo</code> 3 of 6;" in text
    smoke = make_page(hostile, meaningful=False).read_text(encoding="utf-8")
    assert "Wiring check, numbers are meaningless" in smoke


def test_same_records_same_bytes(page: Path, hostile: Path, make_page: Callable[..., Path]) -> None:
    assert make_page(hostile).read_bytes() == page.read_bytes()


def test_every_table_has_a_caption_and_scopes(page: Path) -> None:
    parsed = Elements(page.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("caption") == tags.count("table") > 8
    assert all("scope" in attributes for tag, attributes in parsed.found if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in parsed.found if tag == "img")


def test_unknown_texts_option(hostile: Path, make_page: Callable[..., Path]) -> None:
    with pytest.raises(DrirlError, match=r"--texts: unknown name 'al'.*did you mean 'all'"):
        make_page(hostile, texts="al")


def test_json_in_a_script_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029é\ud800"}
    text = script_json(value)
    assert not set("<>&\u2028\u2029é") & set(text)
    assert text.isascii()
    assert json.loads(text) == value


def test_markdown_of_the_report_is_harmless() -> None:
    text = (
        "# T\n\n> **Wiring** <img src=x>\n\n| a |\n|---|\n| 1 |\n\nCaption <b>.\n\n![f](f.png)\n\n"
        "## By category: `x`\n\nno\n\n## Words\n\n[go](javascript:alert(1)) ![p](http://x/y.png)\n\n"
        "Rates:\n\n| M <i> |\n|--:|\n| `2` |\n\n"
        "## Details\n\n<details>\n<summary>More</summary>\n\n| a |\n|---|\n| 1 |\n\n"
        "</details>\n"
    )
    above = lead(text)
    assert "<table" not in above
    assert "f.png" not in above
    assert "<h1" not in above
    assert "<strong>Wiring</strong> &lt;img src=x&gt;" in above
    assert "Caption &lt;b&gt;." in above
    part, folded = sections(text)
    assert (part.title, folded.title) == ("Words", "More")
    assert "<caption>More</caption>" in folded.html
    assert "details" not in folded.html
    assert "<img" not in part.html
    assert "href" not in part.html.replace('href="http://x/y.png"', "")
    assert "<caption>Words, Rates</caption>" in part.html
    assert '<th scope="col">M &lt;i&gt;</th>' in part.html


def test_cards_hold_loss_source_deviations_and_parameters() -> None:
    params = load_params(ROOT / "profiles" / "tiny.yaml")
    found = {card.name: card for card in cards(params, ["base", "dr_irl", "gone"], ROOT / "baselines")}
    card = found["dr_irl"]
    assert card.summary.startswith("DR-IRL: GRPO on one inverse-RL reward per harm category")
    assert card.link == "https://arxiv.org/abs/2503.18991"
    formulas = [text for kind, text in card.blocks if kind == "formula"]
    assert any(text.startswith("A_i = alpha_j(q)") for text in formulas)
    assert (
        card.labelled["Equations"].startswith("Docs/paper.md")
        or "docs/paper.md" in card.labelled["Equations"]
    )
    assert "sentences are split by rule" in card.labelled["Deviations"]
    values = {name: value for name, value, _ in card.parameters}
    assert values["lr"] == "0.0006"
    assert values["hardness.mask"] == "quantile"
    assert found["base"].parameters == ()
    assert found["base"].labelled["Deviations"] == "None."
    assert found["gone"].summary == "There is no file baselines/gone.py."


def test_docstring_in_parts() -> None:
    text = (
        "First.\n\n    L = a\n      + b\n\nwith a\nand b.\n\n"
        "Equations: none. Paper: x.\nDeviations: one;\ntwo.\n"
    )
    summary, blocks, labelled = read_docstring(text)
    assert summary == "First."
    assert blocks == [("formula", "L = a\n  + b"), ("text", "with a and b.")]
    assert labelled == {"Equations": "None", "Paper": "X.", "Deviations": "One; two."}
