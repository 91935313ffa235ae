"""Kept outer iterations: rewards that begin alike read them and come out the same."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_world import item
from test_irl import COMPLETIONS, PROMPT, _Exact

from drirl.errors import DrirlError
from drirl.reward.bank import RewardBank
from drirl.reward.fit import FitLog
from drirl.reward.irl import Outcome, learn
from drirl.reward.outer import Counts, Kept, Outer, digest, identity
from drirl.reward.settings import RewardSettings

SETTINGS = RewardSettings(
    iterations=2, samples=4, replay=1, hard_negatives=1, steps=4, batch_prompts=32, checks=2, anchor=True
)


class _Counting(_Exact):
    """Counts the draws of itself and of what it was moved to."""

    draws = 0

    def sample(self, items, count, seed):  # type: ignore[no-untyped-def]
        _Counting.draws += 1
        return super().sample(items, count, seed)

    def updated(self, items, reward, name, seed):  # type: ignore[no-untyped-def]
        moved = super().updated(items, reward, name, seed)
        return _Counting(moved.logits, self.beta, name)


def _outer(tmp_path: Path, settings: RewardSettings = SETTINGS, seed: int = 0) -> Outer:
    about = identity(settings.model_dump(mode="json"), seed=seed)
    return Outer(tmp_path / "outer", tmp_path / "counts", about)


def _learn(policy: Path, iterations: int, known: Outer | None = None, keep: Outer | None = None) -> Outcome:
    counts = [13, 9, 6, 4]
    items = [item(PROMPT, COMPLETIONS[k], 0, "harmful") for k, n in enumerate(counts) for _ in range(n)]
    bank = RewardBank.from_policy(policy, [0])

    def done(t: int, kept: Any, outcome: Outcome) -> None:
        if keep is not None:
            keep.keep(t, bank, kept, Counts(cpu_s=1.5 * (t + 1), updates=t))

    settings = SETTINGS.model_copy(update={"iterations": iterations})
    uniform = _Counting(torch.full((4,), math.log(0.25)), 1.0)
    return learn(bank, uniform, items, items, settings, seed=0, known=known, done=done)


def _weights(outcome: Outcome) -> list[dict[str, torch.Tensor]]:
    return [bank.state_dict() for bank in outcome.snapshots]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_fewer_and_more_iterations_come_out_the_same(
    tiny_policy: Path, tmp_path: Path, iterations: int
) -> None:
    kept = _outer(tmp_path)
    _learn(tiny_policy, 2, keep=kept)
    assert len(kept) == 2
    whole = _learn(tiny_policy, iterations)
    _Counting.draws = 0
    read = _learn(tiny_policy, iterations, known=_outer(tmp_path))
    assert _Counting.draws == 2 * max(0, iterations - 2)  # train and val of what was not kept
    for found, expected in zip(_weights(read), _weights(whole), strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read.pairs == whole.pairs
    assert read.logs == whole.logs
    assert (read.samples, read.val_samples) == (whole.samples, whole.val_samples)
    assert [p.name for p in read.policies] == [p.name for p in whole.policies]
    last = whole.policies[-1]
    assert torch.equal(read.policies[-1].logits, last.logits)  # type: ignore[attr-defined]
    assert kept.counts(1) == Counts(cpu_s=3.0, updates=1)


def test_only_the_same_rewards_count(tiny_policy: Path, tmp_path: Path) -> None:
    _learn(tiny_policy, 2, keep=_outer(tmp_path))
    longer = SETTINGS.model_copy(update={"iterations": 5, "bootstrap": 7})
    assert len(_outer(tmp_path, longer)) == 2
    assert len(_outer(tmp_path, SETTINGS.model_copy(update={"lr": 0.1}))) == 0
    assert len(_outer(tmp_path, SETTINGS.model_copy(update={"report_prompts": 7}))) == 0  # choose the weights
    assert len(_outer(tmp_path, seed=1)) == 0
    assert len(Outer(tmp_path / "elsewhere", tmp_path / "counts", {})) == 0
    (tmp_path / "counts" / "1.json").unlink()  # what it cost is not known: it is run again
    assert len(_outer(tmp_path)) == 1


def test_iterations_of_other_rewards_go(tiny_policy: Path, tmp_path: Path) -> None:
    _learn(tiny_policy, 2, keep=_outer(tmp_path))
    other = _outer(tmp_path, seed=1)
    other.keep(0, RewardBank.from_policy(tiny_policy, [0]), Kept([], [], FitLog()), Counts())
    assert len(other) == 1
    assert sorted(path.name for path in other.folder.iterdir()) == ["0", "identity.json"]


def test_a_damaged_iteration_is_named(tiny_policy: Path, tmp_path: Path) -> None:
    kept = _outer(tmp_path)
    _learn(tiny_policy, 2, keep=kept)
    path = kept.folder / "0" / "samples.jsonl"
    path.write_text(path.read_text().replace('"kind"', '"sort"'))
    with pytest.raises(DrirlError, match=r"outer/0: not an iteration of these rewards .*; delete .*outer$"):
        _learn(tiny_policy, 2, known=kept)


def test_a_policy_that_was_not_made_again_has_no_samples(tiny_policy: Path, tmp_path: Path) -> None:
    _learn(tiny_policy, 2, keep=_outer(tmp_path))
    outcome = _learn(tiny_policy, 3, known=_outer(tmp_path))
    with pytest.raises(DrirlError, match="policy 'irl1' of an outer iteration was not made again"):
        outcome.policies[1].sample([], 1, 0)


def test_digest_reads_names_and_contents(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    assert digest([a, b]) == digest([b, a])
    assert digest([a]) != digest([b])
    before = digest([a])
    a.write_text("3")
    assert digest([a]) != before
    assert dataclasses.asdict(Counts()) == {"cpu_s": 0.0, "wall_s": 0.0, "updates": 0, "generated_tokens": 0}
