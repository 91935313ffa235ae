"""What a training run leaves behind: one log record per update, progress on stderr. No times."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback

__all__ = ["Progress", "hush", "log_records", "quiet"]

_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_std_share",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off_share",
    "clip_ratio/region_mean": "clip_share",
    "mean_token_accuracy": "token_accuracy",
    "rewards/accuracies": "pair_accuracy",
    "rewards/margins": "pair_margin",
}
_PREFIX = "drirl/"


def log_records(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float | int | None]]:
    """Return one record per update from a Trainer's ``state.log_history``; the names are ours.

    Kept: loss, gradient norm, learning rate, reward, KL, entropy, completion length and shares, and all
    values logged under ``drirl/``. Values that are not finite become None.
    """
    records = []
    for entry in history:
        if "loss" not in entry:
            continue
        record: dict[str, float | int | None] = {"update": int(entry["step"])}
        for key, value in entry.items():
            name = key.removeprefix(_PREFIX) if key.startswith(_PREFIX) else _NAMES.get(key)
            if name is not None:
                finite = value is not None and math.isfinite(float(value))
                record[name] = round(float(value), 7) if finite else None
        records.append(record)
    return records


class Progress(TrainerCallback):
    """One line on stderr for every tenth of a run."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.shown = 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Print the update's main figures when another tenth is done."""
        done = 10 * state.global_step // max(1, state.max_steps)
        if not logs or "loss" not in logs or done <= self.shown:
            return
        self.shown = done
        shown = [
            f"{name} {float(logs[name]):.3f}"
            for name in ("loss", "reward", "kl")
            if logs.get(name) is not None
        ]
        text = f"{self.label}: update {state.global_step}/{state.max_steps}, {', '.join(shown)}"
        print(text, file=sys.stderr, flush=True)


def hush() -> None:
    """Silence the progress bars and notices of the libraries; :class:`Progress` says how far a run is."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


def quiet(trainer: Trainer, label: str) -> None:
    """Replace the Trainer's printing of every log by :class:`Progress`."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(label))
