"""Load and save policies: a hub id or folder, dtype, device. Safetensors only, no remote code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from drirl.errors import DrirlError

__all__ = ["load_policy", "load_tokenizer", "policy_hash", "resolve_device", "save_policy", "seed_everything"]


def resolve_device(name: str) -> torch.device:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DrirlError(
            "run.device: 'cuda' was asked for but no CUDA device is visible; use 'cpu' or 'auto'"
        )
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic kernels."""
    from transformers import set_seed

    set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills every new tensor with NaN, to show reads of unwritten memory. With TRL's
    # buffers of 32768 x vocabulary that is a third of the time of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; padding goes left, as generation needs.

    Raises:
        DrirlError: the path or id holds no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision)
    except Exception as error:
        raise DrirlError(_not_a_model(path, "tokenizer", error)) from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer in evaluation mode.

    Raises:
        DrirlError: the path or id is not a transformers causal LM with safetensors weights.
    """
    tokenizer = load_tokenizer(path, revision)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), revision=revision, dtype=getattr(torch, dtype), use_safetensors=True
        )
    except Exception as error:
        raise DrirlError(_not_a_model(path, "causal language model", error)) from None
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model.eval(), tokenizer


def save_policy(model: Any, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Save a policy as an ordinary transformers folder (safetensors); adapters are merged first."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)


def policy_hash(path: Path) -> str:
    """Return a hash over the weights and tokenizer files of a policy folder (16 hex digits)."""
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*")):
        if file.suffix in {".safetensors", ".json", ".jinja"} and file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as handle:
                for block in iter(lambda: handle.read(1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _not_a_model(path: str | Path, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return f"'{path}' is not a folder or hub id of a {what}{offline}: {reason}"
