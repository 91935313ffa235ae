"""Finished outer IRL iterations on disk, for rewards that begin as these did and stop earlier or go on.

Rewards with T and T' outer iterations share the first min(T, T'). What is kept of an iteration is enough to
leave it out: the calibrated bank, the judged samples and the log of the fit.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drirl.errors import DrirlError
from drirl.records import atomic_dir, read_json, read_jsonl, write_json, write_jsonl
from drirl.reward.bank import RewardBank
from drirl.reward.fit import FitLog
from drirl.reward.items import Reply

__all__ = ["Counts", "Kept", "Outer", "digest", "identity"]

Samples = list[list[Reply]]

_FREE = {
    "bootstrap",
    "iterations",
    "keep_iterations",
    "report_pairs",
    "report_rounds",
    "report_split",
    "static",
}
"""Settings that leave an iteration as it is: how many there are, and what comes after the last.

``report_prompts`` is none: it says which val prompts choose the weights of a fit."""


def identity(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what an iteration depends on: settings (plain values), and whatever else is named."""
    return {"settings": {key: value for key, value in settings.items() if key not in _FREE}, **more}


def digest(files: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files, whatever their order."""
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        with path.open("rb") as handle:
            own = hashlib.file_digest(handle, "sha256").digest()
        whole.update(path.name.encode() + b"\0" + own)
    return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Counts:
    """What a run had spent when an iteration was done, all earlier ones included.

    ``cpu_s``, ``wall_s``: seconds. ``updates``: optimiser steps of policies. ``generated_tokens``: sampled.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    updates: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class Kept:
    """A finished iteration: the policy's judged samples (items x K) for train and val, the fit's log."""

    samples: Samples
    val_samples: Samples
    log: FitLog


class Outer:
    """Iterations under ``folder``: ``0/``, ``1/``, ...; what they cost is under ``counts``, outside any hash.

    Attributes:
        identity: what they depend on (:func:`identity`); kept ones of another identity do not count.
    """

    def __init__(self, folder: Path, counts: Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.counts_folder = Path(counts)
        self.identity = identity

    def __len__(self) -> int:
        """How many of the first iterations are there."""
        record = self.folder / "identity.json"
        if not record.is_file() or read_json(record) != self.identity:
            return 0
        t = 0
        while (self.folder / str(t) / "log.json").is_file() and self._counts(t).is_file():
            t += 1
        return t

    def keep(self, t: int, bank: RewardBank, kept: Kept, counts: Counts) -> None:
        """Write iteration ``t``, each part atomically; iterations of another identity go first."""
        record = self.folder / "identity.json"
        if self.folder.is_dir() and not (record.is_file() and read_json(record) == self.identity):
            shutil.rmtree(self.folder)
        write_json(self.folder / "identity.json", self.identity)
        write_json(self._counts(t), asdict(counts))
        with atomic_dir(self.folder / str(t)) as folder:
            bank.save(folder / "bank")
            for name, samples in (("samples", kept.samples), ("val_samples", kept.val_samples)):
                rows = [{"item": i, **asdict(r)} for i, replies in enumerate(samples) for r in replies]
                write_jsonl(folder / f"{name}.jsonl", rows)
            sizes = [len(kept.samples), len(kept.val_samples)]
            write_json(folder / "log.json", {"items": sizes, **asdict(kept.log)})

    def load(self, t: int, bank: RewardBank) -> Kept:
        """Give ``bank`` the weights and calibration of iteration ``t``; return the rest of it.

        Raises:
            DrirlError: a file is missing or malformed, or the weights are those of another bank.
        """
        folder = self.folder / str(t)
        found = RewardBank.load(folder / "bank", bank.device)
        try:
            bank.load_state_dict(found.state_dict())
            log: dict[str, Any] = read_json(folder / "log.json")
            sizes = log.pop("items")
            samples = _by_item(read_jsonl(folder / "samples.jsonl"), sizes[0])
            val_samples = _by_item(read_jsonl(folder / "val_samples.jsonl"), sizes[1])
            return Kept(samples, val_samples, FitLog(**log))
        except (RuntimeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise DrirlError(
                f"{folder}: not an iteration of these rewards ({error}); delete {self.folder}"
            ) from None

    def counts(self, t: int) -> Counts:
        """Return what had been spent when iteration ``t`` was done."""
        return Counts(**read_json(self._counts(t)))

    def _counts(self, t: int) -> Path:
        return self.counts_folder / f"{t}.json"


def _by_item(rows: Sequence[dict[str, Any]], size: int) -> Samples:
    samples: Samples = [[] for _ in range(size)]
    for row in rows:
        samples[row.pop("item")].append(Reply(**row))
    return samples
