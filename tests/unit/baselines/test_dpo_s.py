from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from drirl.align.interface import Inputs
from drirl.hardness import coefficients as c
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness
from drirl.records import read_jsonl

from .conftest import Fixed, WordVectors, tokens

Make = Callable[..., Inputs]
OFF = HardnessSettings(combine="off")


@pytest.fixture(scope="module")
def dpo_s(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("dpo_s")


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_alpha_of_pairs_by_hand(dpo_s: Any) -> None:
    hardness = Hardness(HardnessSettings(mask_share=0.0), WordVectors())
    demos = ["red green blue", "red green blue"]
    # The first sample repeats the demonstration (delta 0), the second shares no word with it (delta 1): mean
    # 0.5. Gaps 1 and 3: mean 2, which also starts the running mean, so alpha_M = 1.
    first, log = dpo_s.pair_alphas(
        hardness, [2, 2], ["red green blue", "one two three"], demos, torch.tensor([1.0, 3.0])
    )
    assert first.tolist() == pytest.approx([sigma(0) / sigma(0.5), sigma(1) / sigma(0.5)], abs=1e-6)
    assert log["drirl/gap_mean/2"] == 2.0
    # Next update: gaps 4 and 4 against the running mean 2; both samples as far as the running mean's double.
    second, _ = dpo_s.pair_alphas(hardness, [2, 2], ["a b c", "d e f"], demos, torch.tensor([4.0, 4.0]))
    expected = sigma(1) / sigma(0.5) * sigma(4) / sigma(2)
    assert second.tolist() == pytest.approx([expected, expected], abs=1e-6)


def test_a_sample_that_stands_twice_is_masked_as_one(dpo_s: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 25):
        gaps = torch.randn(count, generator=generator)
        mean = float(gaps.double().mean())
        kept = c.quantile_mask(gaps, mean, 0.2)
        alone = c.alpha_gap(c.filtered_mean(gaps, kept, mean), mean)
        settings = HardnessSettings(combine="only_M", mask_share=0.2, clamp_low=1e-3, clamp_high=1e3)
        found, _ = dpo_s.pair_alphas(
            Hardness(settings, WordVectors()), [0] * count, ["x y z"] * count, ["x y z"] * count, gaps
        )
        assert found.tolist() == pytest.approx([alone] * count, rel=1e-6)


def test_loss_by_hand(dpo_s: Any, make_inputs: Make) -> None:
    trainer, _ = dpo_s.build(make_inputs(), dpo_s.Config(beta=0.5))
    # Two pairs. Log-ratios chosen: 1, 0; rejected: -1, 2; so the differences are 2 and -2. alpha 2 and 0.5:
    #   pair 1: -log sigmoid(2 * 0.5 * 2) = log(1 + e^-2)
    #   pair 2: -log sigmoid(0.5 * 0.5 * -2) = log(1 + e^0.5)
    policy = torch.tensor([[-1.0], [-3.0], [-4.0], [-2.0]])
    reference = torch.tensor([[-2.0], [-3.0], [-3.0], [-4.0]])
    trainer.ref_model = Fixed(reference)
    batch = {**tokens(4), "alpha": torch.tensor([2.0, 0.5])}
    loss = trainer._compute_loss(Fixed(policy), batch, False)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(0.5))) / 2, abs=1e-6)
    assert trainer.beta == 0.5
    assert "alpha" in batch  # the caller's batch is left alone


@pytest.mark.parametrize("scale", ["beta", "loss"])
def test_gradient_of_either_scale_and_trls_loss_at_alpha_one(
    dpo_s: Any, make_inputs: Make, scale: str
) -> None:
    from trl import DPOTrainer

    trainer, _ = dpo_s.build(make_inputs(), dpo_s.Config(beta=0.3, scale=scale))
    generator = torch.Generator().manual_seed(1)
    policy = torch.randn(6, 4, generator=generator).requires_grad_()
    reference = torch.randn(6, 4, generator=generator)
    alpha = torch.tensor([0.4, 1.0, 2.5])
    trainer.ref_model = Fixed(reference)
    loss = trainer._compute_loss(Fixed(policy), {**tokens(6, 5), "alpha": alpha}, False)
    (found,) = torch.autograd.grad(loss, policy)

    ratios = (policy - reference).sum(1)
    margin = ratios[:3] - ratios[3:]
    weighted = (
        -torch.nn.functional.logsigmoid(0.3 * alpha * margin)
        if scale == "beta"
        else -alpha * torch.nn.functional.logsigmoid(0.3 * margin)
    )
    (expected,) = torch.autograd.grad(weighted.mean(), policy)
    torch.testing.assert_close(found, expected)

    stock = DPOTrainer._compute_loss(trainer, Fixed(policy), tokens(6, 5), False)
    ones = trainer._compute_loss(Fixed(policy), {**tokens(6, 5), "alpha": torch.ones(3)}, False)
    assert torch.equal(ones, stock)


@pytest.mark.parametrize("scale", ["beta", "loss"])
def test_alpha_one_is_dpo_to_the_last_bit(
    dpo_s: Any, method_file: Callable[[str], ModuleType], make_inputs: Make, scale: str
) -> None:
    dpo = method_file("dpo")
    plain, ours = make_inputs("dpo"), make_inputs("dpo_s")
    dpo.train(plain, dpo.Config(lr=1e-3, samples=2))
    dpo_s.train(ours, dpo_s.Config(lr=1e-3, samples=2, scale=scale, hardness=OFF))
    a, b = (load_file(i.out / "policy" / "model.safetensors") for i in (plain, ours))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert ours.meter.counts() == plain.meter.counts()


def test_a_run_logs_alpha_and_differs_from_dpo(dpo_s: Any, make_inputs: Make) -> None:
    on, off = make_inputs("on"), make_inputs("off")
    dpo_s.train(on, dpo_s.Config(lr=1e-3))
    dpo_s.train(off, dpo_s.Config(lr=1e-3, hardness=OFF))
    log = read_jsonl(on.out / "log.jsonl")
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are equal
    assert log[0]["alpha/mean"] != log[1]["alpha/mean"]
    assert any(key.startswith("alpha_D/") for key in log[0])
    a, b = (load_file(i.out / "policy" / "model.safetensors") for i in (on, off))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_options_without_meaning_for_pairs_are_refused(dpo_s: Any) -> None:
    for options in ({"per_completion": True}, {"mask": "gaussian_sampling"}):
        with pytest.raises(ValidationError, match="a pair has one sample"):
            dpo_s.Config(hardness=HardnessSettings(**options))


def test_what_the_alpha_of_a_pair_is_made_of(
    dpo_s: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drirl.align.pairs import pair_plan
    from drirl.align.setup import load
    from drirl.reward.bank import RewardBank
    from drirl.text import split_draft

    seen: list[Any] = []
    alphas = dpo_s.pair_alphas

    def spy(*given: Any) -> Any:
        seen.append(given[1:])
        return alphas(*given)

    monkeypatch.setattr(dpo_s, "pair_alphas", spy)
    inputs = make_inputs()
    dpo_s.build(inputs, dpo_s.Config())
    updates, rejected = pair_plan(inputs, load(inputs), 1, 1)
    bank = RewardBank.load(inputs.reward_path)  # type: ignore[arg-type]
    for (categories, replies, demos, gaps), rows in zip(seen, updates, strict=True):
        for k, (prompt, demo) in enumerate(rows):
            lost = rejected[prompt.prompt_id]
            texts, ends = [demo.full_text, lost.text], [True, lost.finished]
            won, less = bank.score_completions([prompt.text] * 2, texts, ends, [prompt.category] * 2).tolist()
            assert gaps[k].item() == pytest.approx(won - less, abs=1e-4)
            assert (categories[k], demos[k]) == (prompt.category, demo.answer)
            assert replies[k] == split_draft(lost.text)[1]
