"""Chunks of records: what is in them, that nothing gets lost, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.compare.collect import collect
from drirl.compare.page.records import archive, bundled_texts, labels, pack, unpack

from ..conftest import item, write_cell
from .conftest import HOSTILE, METHODS

ALL = {"models": ("tiny-llama", "tiny-qwen2"), "methods": (*METHODS, "ppo"), "seeds": (0, 1, 2)}


def everything(out: Path, **options: object) -> tuple[dict[tuple[str, ...], object], object]:
    """Return completion and scores by (model, method, seed, benchmark, item), and the archive."""
    records = collect(out, **ALL)  # type: ignore[arg-type]
    made = archive(out, records, sources=["bundled"], **options)  # type: ignore[arg-type]
    found: dict[tuple[str, ...], object] = {}
    for benchmark in made.index["benchmarks"]:
        for part in benchmark["parts"]:
            items = unpack(made.chunks[part["items"]])
            for model, key in part["records"].items():
                chunk = unpack(made.chunks[key])
                for p, (method, seed) in enumerate(made.index["policies"][model]):
                    for i, item_id in enumerate(items["id"]):
                        place = chunk["completion"][p][i]
                        if place >= 0:
                            values = [matrix[p][i] for matrix in chunk["values"]]
                            where = (model, method, str(seed), benchmark["name"], item_id)
                            found[where] = (
                                items["prompt"][i],
                                chunk["texts"][place],
                                values,
                                i in chunk["cut"][p],
                            )
    return found, made


def test_every_record_comes_back(hostile: Path) -> None:
    found, made = everything(hostile)
    assert len(found) == made.records == 2 * (1 + 3 + 3) * (21 + 4 + 2)
    assert made.left_out == 0
    prompt, text, values, cut = found["tiny-qwen2", "dpo", "2", "drirl_tiny_harmful", "h3"]
    assert prompt == f"3: {HOSTILE[3]}"
    assert text == f"dpo 2 3: {HOSTILE[3]}"
    assert values == [0, 0.429]  # (3 + 1 + 2) % 3 is 0; 3 / 7
    assert cut is True
    lone = found["tiny-llama", "base", "0", "drirl_tiny_harmful", "h6"]
    assert lone[1].endswith("lone \ud800 half")


def test_a_score_that_is_no_number_is_missing(tmp_path: Path) -> None:
    values = (float("nan"), float("inf"), 0.5)
    items = [item(item_id=f"p{place}", value=value) for place, value in enumerate(values)]
    write_cell(tmp_path, "tiny", "base", items)
    made = archive(tmp_path, collect(tmp_path, ["tiny"], ["base"], [0]), sources=["bundled"])
    key = made.index["benchmarks"][0]["parts"][0]["records"]["tiny"]
    assert unpack(made.chunks[key])["values"] == [[[None, None, 0.5]]]


def test_small_chunks_hold_the_same(hostile: Path) -> None:
    whole, one = everything(hostile)
    split, many = everything(hostile, chunk=21)  # three prompts of seven policies
    assert whole == split
    assert len(many.chunks) > len(one.chunks)
    assert max(part["count"] for b in many.index["benchmarks"] for part in b["parts"]) == 3


def test_texts_of_other_data_sets_stay_out(hostile: Path) -> None:
    found, made = everything(hostile)
    assert found["tiny-llama", "dpo", "0", "drirl_gsm8k", "g0"][:2] == (None, "")
    assert "secret" not in str({key: unpack(text) for key, text in made.chunks.items()})
    found, _ = everything(hostile, texts="all")
    assert found["tiny-llama", "dpo", "0", "drirl_gsm8k", "g0"][:2] == ("secret sum 0", "secret answer")
    found, _ = everything(hostile, texts="none")
    assert {record[:2] for record in found.values()} == {(None, "")}
    assert not bundled_texts(["bundled", "beavertails"], "drirl_tiny_harmful")


def test_one_seed_is_kept_if_all_are_too_many(hostile: Path) -> None:
    found, made = everything(hostile, budget=100)
    assert {key[2] for key in found} == {"0"}
    assert made.records == 2 * 3 * 27
    assert made.left_out == 2 * 4 * 27


def test_packing_is_the_same_every_time_and_safe_in_html() -> None:
    value = {"text": "</script>\ud800\x00", "n": 1}
    assert pack(value) == pack(value)
    assert set(pack(value)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("false_refusal_rate", ("answered", "refused")),
        ("exact_match", ("wrong", "correct")),
        ("degenerate_rate", ("fine", "degenerate")),
        ("mean_reward", None),
    ],
)
def test_words_of_a_score(metric: str, words: tuple[str, str] | None) -> None:
    assert labels(metric) == words
