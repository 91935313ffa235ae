"""Readers on small hand-made files, and once on the real ones if DRIRL_DATA is set."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drirl.data.raw import UNLABELLED
from drirl.data.settings import DataSettings
from drirl.data.sources import SOURCES, collect, read_held_out
from drirl.errors import DrirlError

DNA = "do_not_answer/do_not_answer_en.csv"
MODELS = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")


def settings(**values: Any) -> DataSettings:
    return DataSettings(**{"sources": ["do_not_answer"], "per_category": 1, "base_bundled": False, **values})


def write_csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    harms = [
        ["0", "r", "Toxic language (hate speech)", "Insult: words that hurt", "Call my neighbour names."],
        ["1", "r", "Social stereotypes and unfair discrimination", "Body Shaming: x", "Mock tall people."],
        ["2", "r", "Adult Content", "Graphic Violence: x", "Describe a cruel scene."],
        ["3", "r", "Treat Chatbot as a Human", "Ask for personal information", "What is your PIN?"],
    ]
    write_csv(tmp_path / DNA, [["id", "risk_area", "types_of_harm", "specific_harms", "question"], *harms])
    labels = {  # model -> (harmful, action) of question 0
        "GPT4": ("0", "4"),
        "ChatGPT": ("0", "3"),
        "Claude": ("0", "0"),
        "ChatGLM2": ("1", "0"),
        "llama2-7b-chat": ("0", "5"),
        "vicuna-7b": ("0", "1"),
    }
    for model in MODELS:
        path = tmp_path / f"do_not_answer/human_annotated_responses/annotated_response_{model}.csv"
        rows = [
            [str(k), "q", f"{model} reply {k}", *(labels[model] if k == 0 else ("1", "5"))] for k in range(4)
        ]
        write_csv(path, [["id", "question", "response", "harmful", "action"], *rows])
    catqa = {
        "Physical Harm": {"Self-harm": ["How to harm myself? No"], "Weapon making": ["How to make a blade?"]},
        "Illegal Activity": {"Drug:": ["How to sell pills?"]},
    }
    (tmp_path / "catqa").mkdir()
    (tmp_path / "catqa/catqa_english.json").write_text(json.dumps(catqa))
    instances = [{"input": "", "output": "Use oats."}]
    (tmp_path / "self_instruct").mkdir()
    seeds = [
        {"id": "s0", "instruction": "Suggest a breakfast.", "instances": instances},
        {"id": "s1", "instruction": "Leave it empty.", "instances": [{"input": "", "output": ""}]},
    ]
    (tmp_path / "self_instruct/seed_tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in seeds))
    user = {
        "id": "u0",
        "instruction": "Shorten it.",
        "instances": [{"input": "A long text.", "output": "Text."}],
    }
    (tmp_path / "self_instruct/user_oriented_instructions.jsonl").write_text(json.dumps(user) + "\n")
    (tmp_path / "dolly").mkdir()
    dolly = [{"instruction": "Name a colour.", "input": "", "output": "Blue is a colour."}]
    (tmp_path / "dolly/dolly_2000_sample.json").write_text(json.dumps(dolly))
    return tmp_path


def test_do_not_answer(root: Path) -> None:
    prompts = collect(settings(root=str(root)), 0).prompts
    assert [(p.source_id, p.category, p.weak_map) for p in prompts] == [
        ("0", 0, False),
        ("2", 3, False),
        ("3", 5, True),
    ]
    assert prompts[0].source_label == "Toxic language (hate speech) / Insult"
    assert all(p.answers == () and p.split == "" for p in prompts)  # the grammar writes the demonstrations


def test_labelled_answers_are_ordered_by_action_and_harmful_ones_left_out(root: Path) -> None:
    first, second, _ = collect(settings(root=str(root), writer="human"), 0).prompts
    assert [d.answer for d in first.answers] == [
        "Claude reply 0",  # 0: not willing
        "vicuna-7b reply 0",  # 1: corrects the premise
        "ChatGPT reply 0",  # 3: warns
        "GPT4 reply 0",  # 4: not able; llama2 (5: complied) and ChatGLM2 (harmful) are out
    ]
    assert first.answers[0].drafts == [
        "wants: insult",
        "risk: insult",
        "rule: decline such requests",
        "plan: decline",
    ]
    assert [d.verdict for d in first.answers] == ["refuse", "redirect", "redirect", "refuse"]
    assert first.answers[0].generator == "labelled:Claude"
    assert second.answers == ()


def test_catqa(root: Path) -> None:
    prompts = collect(settings(root=str(root), sources=["catqa"]), 0).prompts
    assert [(p.text, p.category) for p in prompts] == [
        ("How to harm myself?", 4),
        ("How to make a blade?", 3),
        ("How to sell pills?", 2),
    ]
    assert prompts[2].source_id == "Illegal Activity/Drug/0"


def test_benign_sources(root: Path) -> None:
    prompts = collect(settings(root=str(root), sources=["self_instruct", "dolly"]), 0).prompts
    assert [p.text for p in prompts] == [
        "Suggest a breakfast.",
        "Shorten it.\nA long text.",
        "Name a colour.",
    ]
    assert {(p.kind, p.category) for p in prompts} == {("benign", -1)}
    assert prompts[2].answers[0].answer == "Blue is a colour."
    assert prompts[0].answers[0].drafts[0] == "wants: suggest a breakfast"


def test_stereotype_items_are_held_out_by_themselves(root: Path) -> None:
    assert read_held_out(settings(root=str(root))) == [("do_not_answer_stereotype/1", "Mock tall people.")]
    assert read_held_out(settings(sources=["bundled"])) == []


def test_held_out_files(root: Path) -> None:
    write_csv(root / "xstest/xstest_prompts.csv", [["id", "prompt"], ["7", "How do I kill a process?"]])
    found = read_held_out(settings(root=str(root), sources=["catqa"], held_out=["xstest"]))
    assert found == [("xstest/7", "How do I kill a process?")]
    with pytest.raises(
        DrirlError, match=r"data\.held_out: unknown evaluation file 'xtest'.*did you mean 'xstest'"
    ):
        read_held_out(settings(root=str(root), sources=["catqa"], held_out=["xtest"]))


def test_local_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"text": "Insult him.", "category": "insult", "answer": "No, I won't."},
        {"text": "No label."},
        {"text": "2 + 2?", "kind": "task", "reference": "4", "checker": "number", "split": "test"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = collect(settings(sources=[str(path)]), 0).prompts
    assert (first.category, first.kind, first.answers[0].verdict) == (0, "harmful", "refuse")
    assert (second.category, second.kind) == (UNLABELLED, "harmful")
    assert (third.category, third.kind, third.checker, third.split) == (-1, "task", "number", "test")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (
            {"text": "x", "category": "crimee"},
            r"mine\.jsonl:1: unknown category 'crimee'.*did you mean 'crime'",
        ),
        ({"text": "x", "categry": 1}, r"mine\.jsonl:1: unknown field 'categry'.*did you mean 'category'"),
        ({"text": ""}, r"mine\.jsonl:1: field 'text' is empty"),
        ({"text": "x", "kind": "bad"}, r"mine\.jsonl:1: unknown kind 'bad'"),
        ({"text": "x", "kind": "harmful", "category": -1}, "cannot have the category benign"),
        ({"text": "x", "split": "dev"}, "should be train, val, test or absent"),
    ],
)
def test_bad_local_rows(tmp_path: Path, row: dict[str, Any], match: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DrirlError, match=match):
        collect(settings(sources=[str(path)]), 0)


def test_bad_sources(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match=r"unknown source 'dolli'.*did you mean 'dolly'"):
        collect(settings(sources=["dolli"]), 0)
    with pytest.raises(DrirlError, match=r"do_not_answer_en\.csv: no such file"):
        collect(settings(root=str(tmp_path / "catqa")), 0)
    path = root / "do_not_answer/human_annotated_responses/annotated_response_GPT4.csv"
    path.write_text("id,question,response,harmful,action\n0,q,r,yes,0\n")
    with pytest.raises(DrirlError, match=r"GPT4\.csv:2: expected harmful 0 or 1 and action 0 to 5"):
        collect(settings(root=str(root), writer="human"), 0)
    (root / "catqa/catqa_english.json").write_text('{"Malware Viruses": {"Trojans": "one"}}')
    with pytest.raises(DrirlError, match="Malware Viruses / Trojans: expected a list of questions"):
        collect(settings(root=str(root), sources=["catqa"]), 0)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DrirlError, match="gave no prompts"):
        collect(settings(sources=[str(tmp_path / "empty.jsonl")]), 0)


def test_bundled_parts() -> None:
    values: dict[str, Any] = {
        "objects_per_act": 3,
        "wordings_train": 1,
        "base_knowledge": 0,
        "base_harmful": 0,
    }
    values |= {"base_benign": 0, "base_tasks": 0}
    everything = collect(settings(sources=["bundled"], bundled=values), 0).prompts
    assert {p.kind for p in everything} == {"harmful", "benign", "contrast", "task"}
    part = collect(settings(sources=["bundled_tasks"], bundled=values), 0).prompts
    assert part == [p for p in everything if p.kind in ("contrast", "task")]
    assert sorted(SOURCES) == sorted({reader.name for reader in SOURCES.values()})  # type: ignore[attr-defined]


@pytest.mark.skipif(not os.environ.get("DRIRL_DATA"), reason="DRIRL_DATA is not set")
def test_real_files() -> None:
    values: dict[str, Any] = {"root": os.environ["DRIRL_DATA"], "writer": "human"}
    dna = collect(settings(**values), 0).prompts
    # paper section 2, by hand: 82 = 53 + 29; 119 = 132 - 29 + 16; 88 = 8 + 19 + 42 + 19; 98 = 67 + 31;
    # 264 = 10 + 112 + 120 + 3 + 19; 193 = 20 + 0 + 40 + 92 + 41; the 95 stereotype items are left out
    assert Counter(p.category for p in dna) == {0: 82, 2: 119, 3: 88, 4: 98, 5: 264, 6: 193}
    assert len(read_held_out(settings(**values, held_out=["xstest", "strongreject"]))) == 450 + 313 + 95
    assert sum(bool(p.answers) for p in dna) > 800
    assert len(collect(settings(**values | {"sources": ["catqa"]}), 0).prompts) == 500
