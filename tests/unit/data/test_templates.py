"""Requests for demonstrations and paraphrases, the hand-written examples, and the reading of replies."""

from __future__ import annotations

import re

import pytest

from drirl.data import grammar, templates
from drirl.data.demonstrate import apply_filters
from drirl.data.normalise import words
from drirl.data.raw import RawDemo
from drirl.data.settings import DemoSettings
from drirl.data.templates import (
    KEYS,
    VERDICTS,
    ask_demonstration,
    ask_paraphrase,
    read_demonstration,
    read_paraphrase,
    think_aloud,
)
from drirl.records import Prompt

HARMFUL = Prompt("p1", "How do I rob a {bank}?", 2, "train")
BENIGN = Prompt("p2", "How do I bake bread?", -1, "train", kind="benign")
TASK = Prompt("p3", "3 + 4?", -1, "train", kind="task", checker="number", reference="7")


def ask(
    prompt: Prompt, style: templates.Style = "cod", exemplars: int = 0, attempt: int = 0
) -> tuple[str, str]:
    return ask_demonstration(prompt, style, note_words=7, exemplars=exemplars, seed=0, attempt=attempt)


def test_a_request_has_every_part() -> None:
    text, identity = ask(HARMFUL)
    assert "Crimes & Illegal Activities" in text
    assert "help to plan, commit or hide an unlawful act" in text
    assert "at most 7 words" in text
    assert text.endswith("Message: <<<How do I rob a {bank}?>>>")
    assert re.fullmatch(r"cod-v1/crime-[2-5]-\w+-[0-2]", identity)
    assert "full sentences" in ask(HARMFUL, "cot")[0]
    assert "do not warn or decline" in ask(BENIGN)[0]
    assert "one right answer" in ask(TASK)[0]
    assert "crisis line" in ask(Prompt("p4", "I am so sad.", 4, "train"))[0]


def test_length_tone_and_alternatives_vary_by_prompt_and_attempt() -> None:
    identities = {ask(Prompt(f"p{k}", "x", 2, "train"))[1] for k in range(200)}
    lengths, tones, alternatives = (
        {identity.split("/")[1].split("-")[part] for identity in identities} for part in (1, 2, 3)
    )
    assert (lengths, alternatives) == ({"2", "3", "4", "5"}, {"0", "1", "2"})
    assert len(tones) >= 4
    assert len({ask(HARMFUL, attempt=k)[1] for k in range(6)}) > 1
    assert ask(HARMFUL) == ask(HARMFUL)


EXAMPLES = [(area, example) for area, rows in templates._file()["exemplars"].items() for example in rows]


def test_every_category_has_two_or_three_examples() -> None:
    counts = {area: len(rows) for area, rows in templates._file()["exemplars"].items()}
    assert all(2 <= counts[label] <= 3 for label in grammar.LABELS)
    assert counts["benign"] >= 2


@pytest.mark.parametrize("style", ["cod", "cot"])
@pytest.mark.parametrize(("area", "example"), EXAMPLES)
def test_every_example_is_what_the_filters_want(
    area: str, example: dict[str, object], style: templates.Style
) -> None:
    category = grammar.LABELS.index(area) if area in grammar.LABELS else -1
    kind = "harmful" if category >= 0 else area
    prompt = Prompt("e", str(example["message"]), category, "train", kind=kind)
    text, _ = ask_demonstration(prompt, style, note_words=7, exemplars=3, seed=0, attempt=0)
    shown = text[text.index(f"Message: <<<{example['message']}>>>\n") :].split("\n", 1)[1]
    shown = shown.split("\n\n")[0]
    draft = read_demonstration(shown, "hand", "example")
    settings = DemoSettings(style=style, reply_min_words=1 if kind == "task" else 15)
    assert [name for name, passed in apply_filters(prompt, draft, settings).items() if not passed] == []
    if area == "mental":
        assert draft.verdict == "redirect"


GOOD = "wants: steps\nrisk: a bank\nrule: obey the law\nplan: Decline, kindly\n####\nI can't help with that."


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "**Wants:** steps\n- risk : a bank\n3. Rule: obey the law.\nPLAN: Decline, kindly\n"
        "#### I can't help with that.",
        "wants: steps; risk: a bank; rule: obey the law; plan: Decline, kindly #### I can't help with that.",
    ],
)
def test_reading_forgives_the_dress_of_the_notes(text: str) -> None:
    draft = read_demonstration(text, "g", "t")
    assert draft.drafts == ["wants: steps", "risk: a bank", "rule: obey the law", "plan: Decline, kindly"]
    assert draft.answer == "I can't help with that."
    assert draft.verdict == "refuse"


@pytest.mark.parametrize(
    ("text", "drafts", "verdict"),
    [
        ("I can't help with that.", 0, ""),
        (GOOD.replace("rule: obey the law\n", ""), 3, "refuse"),
        (GOOD.replace("Decline, kindly", "think more"), 4, ""),
        ("", 0, ""),
    ],
)
def test_what_is_missing_is_not_made_up(text: str, drafts: int, verdict: str) -> None:
    draft = read_demonstration(text, "g", "t")
    assert (len(draft.drafts), draft.verdict) == (drafts, verdict)
    assert not apply_filters(HARMFUL, draft, DemoSettings(reply_min_words=1))["drafts"]


def test_a_plan_to_answer_a_harmful_prompt_is_turned_down() -> None:
    draft = read_demonstration(GOOD.replace("Decline", "Answer"), "g", "t")
    assert draft.verdict == VERDICTS["answer"]
    assert not apply_filters(HARMFUL, draft, DemoSettings(reply_min_words=1))["drafts"]


def test_thinking_aloud_keeps_notes_and_reply() -> None:
    notes = ["wants: steps", "risk: crime", "rule: obey the law", "plan: decline"]
    short = RawDemo(notes, "I can't help with that, it is against the law.", "refuse", "grammar", "x")
    long = think_aloud(short, 0, "p1")
    assert [note.partition(":")[0] for note in long.drafts] == list(KEYS)
    assert long.drafts[3].startswith("plan: decline, ")
    assert all(note.partition(": ")[2] in text for note, text in zip(notes, long.drafts, strict=True))
    assert sum(len(words(n)) for n in long.drafts) > 3 * sum(len(words(n)) for n in notes)
    assert (long.answer, long.template_id) == (short.answer, "cot-x")
    settings = DemoSettings(style="cot", reply_min_words=1)
    assert all(apply_filters(HARMFUL, long, settings).values())
    assert not apply_filters(HARMFUL, long, DemoSettings(reply_min_words=1))["drafts"]


def test_paraphrase_requests_change_their_manner() -> None:
    asked = {ask_paraphrase("Do {this}?", 0, limit=20, turn=turn) for turn in range(6)}
    assert len(asked) == 6
    assert all("<<<Do {this}?>>>" in text and "at most 20 words" in text for text in asked)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"How might I rob it?"', "How might I rob it?"),
        ("Reworded message: How might I rob it?", "How might I rob it?"),
        ("<<<How might I rob it?>>>", "How might I rob it?"),
        ("Sure!\n\nHow might I rob it?", ""),
        ("", ""),
    ],
)
def test_reading_a_paraphrase(text: str, expected: str) -> None:
    assert read_paraphrase(text) == expected
