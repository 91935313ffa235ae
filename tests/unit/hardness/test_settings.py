"""Defaults are the default reading; contradictory options are errors."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from drirl.hardness.settings import HardnessSettings

LLM = {"kind": "server", "model": "m"}


def test_default_reading() -> None:
    s = HardnessSettings()
    assert (s.similarity, s.direction, s.combine, s.control) == (
        "sub_sentences",
        "gen_to_demo",
        "product",
        "none",
    )
    assert (s.mask, s.mask_share, s.gamma, s.delta_mean, s.gap_mean, s.gap_update) == (
        "quantile",
        0.2,
        0.9,
        "on",
        "on",
        "unfiltered",
    )
    assert (s.clamp_low, s.clamp_high, s.min_words, s.max_pieces) == (0.25, 4.0, 3, 16)
    assert [s.per_completion, s.recentre, s.drop_masked] == [False] * 3
    assert (s.splitter, s.generator) == ("rules", None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"similarity": "simple_cosine", "direction": "symmetric"}, "no direction"),
        ({"similarity": "simple_cosine", "splitter": "llm", "generator": LLM}, "splits nothing"),
        ({"splitter": "llm"}, "'generator' is set if"),
        ({"generator": LLM}, "'generator' is set if"),
        ({"splitter": "llm", "generator": {"model": "m"}}, "names no LLM"),
        ({"combine": "weighted_sum"}, "'weight'"),
        ({"weight": 0.5}, "'weight'"),
        ({"mask": "fixed"}, "'tau'"),
        ({"tau": 1.0}, "'tau'"),
        ({"recentre": True}, "per_completion"),
        ({"combine": "off", "control": "shuffled"}, "alpha = 1"),
        ({"gap_mean": "frozen", "gap_update": "filtered"}, "gap_mean: on"),
        ({"lambda": 0.5}, "Extra inputs"),
        ({"clamp_low": 1.5}, "less than or equal to 1"),
        ({"gamma": 1.0}, "less than 1"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        HardnessSettings(**values)


def test_on_and_off_may_stand_without_quotes() -> None:
    values = yaml.safe_load("{delta_mean: on, gap_mean: off}")
    assert values == {"delta_mean": True, "gap_mean": False}
    settings = HardnessSettings.model_validate(values)
    assert (settings.delta_mean, settings.gap_mean) == ("on", "off")


def test_written_out_the_splitter_stands_only_where_it_is_used() -> None:
    assert list(HardnessSettings().model_dump())[:5] == [
        "similarity",
        "direction",
        "min_words",
        "max_pieces",
        "combine",
    ]
    settings = HardnessSettings.model_validate({"splitter": "llm", "generator": LLM})
    values = settings.model_dump(mode="json")
    assert (values["splitter"], values["generator"]["model"]) == ("llm", "m")
    assert HardnessSettings.model_validate(values) == settings
