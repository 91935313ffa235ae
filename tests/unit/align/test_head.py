from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from drirl.align.head import length_groups, packed_rows, selected_logps, use_compact_head
from drirl.models import load_policy

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def test_logps_and_entropy_by_hand() -> None:
    # two tokens with logits 0 and log 3 (temperature 1): probabilities 1/4 and 3/4
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [math.log(3.0)]])
    logps, facts = selected_logps(hidden, weight, torch.tensor([1]), temperature=1.0)
    assert math.isclose(logps.item(), math.log(0.75), rel_tol=1e-6)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert math.isclose(facts["entropy"].item(), entropy, rel_tol=1e-6)
    assert math.isclose(facts["mean_logits"].item(), math.log(3.0) / 2, rel_tol=1e-6)
    assert facts["is_top1"].tolist() == [True]
    logps, _ = selected_logps(hidden, weight, torch.tensor([0]), temperature=0.5)  # odds squared: 1 to 9
    assert math.isclose(logps.item(), math.log(0.1), rel_tol=1e-6)


def test_groups_by_length_without_padding() -> None:
    ids = torch.tensor([[0, 0, 3, 4, 5, 0], [6, 7, 8, 9, 1, 2], [0, 5, 0, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]])
    first, second = length_groups(ids, mask, rows=2)
    assert first[0].tolist() == [2, 0]
    assert first[1].tolist() == [[5, 0, 0], [3, 4, 5]]
    assert first[2].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert second[0].tolist() == [1]
    assert second[1].tolist() == ids[1:2].tolist()


def test_rows_that_start_alike_become_packs() -> None:
    ids = torch.tensor([[0, 3, 4, 5, 6], [0, 3, 4, 7, 0], [1, 2, 3, 4, 5], [0, 3, 4, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])
    scored = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    packs, rows = packed_rows(ids, mask, scored)
    assert packs == [([3, 4], [[5, 6], [7]]), ([1, 2, 3], [[4, 5]])]
    assert rows == [[0, 1], [2]]
    packs, rows = packed_rows(ids[:1].repeat(9, 1), mask[:1].repeat(9, 1), scored[:1].repeat(9, 1))
    assert sorted(map(len, rows)) == [1, 8]  # a pack has an end


@pytest.mark.parametrize("shared", [False, True])
def test_same_numbers_and_gradients_as_trl(tiny_policy: Path, shared: bool) -> None:
    model, _ = load_policy(tiny_policy)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        add_fused_lm_head(one, temperature=0.7, outputs=FIELDS)
    use_compact_head(twin, 0.7)
    ids = torch.randint(4, 300, (60, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::3, :2] = 0
    mask[1::4, 6:] = 0
    mask[5, 4:] = 0  # nothing to score
    if shared:  # groups of six completions of one prompt
        ids[:, :4] = ids[::6, :4].repeat_interleave(6, 0)
        mask[:, :2] = mask[::6, :2].repeat_interleave(6, 0)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    results = []
    for one in (model, twin):
        out = one(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        (out.log_probs * torch.arange(8.0)).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in one.parameters()])
        facts = [getattr(out, name).float() for name in (*FIELDS, "label_mask")]
        results.append((*facts, out.loss, gradients))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
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


@pytest.mark.parametrize("gap", ["all", "end", "middle"])
def test_labels_with_gaps_take_trls_path(tiny_policy: Path, gap: str) -> None:
    model, _ = load_policy(tiny_policy)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        add_fused_lm_head(one, temperature=1.0, outputs=FIELDS)
    use_compact_head(twin)
    ids = torch.randint(4, 300, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = -100
    labels[{"all": slice(None), "end": slice(1), "middle": slice(1)}[gap], slice(6, None)] = -100
    if gap == "all":
        labels[:] = -100
    if gap == "middle":
        labels[0, 6:] = ids[0, 6:]
        labels[0, 4] = -100
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "fused_lm_head": True}
    theirs, ours = model(**call), twin(**call)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs)


def test_a_reference_needs_log_probabilities_alone(tiny_policy: Path) -> None:
    model, _ = load_policy(tiny_policy)
    twin = copy.deepcopy(model)
    use_compact_head(model, 0.7)
    use_compact_head(twin, 0.7, facts=False)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "fused_lm_head": True}
    with torch.no_grad():
        full, short = (one(**call, labels=ids.masked_fill(ids < 7, -100)) for one in (model, twin))
    assert torch.equal(full.log_probs, short.log_probs)
    assert full.entropy.gt(0).sum() == 4
    assert not hasattr(short, "entropy")
