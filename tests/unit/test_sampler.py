from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drirl.models import load_policy
from drirl.sampler import draw, sample_ids


def test_draw_follows_the_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log().repeat(20_000, 1)
    share = torch.bincount(draw(logits), minlength=4) / 20_000
    # four standard errors of the largest share: 4 * sqrt(0.25 / 20000) = 0.014
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.2, 0.05]), rtol=0, atol=0.014)


def test_draw_with_temperature_and_nucleus() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log().repeat(20_000, 1)
    # temperature 0.5 squares: 0.25, 0.0625, 0.04, 0.0025 of 0.355
    share = torch.bincount(draw(logits, temperature=0.5), minlength=4) / 20_000
    expected = torch.tensor([0.25, 0.0625, 0.04, 0.0025]) / 0.355
    torch.testing.assert_close(share, expected, rtol=0, atol=0.014)
    # nucleus 0.7 keeps the first two: 2/3 and 1/3
    share = torch.bincount(draw(logits, top_p=0.7), minlength=4) / 20_000
    torch.testing.assert_close(share, torch.tensor([2 / 3, 1 / 3, 0, 0]), rtol=0, atol=0.014)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    torch.manual_seed(0)
    logits = torch.full((5_000, 3), -float("inf"))
    logits[:, 1] = 0.0
    assert draw(logits).eq(1).all()


PROMPTS = [[5, 6, 7, 8], [9], [5, 6, 7, 8], [10, 11], [9], [9]]


def test_near_zero_temperature_equals_greedy_generate(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    found = sample_ids(model, PROMPTS, max_new_tokens=12, end_ids=[1], pad_id=0, temperature=1e-5)
    for ids, completion in zip(PROMPTS, found, strict=True):
        alone = model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=1
        )
        assert completion == alone[0, len(ids) :].tolist()


def test_rows_end_at_an_end_token_and_leave_the_others_alone(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    ends = list(
        range(1, 320, 3)
    )  # about every third token ends a completion, so the batch shrinks on the way
    torch.manual_seed(0)
    found = sample_ids(model, PROMPTS * 8, max_new_tokens=10, end_ids=ends, pad_id=0)
    assert len(found) == 48
    assert len({len(c) for c in found}) > 3
    for completion in found:
        first_end = next((i for i, token in enumerate(completion, 1) if token in ends), None)
        assert len(completion) == (first_end or 10)  # up to its first end token, else all the way


def test_rows_that_stay_are_not_mixed_up_when_others_leave(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)  # far from initialisation: greedy text varies from token to token
    prompts = [[5, 6, 7, 8], [9], [10, 11], [12, 13, 14], [40, 41], [77], [90, 3, 8], [200]]
    greedy = sample_ids(model, prompts, max_new_tokens=12, end_ids=[], pad_id=0, temperature=1e-5)
    ends = sorted({row[k] for k, row in enumerate(greedy)})  # row k ends at step k at the latest
    found = sample_ids(model, prompts, max_new_tokens=12, end_ids=ends, pad_id=0, temperature=1e-5)
    expected = []
    for row in greedy:
        stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        expected.append(row[: stop + 1])
    assert found == expected
    assert len({len(row) for row in found}) >= 3


def test_log_probabilities_are_those_of_the_model(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    torch.manual_seed(0)
    logps: list[list[float]] = []
    found = sample_ids(model, PROMPTS, max_new_tokens=6, end_ids=[1], pad_id=0, temperature=0.7, logps=logps)
    for prompt, completion, row in zip(PROMPTS, found, logps, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(row), expected, atol=1e-5, rtol=1e-5)


def test_seeded_and_mode_restored(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    model.train()
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(sample_ids(model, PROMPTS, max_new_tokens=6, end_ids=[1], pad_id=0))
    assert runs[0] == runs[1] != runs[2]
    assert model.training


@pytest.mark.parametrize("architecture", ["qwen2", "mistral"])
def test_other_families(architecture: str) -> None:
    from drirl.base.architectures import build_model
    from drirl.base.settings import SmallModel
    from drirl.base.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a b c"] * 3, vocab_size=280, context=64)
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 16, "context": 64}
    spec = SmallModel(architecture=architecture, vocab_size=280, steps=1, batch_size=1, lr=1.0, **sizes)
    model = build_model(spec, tokenizer).eval()
    [found] = sample_ids(model, [[5, 6]], max_new_tokens=5, end_ids=[1], pad_id=0, temperature=1e-5)
    alone = model.generate(
        input_ids=torch.tensor([[5, 6]]), max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    assert found == alone[0, 2:].tolist()
