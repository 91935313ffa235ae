from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from drirl.base.architectures import build_model
from drirl.base.settings import SmallModel
from drirl.base.tokenizer import train_tokenizer
from drirl.base.train import encode_rows, reply_loss, train_small_model
from drirl.errors import DrirlError
from drirl.models import load_tokenizer, save_policy
from drirl.resources import Meter

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {word}."},
            {"role": "assistant", "content": f"{word} 12!"},
        ],
        "loss": "reply",
    }
    for word in ("red", "blue", "green", "don't", "ünïcode")
]


def spec(architecture: str = "llama", **values: object) -> SmallModel:
    fields: dict[str, object] = {
        "architecture": architecture,
        "vocab_size": 300,
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
        "intermediate_size": 32,
        "context": 64,
        "steps": 3,
        "batch_size": 2,
        "lr": 1e-3,
    }
    return SmallModel.model_validate({**fields, **values})


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_saved_tokenizer_reads_back_the_same(architecture: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([m["content"] for r in ROWS for m in r["messages"]] * 3, 300, 64)
    model = build_model(spec(architecture), tokenizer)
    save_policy(model, tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert len(again) == model.config.vocab_size
    for text in (
        "What is 12 plus 3? don't",
        "wants: a; risk: b #### ünïcode",
        "  two  spaces\n",
        "<|user|>hi",
    ):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == text


def test_only_the_reply_counts() -> None:
    tokenizer = train_tokenizer([m["content"] for r in ROWS for m in r["messages"]] * 3, 300, 64)
    tokens, start = encode_rows(ROWS[:1], tokenizer, 64)[0]
    assert tokenizer.decode(tokens[start:]) == "red 12!<|end|>"


def test_loss_of_a_uniform_model_is_log_vocabulary() -> None:
    tokenizer = train_tokenizer(["a b c"], 262, 64)
    torch.manual_seed(0)
    model = build_model(spec(), tokenizer)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    batch = [([5, 6, 7, 8], 2), ([5, 6], 1)]
    assert reply_loss(model, batch, 0).item() == pytest.approx(math.log(len(tokenizer)), rel=1e-5)


def test_a_row_longer_than_the_context_is_named() -> None:
    tokenizer = train_tokenizer(["a b c"], 262, 64)
    with pytest.raises(DrirlError, match=r"row 2.*context is 8"):
        encode_rows(
            [{"messages": [{"role": "user", "content": "a"}], "loss": "all"}, *ROWS[3:4]], tokenizer, 8
        )


def test_training_is_deterministic() -> None:
    first, _, log = train_small_model(spec(), ROWS, 1, Meter("base", "a"))
    again, _, _ = train_small_model(spec(), ROWS, 1, Meter("base", "b"))
    other, _, _ = train_small_model(spec(), ROWS, 2, Meter("base", "c"))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters())]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))
    assert log[-1]["step"] == 3


def test_unknown_architecture_lists_the_known() -> None:
    tokenizer = train_tokenizer(["a b c"], 262, 64)
    with pytest.raises(DrirlError, match="did you mean 'llama'"):
        build_model(spec("lama"), tokenizer)
