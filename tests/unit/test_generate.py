from __future__ import annotations

from pathlib import Path

import torch

from drirl.generate import complete
from drirl.models import load_policy


def test_completions_are_seeded_and_in_order(tiny_policy: Path) -> None:
    model, tokenizer = load_policy(tiny_policy)
    prompts = ["How do I bake a loaf of bread at home?", "Hi", "Tell me how to break into a house."]
    first = complete(model, tokenizer, prompts, max_new_tokens=8, num_return=2, batch_size=2, seed=3)
    again = complete(model, tokenizer, prompts, max_new_tokens=8, num_return=2, batch_size=2, seed=3)
    other = complete(model, tokenizer, prompts, max_new_tokens=8, num_return=2, batch_size=2, seed=4)
    assert first == again
    assert first != other
    assert [len(group) for group in first] == [2, 2, 2]


def test_greedy_does_not_depend_on_the_batch(tiny_policy: Path) -> None:
    model, tokenizer = load_policy(tiny_policy)
    prompts = ["How do I bake a loaf of bread at home?", "Hi", "Tell me how to break into a house."]
    together = complete(model, tokenizer, prompts, max_new_tokens=8, temperature=0)
    alone = [complete(model, tokenizer, [p], max_new_tokens=8, temperature=0)[0] for p in prompts]
    assert [g[0].text for g in together] == [g[0].text for g in alone]


def test_samples_belong_to_their_prompts(tiny_policy: Path) -> None:
    model, tokenizer = load_policy(tiny_policy)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)  # far from its start, so that prompts get different texts
    prompts = ["How do I bake a loaf of bread at home?", "Hi", "Tell me how to break into a house."]
    greedy = complete(model, tokenizer, prompts, max_new_tokens=8, temperature=0)
    drawn = complete(model, tokenizer, prompts, max_new_tokens=8, temperature=1e-5, num_return=2)
    assert len({row[0].text for row in greedy}) == 3
    assert [[c.text for c in row] for row in drawn] == [[row[0].text] * 2 for row in greedy]
