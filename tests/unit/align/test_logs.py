from __future__ import annotations

import pytest

from drirl.align.logs import Progress, log_records


def test_one_record_per_update_without_times() -> None:
    history = [
        {"loss": 0.25, "step": 1, "frac_reward_zero_std": 0.5, "drirl/alpha/2": 1.1, "step_time": 3.0},
        {"loss": float("nan"), "step": 2, "grad_norm": 1.0, "epoch": 1.0},
        {"train_runtime": 9.0, "train_loss": 0.2, "step": 2},
    ]
    assert log_records(history) == [
        {"update": 1, "loss": 0.25, "zero_std_share": 0.5, "alpha/2": 1.1},
        {"update": 2, "loss": None, "grad_norm": 1.0},
    ]


def test_progress_speaks_ten_times(capsys: pytest.CaptureFixture[str]) -> None:
    class State:
        max_steps, global_step = 60, 0

    progress = Progress("cell")
    for step in range(1, 61):
        State.global_step = step
        progress.on_log(None, State, None, {"loss": 0.5, "reward": 1.25})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "cell: update 60/60, loss 0.500, reward 1.250"
