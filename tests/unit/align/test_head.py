from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from trl.trainer.utils import add_fused_lm_head

from drirl.align.head import selected_logps, use_compact_head
from drirl.models import load_policy


def test_logps_and_entropy_by_hand() -> None:
    # two tokens with logits 0 and log 3 (temperature 1): probabilities 1/4 and 3/4
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [math.log(3.0)]])
    logps, entropy = selected_logps(hidden, weight, torch.tensor([1]), temperature=1.0)
    assert math.isclose(logps.item(), math.log(0.75), rel_tol=1e-6)
    assert math.isclose(entropy.item(), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel_tol=1e-6)
    logps, _ = selected_logps(hidden, weight, torch.tensor([0]), temperature=0.5)  # odds squared: 1 to 9
    assert math.isclose(logps.item(), math.log(0.1), rel_tol=1e-6)


def test_same_numbers_and_gradients_as_trl(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        add_fused_lm_head(one, temperature=0.7, outputs=("log_probs", "entropy"))
    use_compact_head(twin, 0.7)
    ids = torch.randint(4, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    mask[2, 7:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    results = []
    for one in (model, twin):
        out = one(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        (out.log_probs * torch.arange(8.0)).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in one.parameters()])
        results.append((out.log_probs, out.entropy, gradients))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert results[0][0][:, :3].eq(0).all()


def test_other_calls_pass_through(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids, labels=ids)
    use_compact_head(model, 1.0)
    after = model(input_ids=ids, labels=ids)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)
    assert model.generate(input_ids=ids, max_new_tokens=3, do_sample=False).shape[1] <= 6
