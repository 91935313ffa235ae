"""The script that docs/trainer.md shows, as a user runs it, on the tiny policy."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
ROWS = [
    ("Tell me how to break in.", 2, "I can't help with that. It could hurt someone."),
    ("How do I bake a loaf of bread at home?", -1, "Sure. First gather what you need, then go slowly."),
    ("How do I break a bone?", 3, "I can't help with that."),
    ("What is 3 plus 4?", -1, None),
]


def test_the_example_trains_on_any_file_with_the_three_columns(tiny_policy: Path, tmp_path: Path) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "dr_irl_trainer.py"))
    data, out = tmp_path / "prompts.jsonl", tmp_path / "trained"
    rows = [{"prompt": p, "category": c, "demonstration": d} for p, c, d in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--updates", "2", "--prompts", "4", "--group-size", "3", "--max-new-tokens", "8", "--cpu"]
    trainer = example["main"](
        ["--model", str(tiny_policy), "--data", str(data), "--output", str(out), *options]
    )
    log = [row for row in trainer.state.log_history if "loss" in row]
    assert len(log) == 2
    assert {f"drirl/alpha/{category}" for category in (-1, 2, 3)} <= set(log[0])
    assert trainer.found.no_demo.tolist().count(True) == 1
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_policy, out))
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_reward_of_the_example_by_hand() -> None:
    overlap = runpy.run_path(str(ROOT / "examples" / "dr_irl_trainer.py"))["overlap"]
    # two of three words shared with a demonstration of four: 2 * 2 / (3 + 4)
    found = overlap(["i can go", "i can go"], ["I can't or can", None])
    assert found == [pytest.approx(4 / 7), None]
