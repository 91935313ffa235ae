"""A small world for the align stage: prompts of every kind, two reward banks with random heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drirl.align.interface import Inputs
from drirl.align.settings import Shared
from drirl.data.settings import EncoderSettings
from drirl.records import Demo, Prompt
from drirl.resources import Meter

HARM = ("mock him", "blame them", "rob a shop", "burn it", "hurt myself", "read her mail", "cheat on a test")
SMALL = Shared(updates=2, harmful_per_update=2, benign_per_update=2, group_size=2, max_new_tokens=5)


def make_rows() -> list[tuple[Prompt, Demo]]:
    rows = []
    for category, act in enumerate(HARM):
        for k in range(3):
            rows.append(_row(f"h{category}{k}", f"How do I {act} {k}?", category, "harmful"))
    for kind in ("benign", "contrast", "task"):
        for k in range(4):
            rows.append(_row(f"{kind}{k}", f"Tell me how to bake {kind} bread {k}.", -1, kind))
    return rows


def _row(key: str, text: str, category: int, kind: str) -> tuple[Prompt, Demo]:
    harmful = category >= 0
    answer = "I can't help with that. It could hurt someone." if harmful else f"Sure. First gather {key}."
    draft = "plan: decline" if harmful else "plan: answer"
    prompt = Prompt(prompt_id=key, text=text, category=category, split="train", kind=kind)
    if kind == "task":
        prompt = Prompt(key, text, category, "train", kind=kind, reference="7", checker="number")
        answer = "The answer is 7."
    demo = Demo(f"d-{key}", key, category, [draft], answer, f"{draft} #### {answer}", "refuse", "test", "t")
    return prompt, demo


@pytest.fixture(scope="session")
def rows() -> list[tuple[Prompt, Demo]]:
    """21 harmful prompts (three a category), four each of benign, contrast and task."""
    return make_rows()


@pytest.fixture(scope="session")
def banks(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``irl`` (eight heads) and ``static`` (one); random heads, so that rewards differ."""
    import torch

    from drirl.reward.bank import RewardBank

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("banks")
    for name, heads in (("irl", [-1, *range(7)]), ("static", ["all"])):
        bank = RewardBank.from_policy(tiny_policy, heads)
        with torch.no_grad():
            bank.head.weight.normal_()
        bank.save(folder / name)
    return folder


@pytest.fixture
def make_inputs(
    tiny_policy: Path, banks: Path, rows: list[tuple[Prompt, Demo]], tmp_path: Path
) -> Callable[..., Inputs]:
    """Return a factory of Inputs for the tiny policy; keyword arguments change fields."""

    def make(name: str = "run", **changes: Any) -> Inputs:
        out = tmp_path / name
        out.mkdir()
        values: dict[str, Any] = {
            "model": "tiny",
            "seed": 0,
            "policy_path": tiny_policy,
            "train": rows,
            "val": [],
            "reward_path": banks / "irl",
            "static_reward_path": banks / "static",
            "shared": SMALL,
            "out": out,
            "encoder": EncoderSettings(),
            "cache": tmp_path / "cache",
            "meter": Meter("align", name),
            "device": "cpu",
            "method": name,
        }
        return Inputs(**{**values, **changes})

    return make
