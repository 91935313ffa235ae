"""Hardness of whole batches: numbers worked by hand, edge cases, arms, running means, resuming."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drirl.errors import DrirlError
from drirl.hardness.encoder import Encoder
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness, HardnessBatch

NAN = math.nan
DEMO = "the demonstration itself"
MID = "somewhere in between"  # cosine 0.6 to the demonstration: delta 0.4
FAR = "nothing like it"  # cosine 0: delta 1
TABLE = {DEMO: (1.0, 0.0), MID: (0.6, 0.8), FAR: (0.0, 1.0)}


class TableEncoder:
    """Sentences with known vectors, so that delta can be worked out on paper."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([TABLE[text] for text in texts], dtype=np.float32)

    def was_cut(self, text: str) -> bool:
        return False


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def make(**values: Any) -> Hardness:
    return Hardness(HardnessSettings(**values), TableEncoder())


def gaps(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


FIRST: tuple[Any, ...] = ([2], [[DEMO, DEMO, FAR, FAR, MID]], [DEMO], gaps([1, 2, 4, 0, 1.5]))
# delta 0 0 1 1 0.4, mean 0.48; gap mean 1.7, squared deviations 0.49 0.09 5.29 2.89 0.04: the 4 is masked,
# filtered mean 4.5 / 4 = 1.125
SECOND: tuple[Any, ...] = ([2], [[DEMO] * 5], [DEMO], gaps([0, 0, 0, 0, 0]))


def test_two_batches_by_hand() -> None:
    hardness = make()
    batch = hardness(*FIRST)
    assert batch.delta.tolist()[0] == pytest.approx([0, 0, 1, 1, 0.4])
    assert batch.mask.tolist() == [[1, 1, 0, 1, 1]]
    assert batch.alpha_D.item() == 1.0  # the first batch brings its own mean
    assert batch.alpha_M.item() == pytest.approx(sigma(1.125) / sigma(1.7))
    assert batch.alpha.item() == pytest.approx(batch.alpha_M.item())
    assert hardness.delta_means[2] == pytest.approx(0.48)
    assert hardness.gap_means[2] == pytest.approx(1.7)
    assert batch.by_category[2]["masked_share"] == pytest.approx(0.2)
    assert batch.by_category[2]["gap_filtered"] == pytest.approx(1.125)

    batch = hardness(*SECOND)
    assert batch.mask.tolist() == [[1] * 5]  # a tie stays whole
    assert batch.alpha_D.item() == pytest.approx(0.5 / sigma(0.48))  # before the update
    assert batch.alpha_M.item() == pytest.approx(0.5 / sigma(1.7))
    assert batch.alpha.item() == pytest.approx(0.25 / sigma(0.48) / sigma(1.7))
    assert batch.weights.tolist()[0] == pytest.approx([batch.alpha.item()] * 5)
    assert hardness.delta_means[2] == pytest.approx(0.9 * 0.48)
    assert hardness.gap_means[2] == pytest.approx(0.9 * 1.7)
    assert hardness.step == 2


def test_categories_have_their_own_means_and_mask() -> None:
    """Benign prompts (-1) are one more category; prompts of one category share alpha_M, not alpha_D."""
    hardness = make()
    hardness.delta_means = {0: 0.5, -1: 0.2}
    hardness.gap_means = {0: 1.0, -1: -1.0}
    batch = hardness(
        [0, -1, 0],
        [[DEMO, DEMO], [FAR, FAR], [FAR, MID]],
        [DEMO, DEMO, DEMO],
        gaps([1, 3], [-1, 1], [2, 2]),
    )
    assert batch.alpha_D.tolist() == pytest.approx(
        [sigma(0) / sigma(0.5), sigma(1) / sigma(0.2), sigma(0.7) / sigma(0.5)]
    )
    m0, benign = sigma(2) / sigma(1), sigma(0) / sigma(-1)
    assert batch.alpha_M.tolist() == pytest.approx([m0, benign, m0])
    assert hardness.delta_means == pytest.approx({0: 0.9 * 0.5 + 0.1 * 0.35, -1: 0.9 * 0.2 + 0.1})
    assert hardness.gap_means == pytest.approx({0: 0.9 + 0.1 * 2, -1: -0.9})
    assert sorted(batch.by_category) == [-1, 0]
    log = batch.log()
    assert log["hardness/alpha_D/-1"] == pytest.approx(sigma(1) / sigma(0.2))
    assert log["hardness/alpha/p50"] == pytest.approx(sorted(batch.alpha.tolist())[1])


def test_empty_completion_is_far_and_flagged() -> None:
    batch = make()([0], [["", "...", DEMO]], [DEMO], gaps([0, 0, 0]))
    assert batch.delta.tolist() == [[1.0, 1.0, 0.0]]
    assert batch.empty.tolist() == [[True, True, False]]


@pytest.mark.parametrize("missing", [None, "", " ... "])
def test_missing_demonstration(missing: str | None) -> None:
    hardness = make()
    hardness.delta_means, hardness.gap_means = {0: 0.5}, {0: 0.0}
    batch = hardness([0, 0], [[FAR, FAR], [DEMO, DEMO]], [missing, DEMO], gaps([NAN, NAN], [1, 1]))
    assert batch.alpha_D.tolist() == pytest.approx([1.0, 0.5 / sigma(0.5)])
    assert batch.alpha_M.tolist() == pytest.approx([1.0, sigma(1) / 0.5])
    assert batch.no_demo.tolist() == [True, False]
    assert not batch.skip.any()  # its own rewards are fine
    assert batch.delta[0].isnan().all()
    assert hardness.delta_means[0] == pytest.approx(0.45)  # the missing one is not in the mean


def test_missing_reward_of_the_demonstration_keeps_the_text_factor() -> None:
    hardness = make()
    hardness.delta_means = {0: 0.5}
    batch = hardness([0], [[DEMO, DEMO]], [DEMO], gaps([NAN, NAN]))
    assert batch.alpha_D.item() == pytest.approx(0.5 / sigma(0.5))
    assert batch.alpha_M.item() == 1.0
    assert hardness.gap_means == {}  # M_j = 0: no update


def test_every_gap_masked() -> None:
    hardness = make(mask="fixed", tau=0.5)
    hardness.gap_means = {0: 10.0}
    batch = hardness([0], [[DEMO, DEMO]], [DEMO], gaps([0, 2]))
    assert batch.alpha_M.item() == 1.0
    assert batch.by_category[0]["masked_share"] == 1.0
    assert batch.by_category[0]["gap_filtered"] == 10.0
    assert hardness.gap_means[0] == pytest.approx(9.1)  # the unfiltered mean, 1, feeds it


def test_non_finite_reward_drops_the_completion() -> None:
    hardness = make()
    hardness.delta_means, hardness.gap_means = {0: 0.5}, {0: 0.0}
    batch = hardness([0], [[DEMO, DEMO, FAR]], [DEMO], gaps([1, 3, math.inf]))
    assert batch.valid.tolist() == [[True, True, False]]
    assert batch.alpha_D.item() == pytest.approx(0.5 / sigma(0.5))  # without FAR
    assert batch.alpha_M.item() == pytest.approx(sigma(2) / 0.5)
    assert batch.weights[0, 2].item() == 0.0
    assert batch.gap[0, 2].isnan()
    scaled = batch.scale(torch.tensor([[1.0, -1.0, NAN]]))
    assert scaled.tolist()[0] == pytest.approx([batch.alpha.item(), -batch.alpha.item(), 0.0])


def test_a_group_of_one_valid_completion_is_skipped() -> None:
    hardness = make()
    valid = torch.tensor([[True, False], [True, True]])
    batch = hardness([0, 1], [[FAR, FAR]] * 2, [DEMO] * 2, gaps([1, 1], [NAN, NAN]), valid)
    assert batch.skip.tolist() == [True, False]
    assert batch.alpha.tolist() == [1.0, 1.0]
    assert batch.weights.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert 0 not in hardness.delta_means  # skipped: teaches nothing
    assert hardness.delta_means == {1: 1.0}
    assert hardness.gap_means == {}
    assert "hardness/alpha/0" not in batch.log()


def test_final_clamp() -> None:
    hardness = make()
    hardness.gap_means = {0: -8.0, 1: 8.0}
    batch = hardness([0, 1], [[DEMO] * 2] * 2, [DEMO] * 2, gaps([5, 5], [-5, -5]))
    assert batch.alpha_M.tolist() == pytest.approx([sigma(5) / sigma(-8), sigma(-5) / sigma(8)])
    assert batch.alpha.tolist() == [4.0, 0.25]
    assert batch.alpha_raw[0].item() > 2000


def test_running_means_off_frozen_and_filtered() -> None:
    off = make(delta_mean="off", gap_mean="off")
    off(*FIRST)
    assert (off.delta_means, off.gap_means) == ({}, {})
    assert off(*SECOND).alpha.item() == 1.0  # its own batch is the baseline

    frozen = make(delta_mean="frozen")
    frozen(*FIRST)
    frozen(*SECOND)
    assert frozen.delta_means[2] == pytest.approx(0.48)
    assert frozen.gap_means[2] == pytest.approx(1.53)
    frozen.calibrate(*SECOND)
    assert (frozen.delta_means[2], frozen.gap_means[2], frozen.step) == (0.0, 0.0, 2)
    frozen(*FIRST)
    assert frozen.delta_means[2] == 0.0

    filtered = make(gap_update="filtered")
    filtered(*SECOND)
    filtered(*FIRST)
    # from centre 0 the 4 is masked: 1.125 feeds the mean
    assert filtered.gap_means[2] == pytest.approx(0.1 * 1.125)


def test_directions_and_simple_cosine() -> None:
    both = f"{DEMO}. {FAR}."
    table = {f"{k}.": v for k, v in TABLE.items()} | {both: (0.8, 0.6)}

    class Dots(TableEncoder):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([(table | TABLE)[text] for text in texts], dtype=np.float32)

    def delta(**values: Any) -> float:
        return (
            Hardness(HardnessSettings(**values), Dots())([0], [[both, both]], [DEMO], gaps([0, 0]))
            .delta[0, 0]
            .item()
        )

    assert delta() == pytest.approx(0.5)  # (1 + 0) / 2
    assert delta(direction="demo_to_gen") == pytest.approx(0.0)
    assert delta(direction="symmetric") == pytest.approx(0.25)
    assert delta(similarity="simple_cosine") == pytest.approx(0.2)


BATCH: tuple[Any, ...] = (
    [0, 0, 1, -1],
    [[DEMO, MID, FAR], [FAR, FAR, FAR], [DEMO, DEMO, MID], [MID, MID, FAR]],
    [DEMO] * 4,
    gaps([1, 2, 0], [3, 1, 1], [0, 0.5, 2], [-1, 0, 1]),
)


def arm(**values: Any) -> HardnessBatch:
    hardness = make(**values)
    hardness.delta_means = {0: 0.3, 1: 0.6, -1: 0.5}
    hardness.gap_means = {0: 0.5, 1: 1.5, -1: 0.5}
    return hardness(*BATCH)


def test_arms() -> None:
    plain = arm()
    assert len({round(a, 6) for a in plain.alpha.tolist()}) == 4
    assert arm(combine="off").alpha.tolist() == [1.0] * 4
    assert torch.equal(arm(combine="only_D").alpha, plain.alpha_D)
    assert torch.equal(arm(combine="only_M").alpha, plain.alpha_M)
    mixed = arm(combine="weighted_sum", weight=0.25).alpha
    assert torch.allclose(mixed, 0.25 * plain.alpha_D + 0.75 * plain.alpha_M)
    assert torch.allclose(arm(control="inverse").alpha, 1 / plain.alpha)
    shuffled = arm(control="shuffled").alpha
    assert sorted(shuffled.tolist()) == sorted(plain.alpha.tolist())
    assert torch.equal(shuffled, arm(control="shuffled").alpha)  # seeded


def test_the_constant_control_has_the_mean_of_dr_irl_in_every_batch() -> None:
    dr_irl, constant = make(), make(control="constant")
    rng = np.random.default_rng(0)
    for step in range(5):
        texts = [[list(TABLE)[i] for i in rng.integers(0, 3, 4)] for _ in range(4)]
        values = torch.tensor(rng.normal(size=(4, 4)) * 3)
        if step == 2:
            values[1, :3] = math.inf  # group 1 is skipped
        batch = ([0, 1, 1, -1], texts, [DEMO] * 4, values)
        a, b = dr_irl(*batch), constant(*batch)
        assert len(set(b.alpha[~b.skip].tolist())) == 1
        assert b.alpha[~b.skip].mean().item() == pytest.approx(a.alpha[~a.skip].mean().item(), rel=1e-6)
        assert b.weights.sum().item() == pytest.approx(b.alpha[0].item() * int((b.weights > 0).sum()))
        if step:
            assert len(set(a.alpha[~a.skip].tolist())) > 1
    assert constant.gap_means == dr_irl.gap_means


@pytest.mark.parametrize("per_completion", [False, True])
@pytest.mark.parametrize("control", ["none", "inverse", "shuffled", "constant"])
def test_prompts_without_a_reward_keep_alpha_one_and_enter_no_control(
    control: str, per_completion: bool
) -> None:
    """As if the batch were without them; their advantages are 0, so no other prompt's alpha may go there."""

    def run(batch: tuple[Any, ...], **more: Any) -> tuple[HardnessBatch, Hardness]:
        hardness = make(control=control, per_completion=per_completion, drop_masked=True)
        hardness.delta_means = {0: 0.3, 1: 0.6, -1: 0.5}
        hardness.gap_means = {0: 0.5, 1: 1.5, -1: 0.5}
        return hardness(*batch, **more), hardness

    harmful = (BATCH[0][:3], BATCH[1][:3], BATCH[2][:3], BATCH[3][:3])
    assert BATCH[0][3] == -1
    (alone, left), (batch, kept) = run(harmful), run(BATCH, rewarded=[True, True, True, False])
    assert batch.weights[3].tolist() == [1.0] * 3
    assert [float(x[3]) for x in (batch.alpha, batch.alpha_raw, batch.alpha_D, batch.alpha_M)] == [1.0] * 4
    assert not batch.skip[3]
    for name in ("alpha", "alpha_raw", "weights", "mask"):
        assert torch.equal(getattr(batch, name)[:3], getattr(alone, name)), name
    assert (kept.delta_means, kept.gap_means) == (left.delta_means, left.gap_means)


def test_per_completion_and_recentre() -> None:
    values = dict(per_completion=True, combine="only_D")
    batch = arm(**values)
    assert batch.weights[0].tolist() == pytest.approx([sigma(d) / sigma(0.3) for d in (0, 0.4, 1)])
    assert batch.alpha[0].item() == pytest.approx(batch.weights[0].mean().item())
    advantages = torch.tensor([[1.0, 0.0, -1.0]] * 4)
    assert batch.scale(advantages)[0].sum().item() == pytest.approx(
        sigma(0) / sigma(0.3) - sigma(1) / sigma(0.3)
    )
    assert arm(**values, recentre=True).scale(advantages).sum(dim=1).abs().max().item() < 1e-6
    constant = arm(**values, control="constant")
    assert constant.weights.flatten().tolist() == pytest.approx([batch.weights.mean().item()] * 12)


def test_drop_masked() -> None:
    hardness = make(drop_masked=True)
    batch = hardness(*FIRST)
    assert batch.weights.tolist()[0] == pytest.approx(
        [batch.alpha.item()] * 2 + [0.0] + [batch.alpha.item()] * 2
    )


def test_gaussian_sampling_is_seeded_per_step() -> None:
    def masks(seed: int) -> list[list[int]]:
        hardness = Hardness(HardnessSettings(mask="gaussian_sampling"), TableEncoder(), seed=seed)
        return [hardness([0], [[DEMO] * 10], [DEMO], torch.zeros(1, 10)).mask[0].tolist() for _ in range(4)]

    assert masks(0) == masks(0) != masks(1)
    assert all(sum(mask) == 8 for mask in masks(0))
    assert len({tuple(mask) for mask in masks(0)}) > 1


def test_resume_gives_what_an_uninterrupted_run_gives() -> None:
    values = dict(mask="gaussian_sampling", control="shuffled")
    whole = Hardness(HardnessSettings(**values), TableEncoder(), seed=7)
    for _ in range(3):
        whole(*BATCH)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = Hardness(HardnessSettings(**values), TableEncoder(), seed=7)
    resumed.load_state_dict(state)
    for _ in range(3):
        a, b = whole(*BATCH), resumed(*BATCH)
        assert torch.equal(a.alpha, b.alpha)
        assert torch.equal(a.mask, b.mask)
    assert whole.state_dict() == resumed.state_dict()
    with pytest.raises(DrirlError, match="other settings"):
        make().load_state_dict(state)
    with pytest.raises(DrirlError, match="not one saved"):
        make().load_state_dict({"step": 1})
    with pytest.raises(DrirlError, match="version 9"):
        make().load_state_dict(make().state_dict() | {"version": 9})


def test_a_dry_run_changes_nothing() -> None:
    hardness = make()
    hardness(*FIRST)
    before = hardness.state_dict()
    hardness(*SECOND, update=False)
    assert hardness.state_dict() == before


def test_no_gradient_and_float32() -> None:
    values = gaps([1, 2, 4, 0, 1.5]).requires_grad_(True)
    batch = make()(*FIRST[:3], values)
    for tensor in (batch.alpha, batch.alpha_D, batch.alpha_M, batch.weights, batch.delta, batch.gap):
        assert not tensor.requires_grad
        assert tensor.dtype == torch.float32


def test_shapes_that_do_not_fit() -> None:
    for bad in (
        ([0, 1], [[DEMO]], [DEMO], gaps([0])),
        ([0], [[DEMO]], [DEMO], gaps([0, 1])),
        ([0, 0], [[DEMO], [DEMO, DEMO]], [DEMO, DEMO], gaps([0], [0])),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()(*bad)


def test_a_demonstration_of_too_many_pieces_is_flagged_once(caplog: pytest.LogCaptureFixture) -> None:
    hardness = make(max_pieces=2)
    long = "\n".join([DEMO, DEMO, FAR])
    with caplog.at_level(logging.WARNING, "drirl.hardness.state"):
        batch = hardness([0, 0], [[FAR, FAR]] * 2, [long, DEMO], gaps([0, 0], [0, 0]))
        hardness([0], [[FAR, FAR]], [long], gaps([0, 0]))
    assert batch.cut.tolist() == [True, False]
    assert batch.delta.tolist() == [[1.0, 1.0], [1.0, 1.0]]  # FAR in third place is not compared
    assert len(caplog.records) == 1


sentences = st.sampled_from([*TABLE, ""])
rewards = st.floats(-30, 30, width=32)
group = st.lists(st.tuples(sentences, rewards), min_size=4, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(group, min_size=3, max_size=3), min_size=1, max_size=4), st.randoms())
def test_always(batches: list[list[list[tuple[str, float]]]], random: Any) -> None:
    """In range, finite, independent of the order of completions and prompts, to the last bit."""
    one, two = make(), make()
    for groups in batches:
        order = [random.sample(range(4), 4) for _ in groups]
        lines = random.sample(range(3), 3)
        batch = one(*_arguments(groups, [0, 0, 1]))
        turned = [[groups[p][g] for g in order[p]] for p in lines]
        other = two(*_arguments(turned, [[0, 0, 1][p] for p in lines]))
        assert torch.equal(other.alpha, batch.alpha[lines])
        assert torch.equal(other.mask, torch.stack([batch.mask[p][order[p]] for p in lines]))
        assert bool(((batch.alpha >= 0.25) & (batch.alpha <= 4)).all())
        assert bool(((batch.alpha_D > 0.6839) & (batch.alpha_D < 1.4622)).all())
        assert bool((batch.delta >= 0).all() and (batch.delta <= 2).all())
        assert all(
            batch.alpha_M[p] <= 2 for p, j in enumerate((0, 0, 1)) if batch.by_category[j]["gap_mean"] >= 0
        )
    assert one.state_dict() == two.state_dict()


def _arguments(groups: list[list[tuple[str, float]]], categories: list[int]) -> tuple[Any, ...]:
    texts = [[text for text, _ in g] for g in groups]
    return categories, texts, [DEMO] * len(groups), torch.tensor([[value for _, value in g] for g in groups])


def test_real_encoder(encoder: Encoder) -> None:
    demo = "I won't help you break into a house. It is a crime and someone could get hurt. Ask a locksmith."
    same, near = demo, "I cannot help with breaking into houses; that is illegal. A locksmith could help you."
    far = "Sure! First gather your tools. Then pick the lock slowly and go in at night."
    noise = "banana banana banana purple seven seven."
    hardness = Hardness(HardnessSettings(), encoder)
    batch = hardness([2], [[same, near, far, noise, ""]], [demo], gaps([0, 0.2, 2, 3, 4]))
    same_d, near_d, far_d, noise_d, empty_d = batch.delta[0].tolist()
    assert same_d == 0.0
    assert 0 < near_d < far_d < noise_d <= 1.05
    assert empty_d == 1.0
    assert batch.alpha_D.item() == 1.0
    later = hardness([2], [[noise] * 5], [demo], gaps([3, 3, 3, 3, 3]))
    assert later.alpha_D.item() > 1  # less like the demonstration: larger alpha
    assert later.alpha_M.item() > 1
    assert (
        Hardness(HardnessSettings(similarity="simple_cosine"), encoder)(
            [2], [[same, far]], [demo], gaps([0, 1])
        )
        .delta[0, 0]
        .item()
        == 0.0
    )
