"""What the bundled grammar keeps out of training."""

from __future__ import annotations

from drirl.data import grammar
from drirl.data.bundled_settings import BundledSettings

BASE = ("base_knowledge", "base_harmful", "base_benign", "base_tasks", "base_phrases")
SMALL = BundledSettings(objects_per_act=3, wordings_train=2, **dict.fromkeys(BASE, 1))


def test_frames_that_are_held_out_are_not_in_training() -> None:
    prompts = [p for p in grammar.build(0, SMALL).prompts if p.kind != "task"]
    frames = {split: {p.wording for p in prompts if p.split == split} for split in ("train", "val", "test")}
    assert all(frames.values())
    assert not frames["train"] & (frames["val"] | frames["test"])


def test_other_harms_that_distract_are_of_the_training_split() -> None:
    intents = grammar._intents(0, SMALL)
    assert {i.split for i in intents} == {"train", "val", "test"}
    assert {i.split for part in grammar._distractors(intents) for i in part} == {"train"}


def test_contrast_acts_that_are_held_out_are_unknown_to_the_base() -> None:
    intents = [i for i in grammar._intents(0, SMALL) if i.kind == "contrast"]
    rows = grammar._base_rows(grammar._intents(0, SMALL), 0, SMALL.model_copy(update={"base_knowledge": 600}))
    told = [row["messages"][0]["content"].lower() for row in rows if row["tag"] == "knowledge"]
    known = {
        i.split
        for i in intents
        for form in i.forms
        for words in form
        for text in told
        if words.lower() in text
    }
    assert known == {"train"}
