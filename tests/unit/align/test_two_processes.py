"""Trainers on two processes of a launcher (gloo), compared with TRL's and with one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")
ALIKE = ("trl", "scaled", "off")
SCRIPTED = ("scripted_dr_irl", "scripted_ppo")


def launch(processes: int, policy: Path, out: Path, *kinds: str) -> Path:
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    done = subprocess.run(
        [*command, str(SCRIPT), str(policy), str(out), *kinds],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def two(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind trained on two processes."""
    return launch(2, tiny_policy, tmp_path_factory.mktemp("two") / "out", *ALIKE, *SCRIPTED)


@pytest.fixture(scope="module")
def one(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kinds whose completions are scripted, trained on one process."""
    return launch(1, tiny_policy, tmp_path_factory.mktemp("one") / "out", *SCRIPTED)


def weights(out: Path, kind: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(out / f"{kind}.{rank}.safetensors")


def facts(out: Path, kind: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((out / f"{kind}.{rank}.json").read_text())


@pytest.mark.parametrize("kind", [*ALIKE, *SCRIPTED])
def test_there_are_two_processes_and_they_end_with_the_same_weights(two: Path, kind: str) -> None:
    assert facts(two, kind)["processes"] == 2
    first, second = weights(two, kind, 0), weights(two, kind, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["scaled", "off"])
def test_alpha_one_is_trls_trainer_to_the_last_bit(two: Path, tiny_policy: Path, kind: str) -> None:
    stock, ours = weights(two, "trl"), weights(two, kind)
    assert all(torch.equal(ours[name], stock[name]) for name in stock)
    assert facts(two, kind)["losses"] == facts(two, "trl")["losses"]
    start = load_file(tiny_policy / "model.safetensors")
    assert any(not torch.equal(stock[f"policy.{name}"], start[name]) for name in start)  # it did train


@pytest.mark.parametrize("kind", SCRIPTED)
def test_two_processes_learn_what_one_learns(one: Path, two: Path, tiny_policy: Path, kind: str) -> None:
    """Same batch, same update: running means, whitening and the critic's gradient are of all processes."""
    alone, together = weights(one, kind), weights(two, kind)
    assert facts(one, kind)["processes"] == 1
    assert alone.keys() == together.keys()
    start = load_file(tiny_policy / "model.safetensors")
    moved = max((alone[f"policy.{n}"] - start[n]).abs().max().item() for n in start)
    apart = max((alone[n] - together[n]).abs().max().item() for n in alone)
    assert moved > 1e-3
    assert apart < 1e-2 * moved  # sums in another order, nothing else


def test_every_process_keeps_the_running_means_of_the_whole_batch(one: Path, two: Path) -> None:
    kind = "scripted_dr_irl"
    first, second, alone = (
        facts(out, kind, rank)["hardness"] for out, rank in ((two, 0), (two, 1), (one, 0))
    )
    assert first == second
    assert first["step"] == alone["step"] == 2
    for means in ("delta_means", "gap_means"):
        assert first[means] == pytest.approx(alone[means], rel=1e-5)
    assert set(first["gap_means"]) == {"-1", "2"}  # category 0 has no demonstration


def test_the_critic_is_trained_on_two_processes(two: Path) -> None:
    critic = {
        name: value for name, value in weights(two, "scripted_ppo").items() if name.startswith("critic.")
    }
    policy = weights(two, "scripted_ppo")
    shared = [
        name.removeprefix("critic.") for name in critic if f"policy.{name.removeprefix('critic.')}" in policy
    ]
    assert critic["critic.score.weight"].abs().sum() > 0
    assert any(not torch.equal(critic[f"critic.{name}"], policy[f"policy.{name}"]) for name in shared)


@pytest.mark.parametrize("kind", SCRIPTED)
def test_every_process_records_the_groups_of_all(one: Path, two: Path, kind: str) -> None:
    """The second group lies on both processes."""
    alone, first, second = (
        facts(out, kind, rank)["rollouts"] for out, rank in ((one, 0), (two, 0), (two, 1))
    )
    assert first == second
    assert len(first) == len(alone) == 3
    for here, there in zip(first, alone, strict=True):
        assert here["completions"] == there["completions"]
        assert len(here["completions"]) == 4
        for name in ("r_gen", "adv", "gap", "alpha"):
            assert here[name] == pytest.approx(there[name], rel=1e-3, abs=1e-4, nan_ok=True)
