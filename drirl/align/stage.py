"""Stage ``align``: train one method on one base model, its seeds side by side.

Each seed leaves ``out/align/<model>/<method>/seed<k>/``: ``policy/``, ``log.jsonl``, ``rollouts.jsonl``
(methods that sample) and ``run.json``, which is written last. A seed whose ``run.json`` names the hash of
exactly these settings, inputs and code is kept when the cell runs again; anything else in the cell's folder
is removed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.align.interface import Inputs, Method, find_method, parse_config
from drirl.align.settings import Shared
from drirl.base.location import POINTER, policy_path
from drirl.config import Params, project_root
from drirl.data.split import HALVES_FILE, of_half
from drirl.errors import DrirlError
from drirl.parallel import map_processes
from drirl.records import Demo, Prompt, atomic_dir, read_json, read_jsonl, write_json
from drirl.resources import Meter

__all__ = [
    "Job",
    "hash_files",
    "hash_folder",
    "hash_json",
    "jobs_of",
    "run",
    "train_seed",
    "unfinished",
]

_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers")


@dataclass(frozen=True)
class Job:
    """One seed of a cell; plain values, so that it travels to another process."""

    model: str
    method: str
    seed: int
    values: dict[str, Any]
    shared: Shared
    encoder: Any
    out: Path
    baselines: Path
    policy: str
    revision: str | None
    pointed: bool
    device: str
    dtype: str
    config_hash: str

    @property
    def folder(self) -> Path:
        """Return where the seed's results belong."""
        return self.out / "align" / self.model / self.method / f"seed{self.seed}"


def run(params: Params, *, model: str, method: str) -> None:
    """Train the seeds of one cell that are not there yet.

    Raises:
        DrirlError: an input is missing or malformed, or a seed failed; finished seeds stay.
    """
    meter = Meter("align", f"{model}/{method}")
    jobs = jobs_of(params, model=model, method=method)
    todo = unfinished(jobs)
    preload = find_method(method, jobs[0].baselines).preload if jobs else ()
    map_processes(train_seed, todo, workers=params.run.workers, threads=params.run.threads, preload=preload)
    meter.write(params.run.out, seeds=len(todo), kept=len(jobs) - len(todo))


def jobs_of(
    params: Params,
    *,
    model: str,
    method: str,
    values: dict[str, Any] | None = None,
    folder: Path | None = None,
) -> list[Job]:
    """Return what trains the seeds of a cell.

    Args:
        values: settings of the method, checked by its ``Config``; default: its section of the params.
        folder: where the method's file is; default: ``baselines/``.
    Raises:
        DrirlError: unknown method or setting, or a missing input.
    """
    folder = project_root() / "baselines" if folder is None else folder
    values = params.align.methods[method] if values is None else values
    found = find_method(method, folder)
    config = parse_config(found, values)
    path, revision = policy_path(params.run.out, model)
    inputs = _input_hashes(params, model, found, path, revision)
    splitter = getattr(getattr(config, "hardness", None), "generator", None)
    if splitter is not None and Path(splitter.model).is_dir():
        inputs["splitter"] = hash_folder(Path(splitter.model))
    shared: dict[str, Any] = {
        "model": model,
        "method": method,
        "config": config.model_dump(mode="json"),
        "shared": params.align.shared.model_dump(mode="json"),
        "encoder": params.data.encoder.model_dump(mode="json"),
        "device": params.run.device,
        "dtype": params.run.dtype,
        "inputs": inputs,
        "code": _code_hash(folder / f"{method}.py"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return [
        Job(
            model=model,
            method=method,
            seed=seed,
            values=values,
            shared=params.align.shared,
            encoder=params.data.encoder,
            out=params.run.out,
            baselines=folder,
            policy=path,
            revision=revision,
            pointed=(params.run.out / "base" / model / POINTER).is_file(),
            device=params.run.device,
            dtype=params.run.dtype,
            config_hash=hash_json({**shared, "seed": seed}),
        )
        for seed in params.run.seeds
    ]


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose results are not there, saying which are; drop folders no job will fill."""
    for cell in sorted({job.folder.parent for job in jobs}):
        _discard_strangers(cell, {job.folder.name for job in jobs if job.folder.parent == cell})
    todo = [job for job in jobs if not _finished(job)]
    for job in jobs:
        if job not in todo:
            print(
                f"align {job.model} {job.method} seed {job.seed}: kept, nothing it depends on changed",
                file=sys.stderr,
            )
    return todo


def train_seed(job: Job) -> None:
    """Train one seed and put its folder in place when it is complete."""
    meter = Meter("align", f"{job.model}/{job.method}/seed{job.seed}")
    found = find_method(job.method, job.baselines)
    config = parse_config(found, job.values)
    rewards = job.out / "reward" / job.model
    train, val = _load_splits(job.out, ("train", "val"))
    with atomic_dir(job.folder) as folder:
        inputs = Inputs(
            model=job.model,
            method=job.method,
            seed=job.seed,
            policy_path=job.policy,
            revision=job.revision,
            pointed=job.pointed,
            train=train,
            val=val,
            reward_path=rewards / "irl",
            static_reward_path=rewards / "static",
            shared=job.shared,
            out=folder,
            encoder=job.encoder,
            cache=job.out / "cache",
            meter=meter,
            device=job.device,
            dtype=job.dtype,
        )
        found.train(inputs, config)
        if not (folder / "policy").is_dir():
            raise DrirlError(
                f"baselines/{job.method}.py: train() left no policy; call inputs.save(model, tokenizer)"
            )
        write_json(
            folder / "run.json",
            {
                "model": job.model,
                "method": job.method,
                "seed": job.seed,
                "config": config.model_dump(mode="json"),
                "shared": job.shared.model_dump(mode="json"),
                "config_hash": job.config_hash,
                "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
                "python": ".".join(map(str, sys.version_info[:3])),
                **meter.counts(),
            },
        )
    meter.write(job.out)


def _load_splits(out: Path, splits: Sequence[str]) -> list[list[tuple[Prompt, Demo]]]:
    """Return the prompts of each split with their demonstrations, in the order of the file.

    Raises:
        DrirlError: a prompt without a demonstration.
    """
    demos = {demo.prompt_id: demo for demo in read_jsonl(out / "data" / "demos.jsonl", Demo)}
    prompts = read_jsonl(out / "data" / "prompts.jsonl", Prompt)
    found = []
    for split in splits:
        own = of_half([p for p in prompts if p.split == split], out / "data", "policy")
        for prompt in own:
            if prompt.prompt_id not in demos:
                raise DrirlError(
                    f"{out}/data/demos.jsonl: no demonstration for prompt {prompt.prompt_id} of the {split} "
                    "split; rerun the stage 'data'"
                )
        found.append([(prompt, demos[prompt.prompt_id]) for prompt in own])
    return found


def _finished(job: Job) -> bool:
    record = job.folder / "run.json"
    if not record.is_file():
        return False
    try:
        return read_json(record).get("config_hash") == job.config_hash
    except DrirlError:
        return False


def _discard_strangers(folder: Path, expected: Iterable[str]) -> None:
    """Remove what an interrupted run or another list of seeds left in the cell's folder."""
    keep = set(expected)
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _input_hashes(
    params: Params, model: str, method: Method, path: str, revision: str | None
) -> dict[str, str]:
    data = params.run.out / "data"
    hashes = {"prompts": hash_files([data / "prompts.jsonl"]), "demos": hash_files([data / "demos.jsonl"])}
    if (data / HALVES_FILE).is_file():
        hashes["halves"] = hash_files([data / HALVES_FILE])
    folder = Path(path)
    hashes["policy"] = hash_folder(folder) if folder.is_dir() else f"{path}@{revision}"
    for name in method.uses:
        hashes[name] = hash_folder(params.run.out / "reward" / model / name)
    return hashes


CODE = (
    "align",
    "hardness",
    "base/location.py",
    "data/check.py",
    "data/generators.py",
    "data/raw.py",
    "data/server.py",
    "data/split.py",
    "detect.py",
    "environment.py",
    "generate.py",
    "judge/fence.py",
    "models.py",
    "packs.py",
    "parallel.py",
    "records.py",
    "reward/bank.py",
    "reward/implicit.py",
    "reward/items.py",
    "reward/policy.py",
    "reward/sharing.py",
    "sampler.py",
    "text.py",
)
"""Parts of the package that a seed's result depends on, as dvc.yaml lists them for this stage."""


def _code_hash(method_file: Path) -> str:
    """Hash the sources a seed's result depends on."""
    package = Path(__file__).resolve().parents[1]
    sources = [method_file]
    for part in CODE:
        path = package / part
        sources += [path] if path.is_file() else sorted(path.glob("*.py"))
    return hash_files(sources)


def hash_folder(folder: Path) -> str:
    """Return a hash of the files below a folder, logs apart, or raise a DrirlError if there is none."""
    if not folder.is_dir():
        raise DrirlError(f"{folder}: no such folder; run the stage that writes it ('dvc repro')")
    return hash_files(sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "log.jsonl"))


def hash_files(files: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files, or raise a DrirlError if one is missing."""
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():
            raise DrirlError(f"{file}: no such file; run the stage that writes it ('dvc repro')")
        digest.update(file.name.encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def hash_json(value: Any) -> str:
    """Return a hash of a value of plain types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
