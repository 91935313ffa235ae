"""Train a small causal LM from scratch on the rows of ``base_corpus.jsonl``."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from drirl.base.architectures import build_model
from drirl.base.settings import SmallModel
from drirl.base.tokenizer import train_tokenizer
from drirl.errors import DrirlError
from drirl.models import seed_everything
from drirl.resources import Meter

__all__ = ["encode_rows", "reply_loss", "train_small_model"]

Encoded = tuple[list[int], int]
"""Token ids of a conversation, and the position of the first token whose loss counts."""


def encode_rows(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, context: int
) -> list[Encoded]:
    """Tokenise conversations; ``loss: reply`` counts the assistant's last message only.

    Raises:
        DrirlError: a row longer than the context.
    """
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    heads = [
        tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        if row.get("loss") == "reply"
        else ""
        for row in rows
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    starts = tokenizer(heads, add_special_tokens=False)["input_ids"]
    encoded = []
    for number, (tokens, head) in enumerate(zip(ids, starts), 1):
        if len(tokens) > context:
            raise DrirlError(
                f"base corpus row {number}: {len(tokens)} tokens, the context is {context}; "
                "raise base.models.<name>.train.context or shorten the row"
            )
        encoded.append((tokens, max(1, len(head))))
    return encoded


def reply_loss(model: PreTrainedModel, batch: Sequence[Encoded], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy over the counted tokens; logits are computed at those positions only.

    Args:
        batch: B encoded rows; padded on the right here to (B, T).
    """
    width = max(len(tokens) for tokens, _ in batch)
    ids = torch.full((len(batch), width), pad_id)
    counted = torch.zeros((len(batch), width), dtype=torch.bool)
    for k, (tokens, start) in enumerate(batch):
        ids[k, : len(tokens)] = torch.tensor(tokens)
        counted[k, start : len(tokens)] = True
    ids, counted = ids.to(model.device), counted.to(model.device)
    # Right padding needs no mask: causal attention never looks from a counted position to a padded one.
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, D)
    logits = model.get_output_embeddings()(hidden[:, :-1][counted[:, 1:]])  # (N, V)
    return functional.cross_entropy(logits.float(), ids[:, 1:][counted[:, 1:]])


def _batches(encoded: Sequence[Encoded], size: int, steps: int, seed: int) -> list[list[int]]:
    """Return ``steps`` batches of row indices: shuffled epochs, rows of similar length together."""
    rng = random.Random(seed)
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = list(range(len(encoded)))
        rng.shuffle(order)
        epoch = []
        pool = size * 32
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool], key=lambda i: (len(encoded[i][0]), i))
            epoch += [chunk[k : k + size] for k in range(0, len(chunk) - size + 1, size)]
        rng.shuffle(epoch)
        if not epoch:
            raise DrirlError(f"base corpus: {len(encoded)} rows are fewer than one batch of {size}")
        batches += epoch
    return batches[:steps]


def train_small_model(
    spec: SmallModel,
    rows: Sequence[dict[str, Any]],
    seed: int,
    meter: Meter,
    device: torch.device | str = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict[str, float]]]:
    """Train tokenizer and model; return them with a loss log (one row per 50 steps).

    AdamW with a one-cycle learning rate; gradients clipped at norm 1.
    """
    seed_everything(seed)
    texts = [message["content"] for row in rows[:20000] for message in row["messages"]]
    tokenizer = train_tokenizer(texts, spec.vocab_size, spec.context)
    model = build_model(spec, tokenizer)
    model.to(torch.device(device))  # type: ignore[arg-type]
    model.train()
    encoded = encode_rows(rows, tokenizer, spec.context)
    batches = _batches(encoded, spec.batch_size, spec.steps, seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=spec.lr, total_steps=spec.steps, pct_start=0.1
    )
    log: list[dict[str, float]] = []
    running = 0.0
    for step, batch in enumerate(batches, 1):
        chosen = [encoded[i] for i in batch]
        loss = reply_loss(model, chosen, int(tokenizer.pad_token_id))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        meter.updates += 1
        meter.trained_tokens += sum(len(tokens) for tokens, _ in chosen)
        running += loss.item()
        if step % 50 == 0 or step == spec.steps:
            count = 50 if step % 50 == 0 else step % 50
            log.append({"step": step, "loss": round(running / count, 5)})
            running = 0.0
        if step % 500 == 0:
            print(f"base {meter.name}: step {step}/{spec.steps} loss {log[-1]['loss']:.3f}", file=sys.stderr)
    return model.eval(), tokenizer, log
