"""The one small interface between the pipeline and a method in ``baselines/``.

A method is a file ``baselines/<name>.py`` that defines

- a module docstring (what it optimises, paper, equations, deviations) and ``PAPER``, a link;
- ``Config``: a frozen :class:`drirl.settings.Section`, its section ``align.methods.<name>``;
- ``train(inputs: Inputs, config: Config) -> None``: train and leave the policy with ``inputs.save(...)``.

Optional: ``USES``, which rewards it reads (of ``"irl"``, ``"static"``; all if absent): a change of the others
does not retrain it. ``PRELOAD``, modules imported once before the seeds fork; the reinforcement learning
stack if absent. Heavy imports belong inside ``train``: the method is also imported to check its section.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from drirl.align.settings import Shared
from drirl.errors import DrirlError, nearest
from drirl.records import write_json
from drirl.settings import Section

if TYPE_CHECKING:
    from drirl.records import Demo, Prompt
    from drirl.resources import Meter

__all__ = ["Inputs", "Method", "find_method", "known_methods", "parse_config"]

REWARDS = ("irl", "static")
PRELOAD = ("drirl.align.setup",)


@dataclass
class Inputs:
    """Everything a method may use; identical for every method of a (model, seed).

    Attributes:
        model: name of the base model.
        seed: seed of this run.
        policy_path: transformers folder of the base policy, which is also the reference policy.
        train: prompts of the train split with their demonstrations, shuffled by no one yet.
        val: the same of the validation split; for early stopping and tuning only.
        reward_path: folder of the category rewards (``drirl.reward.RewardBank.load``).
        static_reward_path: folder of the one static Bradley-Terry reward.
        shared: budget, decoding, KL: the same for every method.
        out: folder to write the policy and logs into; it exists and is empty.
        encoder: settings of the frozen sentence encoder (``drirl.hardness.encoder.load_encoder``).
        cache: folder for caches that do not change results (embeddings).
        meter: counts updates and generated tokens.
        device, dtype: where models run and the number format of their weights.
        revision: pinned revision, if ``policy_path`` is a hub id.
        pointed: ``policy_path`` was named by the user, not trained by the stage ``base``.
    """

    model: str
    seed: int
    policy_path: Path | str
    train: list[tuple[Prompt, Demo]]
    val: list[tuple[Prompt, Demo]]
    reward_path: Path
    static_reward_path: Path
    shared: Shared
    out: Path
    encoder: Any
    cache: Path
    meter: Meter
    device: str = "cpu"
    dtype: str = "float32"
    revision: str | None = None
    method: str = ""
    pointed: bool = False

    @property
    def label(self) -> str:
        """Name of this run in messages."""
        return f"align {self.model} {self.method} seed {self.seed}"

    def save(self, model: Any, tokenizer: Any) -> None:
        """Write the trained policy to ``out/policy`` as an ordinary transformers folder."""
        from drirl.models import save_policy

        with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a progress bar for one shard
            save_policy(model, tokenizer, self.out / "policy")

    def point(self) -> None:
        """Leave the base policy itself: a copy of its folder, or ``policy.json`` naming the user's model."""
        source, target = Path(self.policy_path), self.out / "policy"
        target.mkdir()
        if self.pointed:
            write_json(target / "policy.json", {"path": str(self.policy_path), "revision": self.revision})
            return
        for file in sorted(source.iterdir()):
            if (
                file.suffix in {".safetensors", ".json", ".jinja", ".model", ".txt"}
                and file.name != "base.json"
            ):
                shutil.copyfile(file, target / file.name)


@dataclass(frozen=True)
class Method:
    """A method found in ``baselines/``."""

    name: str
    paper: str
    summary: str
    config: type[Section]
    train: Callable[[Inputs, Any], None]
    uses: tuple[str, ...] = REWARDS
    preload: tuple[str, ...] = PRELOAD


def known_methods(folder: Path) -> list[str]:
    """Return the names of the method files in ``folder``, sorted."""
    return sorted(p.stem for p in Path(folder).glob("*.py") if not p.stem.startswith("_"))


def find_method(name: str, folder: Path) -> Method:
    """Import ``folder/name.py`` and return the method it defines.

    Raises:
        DrirlError: no such file (the known ones and the nearest are listed), or a part is missing.
    """
    path = Path(folder) / f"{name}.py"
    if name.startswith("_") or not path.is_file():
        raise DrirlError(f"unknown method '{name}' in {folder}: {nearest(name, known_methods(folder))}")
    module = _load(path)
    for part in ("PAPER", "Config", "train"):
        if not hasattr(module, part):
            raise DrirlError(f"{path}: a method file defines PAPER, Config and train; '{part}' is missing")
    summary = (module.__doc__ or "").strip().splitlines()
    return Method(
        name,
        module.PAPER,
        summary[0] if summary else "",
        module.Config,
        module.train,
        tuple(getattr(module, "USES", REWARDS)),
        tuple(getattr(module, "PRELOAD", PRELOAD)),
    )


def parse_config(method: Method, values: dict[str, Any], where: str = "params.yaml") -> Section:
    """Check ``values`` against the method's ``Config``; the first mistake becomes a one-line error."""
    try:
        return method.config.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["align", "methods", method.name, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), method.config.model_fields)
            raise DrirlError(f"{where}: unknown key '{key}'; {hint}") from None
        raise DrirlError(f"{where}: {key}: {first['msg']}, found {first.get('input')!r}") from None


def _load(path: Path) -> ModuleType:
    name = f"drirl_baselines.{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DrirlError(f"{path}: cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
