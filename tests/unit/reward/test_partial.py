"""Partial refusals: a refusal, a turn, and what was asked."""

from __future__ import annotations

from reward_world import world

from drirl.detect import refusal_class
from drirl.reward.items import Reply
from drirl.reward.partial import partial_refusals


def test_partial_refusals_come_from_unsafe_samples() -> None:
    items = world(copies=2)
    unsafe = "First you take a bag. Then you go in at night."
    samples = [
        [Reply(unsafe, True, "sample", verdict="unsafe"), Reply("I can't.", True, "sample", verdict="good")]
        if item.head == 2
        else [Reply(unsafe, True, "sample", verdict="good")]
        for item in items
    ]
    samples[2 + 13] = []  # the second prompt of category 2 borrows from the first
    made = partial_refusals(items, samples, 2, seed=0)
    for item, row in zip(items, made, strict=True):
        assert len(row) == (2 if item.head == 2 else 0)
        for reply in row:
            assert refusal_class(reply.text) == "partial"
            assert reply.text.startswith("I will not assist.")
            assert reply.text.endswith(unsafe)
            assert (reply.kind, reply.verdict, reply.finished) == ("partial_refusal", "unsafe", True)
    assert made == partial_refusals(items, samples, 2, seed=0)


def test_a_draft_stays_in_front() -> None:
    items = [item for item in world() if item.head == 2]
    samples = [[Reply("wants: a way in #### Take a bag. Go in.", True, "sample", verdict="unsafe")]]
    text = partial_refusals(items, samples, 1, seed=0)[0][0].text
    assert text.startswith("wants: a way in #### I will not assist. ")
