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
