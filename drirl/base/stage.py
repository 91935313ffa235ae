"""Stage ``base``: make every base LLM of ``run.models`` available under ``out/base/<model>``."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from drirl.base.location import POINTER
from drirl.base.settings import BaseModelSpec
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.parallel import map_processes
from drirl.records import atomic_dir, read_jsonl, write_json, write_jsonl
from drirl.resources import Meter

__all__ = ["run"]


def run(params: Params) -> None:
    """Train the small models side by side; check and point to the others.

    Each model leaves ``out/base/<model>/``: a transformers folder with ``log.jsonl``, or ``policy.json``
    naming the path or hub id. Models not named by ``run.models`` are left alone.

    Raises:
        DrirlError: a section with neither or both of ``path`` and ``train``, a path that holds no model.
    """
    items = []
    for name in params.run.models:
        spec = params.base.models[name]
        if (spec.path is None) == (spec.train is None):
            raise DrirlError(f"params.yaml: base.models.{name}: give exactly one of 'path' and 'train'")
        items.append((name, spec, params.run.out, params.run.seed, params.run.device))
    map_processes(
        _one,
        items,
        workers=params.run.workers,
        threads=params.run.threads,
        preload=["drirl.base.train"],
    )


def _one(item: tuple[str, BaseModelSpec, Path, int, str]) -> None:
    name, spec, out, seed, device = item
    meter = Meter("base", name)
    with atomic_dir(out / "base" / name) as folder:
        if spec.train is None:
            _point(spec, folder)
        else:
            _train(name, spec, out, folder, seed, device, meter)
    meter.write(out)


def _train(
    name: str, spec: BaseModelSpec, out: Path, folder: Path, seed: int, device: str, meter: Meter
) -> None:
    from drirl.base.train import train_small_model
    from drirl.models import resolve_device, save_policy

    assert spec.train is not None
    rows: list[dict[str, Any]] = read_jsonl(out / "data" / "base_corpus.jsonl")
    model, tokenizer, log = train_small_model(spec.train, rows, seed, meter, resolve_device(device))
    with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a progress bar for one shard
        save_policy(model, tokenizer, folder)
    _check_reload(
        folder, tokenizer, [message["content"] for row in rows[:200] for message in row["messages"]]
    )
    write_jsonl(folder / "log.jsonl", log)
    parameters = sum(p.numel() for p in model.parameters())
    write_json(
        folder / "base.json", {"model": name, "seed": seed, "parameters": parameters, **meter.counts()}
    )


def _check_reload(folder: Path, tokenizer: Any, texts: list[str]) -> None:
    """Fail if transformers reads the saved tokenizer back as one that gives other ids."""
    from drirl.models import load_tokenizer

    again = load_tokenizer(folder)
    for text in texts:
        if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise DrirlError(
                f"base: the saved tokenizer loads as {type(again).__name__} and reads {text!r} differently"
            )


def _point(spec: BaseModelSpec, folder: Path) -> None:
    from drirl.models import load_tokenizer

    assert spec.path is not None
    tokenizer = load_tokenizer(spec.path, spec.revision)
    if tokenizer.chat_template is None:
        raise DrirlError(
            f"'{spec.path}' has no chat template; name an instruction-tuned model or add a template"
        )
    write_json(folder / POINTER, {"path": spec.path, "revision": spec.revision})
