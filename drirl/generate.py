"""Batched completions from a policy: the only place outside trainers and lm-eval that samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from drirl.sampler import sample_ids

__all__ = ["Completion", "complete", "render"]


@dataclass(frozen=True)
class Completion:
    """A sampled completion: its text, whether it ended by itself, and its length in tokens."""

    text: str
    finished: bool
    n_tokens: int


def render(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Apply the chat template to single-turn prompts, ending where the assistant starts."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]


@torch.no_grad()
def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_return: int = 1,
    batch_size: int = 64,
    seed: int = 0,
) -> list[list[Completion]]:
    """Complete each prompt ``num_return`` times.

    Args:
        prompts: B user messages, plain text.
        temperature: 0 decodes greedily.
        batch_size: sequences (prompts x returns) decoded at once; batches are formed by length.
        seed: seed of the sampling; the same inputs and seed give the same completions.
    Returns:
        B lists of ``num_return`` completions, in the order of ``prompts``.
    """
    if temperature == 0 and num_return > 1:
        raise ValueError("greedy decoding gives one completion per prompt")
    was_training = model.training
    model.eval()
    texts = render(tokenizer, prompts)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    results: list[list[Completion]] = [[] for _ in prompts]
    rows = max(1, batch_size // num_return)
    cpu_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            if temperature > 0:
                new = sample_ids(
                    model,
                    [ids[i] for i in chosen for _ in range(num_return)],
                    max_new_tokens=max_new_tokens,
                    end_ids=[tokenizer.eos_token_id],
                    pad_id=tokenizer.pad_token_id,
                    temperature=temperature,
                    top_p=top_p,
                )
            else:
                batch = tokenizer.pad(
                    {"input_ids": [ids[i] for i in chosen]}, return_tensors="pt", padding_side="left"
                )
                batch = batch.to(model.device)
                out = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
                new = out[:, batch["input_ids"].shape[1] :].tolist()
            for k, tokens in enumerate(new):
                finished = tokenizer.eos_token_id in tokens
                if finished:
                    tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
                text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
                results[chosen[k // num_return]].append(
                    Completion(text, finished, len(tokens) + int(finished))
                )
    finally:
        torch.random.set_rng_state(cpu_state)
        model.train(was_training)
    return results
