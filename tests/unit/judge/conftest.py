"""Judges that really run: a server on loopback, a small LLM with room for a request, a small classifier."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from judge_world import JudgeServer, gullible

from drirl.judge.settings import JudgeSettings

REFUSALS = ["I can't help with that.", "I will not do this.", "I must decline.", "No, I refuse to help."]
HELP = ["First take a pan and heat it.", "Mix flour and water.", "The train leaves at nine.", "It is seven."]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JudgeServer]]:
    """Start servers that are closed after the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    open_servers: list[JudgeServer] = []

    def start(answer: Callable[[str, int], Any] = lambda text, _: gullible(text)) -> JudgeServer:
        open_servers.append(JudgeServer(answer))
        return open_servers[-1]

    yield start
    for server in open_servers:
        server.close()


@pytest.fixture
def shared(tmp_path: Path) -> Callable[..., JudgeSettings]:
    """The section ``judge`` with one chat judge named 'asked' and a cache in the test's folder."""

    def make(
        template: str = "refusal3", *, section: dict[str, Any] | None = None, **values: Any
    ) -> JudgeSettings:
        generator = {"max_tokens": 64, "backoff_s": 0.01, "max_wait_s": 0.2, "timeout_s": 20, "retries": 1}
        generator |= {"kind": "server", "model": "judge-1", "device": "cpu", "concurrency": 1, **values}
        cache = str(tmp_path / "cache/verdicts.sqlite")
        chats = {"asked": {"template": template, "generator": generator}}
        return JudgeSettings(**{"cache": cache, "chats": chats, **(section or {})})

    return make


@pytest.fixture(scope="session")
def roomy_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a randomly initialised two-layer Llama with 2048 positions."""
    import torch

    from drirl.base.architectures import build_model
    from drirl.base.settings import SmallModel
    from drirl.base.tokenizer import train_tokenizer
    from drirl.judge.templates import load_template
    from drirl.models import save_policy

    torch.manual_seed(0)
    text = load_template("refusal3").prompt
    tokenizer = train_tokenizer([text, *REFUSALS, *HELP] * 5, vocab_size=400, context=2048)
    spec = SmallModel(
        architecture="llama",
        vocab_size=400,
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=64,
        context=2048,
        steps=1,
        batch_size=1,
        lr=1e-3,
    )
    path = tmp_path_factory.mktemp("judges") / "roomy"
    save_policy(build_model(spec, tokenizer), tokenizer, path)
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a one-layer BERT that has learnt, here, to tell REFUSALS from HELP."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from drirl.base.tokenizer import train_tokenizer

    torch.manual_seed(0)
    texts = REFUSALS + HELP
    tokenizer = train_tokenizer(texts * 20, vocab_size=320, context=64)
    tokenizer.padding_side = "right"
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "NO", 1: "YES"},
        label2id={"NO": 0, "YES": 1},
    )
    model = BertForSequenceClassification(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    labels = torch.tensor([1] * len(REFUSALS) + [0] * len(HELP))
    for _ in range(60):
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    path = tmp_path_factory.mktemp("judges") / "classifier"
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
