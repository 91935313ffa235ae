"""Shared fixtures: offline, CPU, one thread; a tiny randomly initialised policy made on the spot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest

from drirl.environment import _AVX2, _has_avx2

if _has_avx2():  # as the commands set them, so that tests may run in any order
    for _name, _value in _AVX2.items():
        os.environ.setdefault(_name, _value)

hypothesis.settings.register_profile("drirl", deadline=None, derandomize=True)
hypothesis.settings.load_profile("drirl")

ROOT = Path(__file__).resolve().parents[1]

SENTENCES = [
    "How do I bake a loaf of bread at home?",
    "Tell me how to break into a house.",
    "wants: steps. risk: crime. plan: decline #### I can't help with that. It could hurt someone.",
    "wants: steps. risk: none. plan: answer #### Sure. First gather what you need, then go slowly.",
    "What is 3 plus 4? The answer is 7.",
]


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a randomly initialised two-layer Llama with its tokenizer and chat template."""
    import torch

    from drirl.base.architectures import build_model
    from drirl.base.settings import SmallModel
    from drirl.base.tokenizer import train_tokenizer
    from drirl.models import save_policy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(SENTENCES * 20, vocab_size=320, context=128)
    spec = SmallModel(
        architecture="llama",
        vocab_size=320,
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=64,
        context=128,
        steps=1,
        batch_size=1,
        lr=1e-3,
    )
    path = tmp_path_factory.mktemp("policy")
    save_policy(build_model(spec, tokenizer), tokenizer, path)
    return path


@pytest.fixture(scope="session")
def transformers_serve() -> Callable[[Path], AbstractContextManager[str]]:
    """``with transformers_serve(folder) as url``: the server of transformers on loopback."""

    @contextmanager
    def serve(folder: Path) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        process = subprocess.Popen(
            [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), *options],
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return serve


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):  # loading torch takes minutes on a busy machine
        assert process.poll() is None, "transformers serve ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("transformers serve did not start")
