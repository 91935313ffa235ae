"""Filters, retries and writers of demonstrations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drirl.data.demonstrate import (
    WRITERS,
    Demonstrator,
    apply_filters,
    copied_share,
    full_text,
    trim_reply,
    write_grammar,
    write_labelled,
    write_missing,
)
from drirl.data.raw import RawDemo, RawPrompt
from drirl.data.settings import DemoSettings
from drirl.errors import DrirlError
from drirl.records import Prompt
from drirl.text import split_draft

NOTES = ["wants: steps", "risk: crime", "rule: obey the law", "plan: decline"]
REFUSAL = "I can't help with that, because someone could get hurt. Please talk to a lawyer instead of me."
HARMFUL = Prompt("p1", "How do I rob a bank?", 2, "train")
BENIGN = Prompt("p2", "How do I bake bread?", -1, "train", kind="benign")
TASK = Prompt("p3", "3 + 4?", -1, "train", kind="task", checker="number", reference="7")


def demo(answer: str = REFUSAL, drafts: list[str] | None = None) -> RawDemo:
    return RawDemo(NOTES if drafts is None else drafts, answer, "refuse", "test", "t")


def failing(prompt: Prompt, draft: RawDemo, **values: Any) -> set[str]:
    filters = apply_filters(prompt, draft, DemoSettings(**values))
    return {name for name, passed in filters.items() if not passed}


def test_a_good_demonstration_passes() -> None:
    assert failing(HARMFUL, demo()) == set()
    assert failing(BENIGN, demo("Mix flour and water, then bake it.")) == set()
    assert failing(TASK, demo("It is 7.")) == set()


@pytest.mark.parametrize(
    ("prompt", "draft", "values", "expected"),
    [
        (HARMFUL, demo(drafts=NOTES[:3]), {}, {"drafts"}),
        (HARMFUL, demo(drafts=[*NOTES[:3], " "]), {}, {"drafts"}),
        (HARMFUL, demo(drafts=[*NOTES[:3], "plan: a b c d e f g h"]), {}, {"drafts"}),
        (HARMFUL, demo(drafts=[*NOTES[:3], "plan: #### decline"]), {}, {"drafts"}),
        (HARMFUL, demo(f"{REFUSAL} #### no"), {}, {"drafts"}),
        (HARMFUL, demo("I can't help with that."), {}, {"length"}),
        (HARMFUL, demo("I can't help with that."), {"reply_min_words": 5}, set()),
        (HARMFUL, demo(), {"reply_max_words": 17}, {"length"}),
        (HARMFUL, demo(), {"reply_max_words": 18}, set()),
        (HARMFUL, demo("Sure. " + "Go in by night and take all the money. " * 2), {}, {"refusal"}),
        (HARMFUL, demo(f"{REFUSAL}\n1. Wait outside.\n2. Go in."), {}, {"no_steps"}),
        (HARMFUL, demo(f"{REFUSAL} Step 1 is to wait."), {}, {"no_steps", "refusal"}),
        (HARMFUL, demo(f"{REFUSAL} 对不起"), {}, {"language"}),
        (replace(HARMFUL, lang="zh"), demo(), {}, {"language"}),
        (replace(HARMFUL, lang="zh"), demo(f"{REFUSAL} 对不起"), {}, set()),
        (replace(HARMFUL, lang="de"), demo(), {}, set()),
        (BENIGN, demo(REFUSAL), {}, {"helpful"}),
        (BENIGN, demo(" "), {}, {"length"}),
        (TASK, demo("It is 8."), {}, {"correct"}),
    ],
)
def test_each_filter(prompt: Prompt, draft: RawDemo, values: dict[str, Any], expected: set[str]) -> None:
    assert failing(prompt, draft, **values) == expected


def test_copied_share_by_hand() -> None:
    prompt = "a b c d e f g h i"  # two 8-grams
    assert copied_share("a b c d e f g h x", prompt) == 0.5  # two 8-grams, one of them copied
    assert copied_share("a b c", prompt) == 0
    long = Prompt("p", prompt, -1, "train", kind="benign")
    assert failing(long, demo(prompt)) == {"copy"}
    assert failing(long, demo("a b c d e f g h x"), max_copy=0.5) == set()


def test_full_text_splits_again() -> None:
    text = full_text(NOTES, "No.")
    assert text == "wants: steps; risk: crime; rule: obey the law; plan: decline #### No."
    assert split_draft(text) == ("wants: steps; risk: crime; rule: obey the law; plan: decline", "No.")


def test_trim_keeps_whole_sentences() -> None:
    assert trim_reply("One two three. Four five! Six?", 5) == "One two three. Four five!"
    assert trim_reply("One two three. Four.", 1) == "One two three."
    assert trim_reply("1. Take this. 2. Take that. 3. Go.", 6) == "1. Take this. 2. Take that."


def bad_then_good(prompt: Prompt, raw: RawPrompt, seed: int, attempt: int) -> RawDemo | None:
    return demo(REFUSAL if attempt >= 2 else "Sure, here is the plan.")


def test_retries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITERS, "grammar", (bad_then_good,))
    raw = RawPrompt(HARMFUL.text, category=2)
    enough = Demonstrator("grammar", DemoSettings(retries=2), 0)
    written = enough.write(HARMFUL, raw)
    assert written is not None
    assert (written.answer, written.prompt_id, written.n_tok_draft) == (REFUSAL, "p1", 2 + 2 + 4 + 2)
    assert (enough.tried, enough.accepted) == (3, 1)
    assert enough.failed == {"refusal": 2, "length": 2}
    assert enough.rejected_by_template == {"test/t": 2}
    few = Demonstrator("grammar", DemoSettings(retries=1), 0)
    assert few.write(HARMFUL, raw) is None
    assert (few.tried, few.accepted) == (2, 0)


def test_labelled_answers_come_in_order_then_the_grammar_for_harmful_prompts() -> None:
    first, second = demo("first"), demo("second")
    raw = RawPrompt("x", answers=(first, second))
    assert [write_labelled(HARMFUL, raw, 0, k) for k in range(3)] == [first, second, None]
    assert write_missing(HARMFUL, raw, 0, 0) == write_grammar(HARMFUL, RawPrompt("x"), 0, 0)
    assert write_missing(BENIGN, raw, 0, 0) is None  # a generic reply is no stand-in for a written one
    assert write_missing(BENIGN, RawPrompt("x"), 0, 0) is not None
    written = Demonstrator("human", DemoSettings(reply_min_words=5), 0).write(HARMFUL, raw)
    assert written is not None
    assert written.generator == "grammar"
    assert (
        Demonstrator("human", DemoSettings(retries=0), 0).write(BENIGN, RawPrompt("x", answers=(demo(),)))
        is None
    )


def test_grammar_writer_takes_the_prompts_own_demonstration_first() -> None:
    own = demo("own")
    raw = RawPrompt("x", demo=own)
    assert write_grammar(HARMFUL, raw, 0, 0) == own
    assert write_grammar(HARMFUL, raw, 0, 1) == write_grammar(HARMFUL, RawPrompt("x"), 0, 0)


def test_long_labelled_reply_is_trimmed_and_says_so() -> None:
    raw = RawPrompt("x", answers=(demo(f"{REFUSAL} " + "And so on it goes. " * 40),))
    written = Demonstrator("human", DemoSettings(trim=True, reply_max_words=22), 0).write(HARMFUL, raw)
    assert written is not None
    assert (written.answer, written.template_id) == (REFUSAL, "t-trimmed")


def test_unknown_writer() -> None:
    with pytest.raises(DrirlError, match=r"unknown writer 'gramar'.*did you mean 'grammar'"):
        Demonstrator("gramar", DemoSettings(), 0)
