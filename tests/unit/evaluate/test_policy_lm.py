"""The two additions to HFLM, against HFLM itself and against our own decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from drirl.errors import DrirlError
from drirl.evaluate.policy_lm import PolicyLM
from drirl.generate import complete, render
from drirl.models import load_policy

WORDS = "house bread night door blue risk plan answer steps home neighbour slowly help loaf".split()
PROMPTS = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 3 + i % 5)) + "?" for i in range(1, 25)]
LENGTH = 12


def requests(contexts: list[str], **kwargs: Any) -> list[Instance]:
    arguments = {"until": [], "do_sample": False, "max_gen_toks": LENGTH} | kwargs
    return [
        Instance("generate_until", {"item_id": f"item{i}"}, (context, dict(arguments)), 0, ("t", i, 1))
        for i, context in enumerate(contexts)
    ]


def test_end_marks_and_texts_equal_those_of_hflm_and_of_our_decoder(restless_policy: Path) -> None:
    model, tokenizer = load_policy(restless_policy)
    contexts = render(tokenizer, PROMPTS)
    lm = PolicyLM(model, tokenizer, batch_size=7)
    found = requests(contexts)
    texts = lm.generate_until(found)

    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=7).generate_until(requests(contexts), True)
    assert texts == stock

    ours = complete(model, tokenizer, PROMPTS, max_new_tokens=LENGTH, temperature=0.0, batch_size=7)
    assert [text.strip() for text in texts] == [row[0].text for row in ours]
    ended = [lm.finished(*request.args) for request in found]
    assert ended == [row[0].finished for row in ours]
    assert 0 < sum(ended) < len(ended)  # the test sees both cases
    assert lm.generated_tokens == sum(row[0].n_tokens for row in ours)


def test_a_stop_string_counts_as_an_end(restless_policy: Path) -> None:
    model, tokenizer = load_policy(restless_policy)
    contexts = render(tokenizer, PROMPTS)
    lm = PolicyLM(model, tokenizer, batch_size=8)
    plain = requests(contexts)
    texts = lm.generate_until(plain)
    number = next(i for i, r in enumerate(plain) if not lm.finished(*r.args) and len(texts[i].strip()) > 4)
    stop = texts[number].strip()[2:4]
    stopped = requests([contexts[number]], until=[stop])
    assert lm.generate_until(stopped) == [texts[number].split(stop)[0]]
    assert lm.finished(*stopped[0].args)


def test_an_overlong_prompt_stops_before_any_generation_and_is_named(tiny_policy: Path) -> None:
    model, tokenizer = load_policy(tiny_policy)  # context 128
    contexts = render(tokenizer, ["short", "door " * 120])
    lm = PolicyLM(model, tokenizer, batch_size=2)
    with pytest.raises(DrirlError, match=r"t: item 'item1': the prompt has \d+ tokens.*leaves 116;"):
        lm.generate_until(requests(contexts))
    assert lm.generated_tokens == 0
    with pytest.raises(DrirlError, match="item 'item0': max_new_tokens 128 leaves no room"):
        lm.generate_until(requests(contexts, max_gen_toks=128))


def test_truncation_is_flagged_when_asked_for(tiny_policy: Path) -> None:
    model, tokenizer = load_policy(tiny_policy)
    found = requests(render(tokenizer, ["short", "door " * 120]))
    lm = PolicyLM(model, tokenizer, batch_size=2, overlong="truncate")
    lm.generate_until(found)
    assert [lm.was_truncated(*request.args) for request in found] == [False, True]
