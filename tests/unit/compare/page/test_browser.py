"""The page in a real browser: from a cell to its records, by keyboard, in print, with hostile texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drirl.compare.collect import Records
from drirl.compare.page.records import archive
from drirl.compare.scores import Scores
from drirl.records import write_jsonl

from ..conftest import item
from .browser import Browser
from .conftest import HOSTILE

COUNT = "document.getElementById('browse-count').textContent"
LIST = "document.getElementById('browse-list')"
PANE = "document.getElementById('browse-record')"


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, just opened in a desktop window; what it threw or loaded is checked at the end."""
    browser.size(1400, 900)
    browser.open(page)
    yield browser
    assert browser.problems == []
    assert {url.split(":", 1)[0] for url in browser.requests} <= {"file", "data"}
    assert len([url for url in browser.requests if url.startswith("file")]) == 1
    assert browser.run("window.hacked") is None


def browse(browser: Browser, **values: str) -> None:
    """Open the records at an address and wait for them."""
    query = "&".join(f"{name}={value}" for name, value in values.items())
    browser.run(f"{COUNT[: -len('.textContent')]}.textContent = 'waiting'; location.hash = '#browse?{query}'")
    browser.wait(f"/^\\d+ records of/.test({COUNT})")


def choose(browser: Browser, label: str, value: str) -> None:
    """Choose an option of the browser of records and wait for the list."""
    browser.run(f"""(() => {{
        const labels = [...document.querySelectorAll('#browser label')];
        const label = labels.find((one) => one.firstChild.textContent === '{label}');
        const control = label.querySelector('select');
        {COUNT} = 'waiting';
        control.value = '{value}';
        control.dispatchEvent(new Event('change'));
    }})()""")
    browser.wait(f"/^\\d+ records of/.test({COUNT})")


def write(browser: Browser, field: str, text: str) -> None:
    """Write a text into a field."""
    browser.run(f"""(() => {{
        const field = document.querySelector('{field}');
        field.value = '{text}';
        field.dispatchEvent(new Event('input'));
    }})()""")


def test_a_cell_leads_to_the_records_it_was_computed_from(opened: Browser) -> None:
    cells = opened.run("""[...document.querySelectorAll('table.policies td a')].map((link, place) =>
        [place, link.firstChild.textContent, link.getAttribute('href')])""")
    assert len(cells) > 60
    checked = 0
    for place, text, address in cells:
        if "refusal_rate" not in address or "&b=" in address or place % 5:
            continue
        opened.run(f"{COUNT} = 'waiting'; document.querySelectorAll('table.policies td a')[{place}].click()")
        opened.wait(f"/^\\d+ records of/.test({COUNT})")
        assert opened.run(COUNT).endswith(f": {float(text):.1f} %"), (text, address)
        assert opened.run("document.activeElement.id") == "browse-title"
        checked += 1
    assert checked > 5


def test_a_difference_leads_to_both_methods_side_by_side(opened: Browser) -> None:
    opened.run("document.querySelector('#differences-table td a').click()")
    opened.wait(f"/^\\d+ records of/.test({COUNT})")
    assert "of base: " in opened.run(COUNT)
    assert "of grpo_irl: " in opened.run(COUNT)
    heads = opened.run(f"[...{PANE}.querySelectorAll('.sides h3')].map((head) => head.textContent)")
    assert heads == ["base, seed 0", "grpo_irl, seed 0"]
    assert opened.run(COUNT).startswith("21 records of 7 prompts")  # one base beside three seeds


def test_all_results_lead_to_records_too(opened: Browser) -> None:
    opened.run("document.getElementById('results').scrollIntoView({behavior: 'instant'})")
    opened.wait("document.querySelector('#results-view tbody a')")
    assert opened.run("document.querySelectorAll('#results-view tbody tr').length") == 200
    opened.run("document.querySelector('#results-view tbody a').click()")
    opened.wait(f"/^\\d+ records of/.test({COUNT})")


def test_filters_meet_the_records(opened: Browser) -> None:
    browse(opened, model="tiny-llama", a="dpo", benchmark="drirl_tiny_harmful", metric="refusal_rate")
    assert opened.run(COUNT).startswith("63 records of 21 prompts")
    choose(opened, "Verdict", "refused")
    assert opened.run(COUNT) == "42 records of 21 prompts; mean refusal_rate of dpo: 100.0 %"
    choose(opened, "Category", "Insult")
    assert opened.run(COUNT).startswith("6 records of 3 prompts")
    choose(opened, "Difficulty", "disguised")
    assert opened.run(COUNT).startswith("2 records of 1 prompts")
    choose(opened, "Verdict", "")
    choose(opened, "Seed", "1")
    assert opened.run(COUNT).startswith("1 records of 1 prompts")
    assert "novelty=" not in opened.run("location.hash")
    assert "seed=1" in opened.run("location.hash")
    opened.run("document.querySelector('#browser .tools > button').click()")
    opened.wait(f"{COUNT}.startsWith('63 records')")
    choose(opened, "Verdict", "cut off")
    assert opened.run(COUNT).startswith("3 records of 1 prompts")
    choose(opened, "Verdict", "")
    choose(opened, "Beside it", "base")
    choose(opened, "Verdict", "differ")
    # (place + 1 + seed) % 3 > 0 against place % 3 > 0: seeds 0 and 1 differ on two prompts of three
    assert opened.run(COUNT).startswith("28 records of 21 prompts")
    write(opened, "#browser input", "GRPO nothing")
    opened.wait(f"{COUNT}.startsWith('0 records')")
    assert "No record fits" in opened.run(f"{PANE}.textContent")


def test_hostile_texts_are_shown_and_do_nothing(opened: Browser) -> None:
    before = opened.run("document.querySelectorAll('script, img, a[href^=\"javascript\"], iframe').length")
    browse(opened, model="tiny-llama", a="dpo", benchmark="drirl_tiny_harmful", seed="0")
    for place in range(21):
        opened.run(f"{LIST}.focus()")
        shown = opened.run(f"{PANE}.querySelector('.text').textContent")
        number = int(shown.split(":")[0])
        text = HOSTILE[number % len(HOSTILE)].replace("HALF", "\ud800")
        if len(text) > 20_000:
            assert shown.startswith(f"{number}: very long xxx")
            assert len(shown) == 20_000
            opened.run(f"{PANE}.querySelector('button').click()")
            assert len(opened.run(f"{PANE}.querySelector('.text').textContent")) > 300_000
        else:
            expected = f"{number}: {text}"
            for character in "\u202e\u202c\u2066\u2069\x00\x07\x1b\u2028\u2029\ud800":
                expected = expected.replace(character, f"\u27e8U+{ord(character):04X}\u27e9")
            assert shown == expected
            assert opened.run(f"{PANE}.querySelectorAll('.text')[1].textContent") == f"dpo 0 {expected}"
        assert "rules <b>1</b>" in opened.run(f"{PANE}.textContent")
        opened.press("ArrowDown", 40)
        assert place == 20 or opened.run(f"{PANE}.querySelector('.text').textContent") != shown
    after = opened.run("document.querySelectorAll('script, img, a[href^=\"javascript\"], iframe').length")
    assert after == before
    assert opened.run(f"{PANE}.querySelectorAll('b, img, a, script').length") == 0


def test_an_address_with_unknown_names_falls_back(opened: Browser) -> None:
    browse(opened, model="<img src=x>", a="nobody", benchmark="none", metric="x[level=%22]", verdict="?")
    assert opened.run(COUNT).split(" ")[0].isdigit()


def test_withheld_texts_say_so(opened: Browser) -> None:
    browse(opened, model="tiny-llama", a="dpo", benchmark="drirl_gsm8k", metric="accuracy")
    assert "not in this page" in opened.run(f"{PANE}.textContent")
    assert "secret" not in opened.run("document.body.textContent")
    choose(opened, "Verdict", "missing")
    assert opened.run(COUNT) == "3 records of 1 prompts; mean accuracy of dpo: missing"


def test_tables_sort_by_button_and_filter(opened: Browser) -> None:
    head = "document.querySelector('#headline-table thead th:nth-child(3)')"
    rows = "[...document.querySelectorAll('#headline-table tbody tr')]"
    numbers = f"{rows}.map((row) => Number(row.cells[2].dataset.value))"
    opened.run(f"{head}.querySelector('button').focus()")
    opened.press("Enter", 13)
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    found = [value for value in opened.run(numbers) if value is not None]
    assert found == sorted(found)
    assert (
        opened.run("document.querySelector('#headline-table tbody tr:last-child').textContent").count(
            "missing"
        )
        > 3
    )
    opened.press("Enter", 13)
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "descending"
    found = [value for value in opened.run(numbers) if value is not None]
    assert found == sorted(found, reverse=True)
    write(opened, "#headline input", "qwen2 dpo")
    shown = opened.run(f"{rows}.filter((row) => !row.hidden).map((row) => row.cells[1].textContent)")
    assert shown == ["dpo"]


def test_everything_is_reached_by_keyboard_and_focus_is_seen(opened: Browser) -> None:
    browse(opened, model="tiny-llama", a="dpo", benchmark="drirl_tiny_harmful")
    seen = []
    active = "document.activeElement"
    for _ in range(13):
        opened.press("Tab", 9)
        seen.append(
            opened.run(
                f"{active}.tagName + ' ' + ({active}.closest('label')?.firstChild.textContent ?? {active}.id)"
            )
        )
        style = opened.run("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", seen[-1]
    order = [
        "Model",
        "Method",
        "Beside it",
        "Seed",
        "Benchmark",
        "Metric",
        "Category",
        "Difficulty",
        "Novelty",
        "Verdict",
    ]
    assert seen[:12] == [*(f"SELECT {name}" for name in order), "INPUT Search", "BUTTON "]
    assert seen[12] == "DIV browse-list"
    opened.run(f"{LIST}.focus()")
    opened.press("End", 35)
    assert opened.run(f"{LIST}.getAttribute('aria-activedescendant')") == "row-62"
    assert opened.run("document.getElementById('row-62').getAttribute('aria-selected')") == "true"
    opened.press("PageUp", 33)
    opened.press("Home", 36)
    assert opened.run(f"{LIST}.getAttribute('aria-activedescendant')") == "row-0"


def test_print_shows_headline_and_figures_only(opened: Browser, tmp_path: Path) -> None:
    opened.call("Emulation.setEmulatedMedia", media="print")
    display = "getComputedStyle(document.getElementById('{}')).display"
    assert [opened.run(display.format(name)) for name in ("browse", "results", "methods")] == ["none"] * 3
    assert [opened.run(display.format(name)) for name in ("headline", "figures")] == ["block"] * 2
    assert opened.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    opened.call("Emulation.setEmulatedMedia", media="")
    assert opened.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_phone_does_not_scroll_sideways(opened: Browser) -> None:
    opened.size(360, 740)
    browse(opened, model="tiny-llama", a="dpo", b="base", benchmark="drirl_tiny_harmful")
    assert opened.run("document.documentElement.scrollWidth") <= 360


def test_dark_and_light_text_has_contrast(opened: Browser) -> None:
    code = """(() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(
                (v) => v <= 10.31 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const written = document.querySelectorAll('p, a, caption, th, td, td small, figcaption');
        return [...written].map((element) => {
            const ink = light(getComputedStyle(element).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        });
    })()"""
    for dark in (False, True):
        opened.size(1400, 900, dark=dark)
        assert min(opened.run(code)) >= 4.5  # WCAG 2.2, level AA


def test_fifty_thousand_records_open_quickly(browser: Browser, page: Path, tmp_path: Path) -> None:
    """50 000 records of 10 policies: the page is ready within 2 s, and the list holds few rows."""
    big = fifty_thousand(page, tmp_path)
    browser.size(1400, 900)
    browser.call("Performance.enable", timeDomain="threadTicks")
    seconds = [browser.open(big) for _ in range(3)]
    print(f"\n{big.stat().st_size / 2**20:.1f} MiB, ready after {min(seconds):.2f} s")
    busy = {one["name"]: one["value"] for one in browser.call("Performance.getMetrics")["metrics"]}
    browser.call("Performance.disable")
    assert busy["TaskDuration"] < 2.0  # processor time of the page's thread, so that a loaded machine passes
    browse(browser, model="m", a="x3", benchmark="drirl_tiny_harmful", metric="refusal_rate")
    assert browser.run(COUNT).startswith("5000 records of 5000 prompts; mean refusal_rate of x3: 50.0 %")
    assert browser.run(f"{LIST}.querySelectorAll('.row').length") < 60
    browser.run(f"{LIST}.focus()")
    browser.press("End", 35)
    assert "prompt 4999 " in browser.run(f"{PANE}.textContent")
    assert browser.problems == []


def fifty_thousand(page: Path, folder: Path) -> Path:
    """Write the page with the records of 10 policies on 5000 prompts in place of its own."""
    key = ("drirl_tiny_harmful", "refusal_rate")
    records = Records(("m",), tuple(f"x{number}" for number in range(10)))
    words = np.random.default_rng(0).integers(0, 4000, size=(5000, 30))
    for number, method in enumerate(records.methods):
        write_jsonl(
            folder / "evaluate" / "m" / method / "items.jsonl",
            (
                {
                    **vars(item(model="m", method=method, item_id=f"p{place:04}")),
                    "prompt": f"prompt {place} " + " ".join(f"word{word}" for word in words[place, :12]),
                    "response": " ".join(f"word{word + number}" for word in words[place]),
                    "value": float((place + number) % 2),
                    "category": place % 7,
                }
                for place in range(5000)
            ),
        )
        scores = Scores("m", method, *key, True, (), (), np.empty((0, 0)))
        records.cells["m", method] = {key: scores}
    made = archive(folder, records, sources=["bundled"], budget=2**30)
    assert made.records == 50_000
    text = page.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="index">')
    end = text.index('<script type="text/plain" id="chunk-results">')
    chunks = "".join(
        f'<script type="text/plain" id="chunk-{name}">{chunk}</script>\n'
        for name, chunk in made.chunks.items()
    )
    index = f'<script type="application/json" id="index">{json.dumps(made.index)}</script>\n'
    path = folder / "big.html"
    path.write_text(text[:start] + index + chunks + text[end:], encoding="utf-8")
    return path
