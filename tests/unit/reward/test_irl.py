"""The outer loop on a known world, and end to end on the tiny policy."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from reward_world import item, world

from drirl.errors import DrirlError
from drirl.generate import Completion
from drirl.records import write_jsonl
from drirl.reward.bank import ALL, RewardBank
from drirl.reward.fit import fit, group_accuracy, rows_of
from drirl.reward.irl import Outcome, _resampled, learn, sample_replies
from drirl.reward.items import Item, Reply, limits_of, load_items, pick
from drirl.reward.policy import LanguagePolicy
from drirl.reward.settings import PolicyUpdate, RewardSettings
from drirl.reward.static import learn_static, preferences

COMPLETIONS = ["Go on with it.", "Ask a friend first.", "Think it over.", "Do it at once."]
TRUE_REWARD = [1.5, 0.5, -0.5, -1.5]
PROMPT = "Shall I do it?"


class _Exact:
    """The exact policy of the known world: a distribution over four completions, moved to ref * exp(r /
    beta).
    """

    def __init__(self, logits: torch.Tensor, beta: float, name: str = "base") -> None:
        self.logits, self.beta, self.name = logits, beta, name

    def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(self.logits.exp(), len(items) * count, True, generator=generator).tolist()
        texts = [Completion(COMPLETIONS[k], True, 4) for k in drawn]
        return [texts[i : i + count] for i in range(0, len(texts), count)]

    def updated(self, items, reward, name, seed):  # type: ignore[no-untyped-def]
        rewards = reward([items[0]] * 4, [Completion(text, True, 4) for text in COMPLETIONS])
        return _Exact(torch.log_softmax(self.logits + rewards / self.beta, 0), self.beta, name)


def test_known_world_recovers_the_order_and_raises_the_likelihood(tiny_policy: Path) -> None:
    """Demonstrations are drawn in proportion to exp(true reward), the reference policy is uniform."""
    target = torch.softmax(torch.tensor(TRUE_REWARD), 0)
    counts = (target * 64).round().int().tolist()
    items = [item(PROMPT, COMPLETIONS[k], 0, "harmful") for k, n in enumerate(counts) for _ in range(n)]
    settings = RewardSettings(
        iterations=3,
        samples=8,
        replay=0,
        hard_negatives=0,
        safe_weight=1.0,
        anchor=True,  # without it a later fit knows only what still has to change
        steps=8,  # each iteration goes part of the way
        batch_prompts=64,
        lr=3e-3,
        penalty=0.0,
        checks=1,
    )
    uniform = torch.full((4,), math.log(0.25))
    bank = RewardBank.from_policy(tiny_policy, [0])
    outcome = learn(bank, _Exact(uniform, 1.0), items, items, settings, seed=0)

    def raw(b: RewardBank) -> torch.Tensor:
        scores = b.score([PROMPT] * 4, COMPLETIONS, [True] * 4, [0] * 4)
        return scores * b.scale + b.mu

    rewards = raw(outcome.bank)
    assert rewards.argsort(descending=True).tolist() == [0, 1, 2, 3]
    likelihoods = [(target * uniform).sum().item()]
    for snapshot in outcome.snapshots:
        implied = torch.log_softmax(uniform + raw(snapshot), 0)
        likelihoods.append((target * implied).sum().item())
    assert all(b > a for a, b in itertools.pairwise(likelihoods)), likelihoods
    best = (target * target.log()).sum().item()
    assert likelihoods[-1] > best - 0.1  # the entropy bound is the best any policy can do
    assert [p.name for p in outcome.policies] == ["base", "irl1", "irl2"]


def test_known_world_as_the_default_learns_it(tiny_policy: Path) -> None:
    """Without ``anchor`` the order is recovered too, and the policy it implies is better than the first."""
    target = torch.softmax(torch.tensor(TRUE_REWARD), 0)
    counts = (target * 64).round().int().tolist()
    items = [item(PROMPT, COMPLETIONS[k], 0, "harmful") for k, n in enumerate(counts) for _ in range(n)]
    settings = RewardSettings(
        samples=8, hard_negatives=0, safe_weight=1.0, steps=12, batch_prompts=64, lr=3e-3, checks=1
    )
    uniform = torch.full((4,), math.log(0.25))
    bank = RewardBank.from_policy(tiny_policy, [0])
    learn(bank, _Exact(uniform, 1.0), items, items, settings, seed=0)
    raw = bank.score([PROMPT] * 4, COMPLETIONS, [True] * 4, [0] * 4) * bank.scale + bank.mu
    assert raw.argsort(descending=True).tolist() == [0, 1, 2, 3]
    implied = torch.log_softmax(uniform + raw, 0)
    assert (target * implied).sum() > (target * uniform).sum() + 0.1


def test_whole_completions_need_a_policy_that_writes_drafts(tiny_policy: Path) -> None:
    class Says(_Exact):
        def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
            return [[Completion(text, True, 4)] * count for _ in items]

    settings = _settings(input_mode="full", update="none", iterations=1, hard_negatives=0)
    items = [item(PROMPT, COMPLETIONS[0], 0, "harmful")]
    policy = Says(torch.zeros(4), 1.0)
    text = COMPLETIONS[3]
    with pytest.raises(DrirlError, match=r"100% of the demonstrations .* only 0% of the policy's samples"):
        learn(RewardBank.from_policy(tiny_policy, [0]), policy, items, items, settings, seed=0)
    text = f"wants: help #### {COMPLETIONS[3]}"
    outcome = learn(RewardBank.from_policy(tiny_policy, [0]), policy, items, items, settings, seed=0)
    assert [pair.negative for pair in outcome.pairs] == [text] * 2


def _settings(**values: object) -> RewardSettings:
    base = {"steps": 6, "batch_prompts": 8, "samples": 2, "checks": 2, "max_new_tokens": 10, "bootstrap": 20}
    policy = PolicyUpdate(steps=2, prompts=9, group_size=3)
    return RewardSettings.model_validate({**base, "policy": policy, **values})


def _language(path: Path, settings: RewardSettings) -> LanguagePolicy:
    return LanguagePolicy.load(
        str(path), None, "cpu", name="base", settings=settings.policy, max_new_tokens=settings.max_new_tokens
    )


@pytest.mark.parametrize("update", ["grpo", "reweight", "none"])
def test_learn_end_to_end(tiny_policy: Path, update: str) -> None:
    settings = _settings(update=update)
    bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
    train, val = world(copies=2), world("val")
    outcome = learn(bank, _language(tiny_policy, settings), train, val, settings, seed=0)
    assert len(outcome.snapshots) == len(outcome.logs) == 2
    names = [p.name for p in outcome.policies]
    assert names == (["base", "irl1"] if update == "grpo" else ["base", "base"])
    fresh = [pair for pair in outcome.pairs if pair.irl_iter == 1 and pair.neg_kind == "sample"]
    if update == "grpo":
        assert {pair.policy_id for pair in fresh} >= {"irl1"}
    kinds = {pair.neg_kind for pair in outcome.pairs}
    assert {"sample", "repetition", "cut_off", "refusal", "wrong"} <= kinds
    # calibrated on the val demonstrations and samples
    rows = [(i, r) for i, s in zip(val, outcome.val_samples[-1]) for r in s]
    scores = bank.score(
        [i.prompt.text for i in val] + [i.prompt.text for i, _ in rows],
        [i.demo.answer for i in val] + [r.text for _, r in rows],
        [True] * len(val) + [r.finished for _, r in rows],
        [i.head for i in val] + [i.head for i, _ in rows],
    )
    own = torch.tensor([i.head == -1 for i in val] + [i.head == -1 for i, _ in rows])
    assert scores[own].mean().item() == pytest.approx(0, abs=1e-4)
    assert scores[own].std(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_learn_twice_is_identical(tiny_policy: Path) -> None:
    settings = _settings()
    states = []
    for _ in range(2):
        bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
        learn(bank, _language(tiny_policy, settings), world(copies=2), world("val"), settings, seed=4)
        states.append(bank.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_fit_learns_the_pairs_and_keeps_the_best_check(tiny_policy: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
    items = world(copies=3)
    bad = [[Reply("Do whatever you like.", True, "sample")] for _ in items]
    rows = rows_of(bank, items, bad)
    assert set(group_accuracy(bank, rows).values()) == {0.5}
    log = fit(bank, rows, rows, _settings(steps=30, lr=3e-3), steps=30, seed=0)
    assert group_accuracy(bank, rows) == dict.fromkeys([*"0123456", "benign", "task"], 1.0)
    assert log.accuracies[-1] == 1.0
    assert log.losses[-1] < log.losses[0] < math.log(2) + 0.05


def test_fit_goes_back_to_the_best_check(tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
    items = world(copies=1)
    rows = rows_of(bank, items, [[Reply("Do whatever you like.", True, "sample")] for _ in items])
    accuracies, states = [0.4, 0.9, 0.2], []

    def measured(model: RewardBank, _: object) -> dict[str, float]:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"0": accuracies[len(states) - 1]}

    monkeypatch.setattr(sys.modules["drirl.reward.fit"], "group_accuracy", measured)
    log = fit(bank, rows, rows, _settings(checks=3), steps=6, seed=0)
    assert (log.accuracies, log.best_step, log.steps) == (accuracies, 4, 6)
    kept = bank.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in states[1].items())
    assert any(not torch.equal(kept[name], value) for name, value in states[2].items())


def test_rows_drop_weight_zero(tiny_policy: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, [ALL])
    items = world()[:2]
    replies = [
        [Reply("x", True, "sample", weight=0.0)],
        [Reply("x", True, "sample"), Reply("", True, "s", weight=0)],
    ]
    rows = rows_of(bank, items, replies)
    assert [len(r.rejected) for r in rows] == [1]
    with pytest.raises(DrirlError, match="no pair to fit on"):
        fit(bank, [], [], _settings(), steps=1, seed=0)


def test_static_preferences_are_judged_samples_and_refusals(tiny_policy: Path) -> None:
    settings = _settings()
    items = world()
    samples = [
        [
            Reply("Sure. Do it.", True, "sample", verdict="unsafe"),
            Reply("I can't.", True, "sample", verdict="good"),
        ]
    ]
    samples = samples * 7 + [[Reply("Fine.", True, "sample", verdict="good")]] * (len(items) - 7)
    found = preferences(items, samples, settings, 0)
    assert [[r.text for r in row] for row in found[:7]] == [["Sure. Do it."]] * 7
    assert all([r.kind for r in row] == ["refusal"] for row in found[7:])
    bank = RewardBank.from_policy(tiny_policy, [ALL])
    tuned = dataclasses.replace  # settings are pydantic, replies are dataclasses
    val_samples = [[tuned(r, text=r.text) for r in row] for row in samples]
    short = settings.model_copy(update={"static": settings.static.model_copy(update={"steps": 4})})
    log = learn_static(bank, items, samples, items, val_samples, short, seed=0)
    assert log.steps == 4
    assert bank.score(["q"], ["a"], [True], [3]).isfinite().all()


def test_load_items_and_pick(tmp_path: Path) -> None:
    items = world()
    write_jsonl(tmp_path / "data" / "prompts.jsonl", [i.prompt for i in items])
    write_jsonl(tmp_path / "data" / "demos.jsonl", [i.demo for i in items])
    assert load_items(tmp_path, "train") == items
    picked = pick(items, limits_of(1, 1, 2), 0)
    assert sorted(i.prompt.kind for i in picked) == ["benign"] + ["harmful"] * 7 + ["task"] * 2
    assert pick(items, limits_of(1, 1, 2), 0) == picked
    with pytest.raises(DrirlError, match=r"split 'val' has no prompt of category 0, 1, 2, 3, 4, 5, 6, -1"):
        load_items(tmp_path, "val")
    write_jsonl(tmp_path / "data" / "demos.jsonl", [i.demo for i in items[1:]])
    with pytest.raises(DrirlError, match="has no demonstration"):
        load_items(tmp_path, "train")


def test_samples_are_judged(tiny_policy: Path) -> None:
    settings = _settings()
    replies = sample_replies(_language(tiny_policy, settings), world(), 2, 0, 3, settings)
    assert all(len(row) == 2 and row[0].iteration == 3 and row[0].verdict for row in replies)


def test_the_stage_fits_on_train_stops_on_val_and_reports_on_its_split(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drirl.reward.stage import Job, _run_model

    items = [i for split in ("train", "val", "test") for i in world(split)]
    write_jsonl(tmp_path / "data" / "prompts.jsonl", [i.prompt for i in items])
    write_jsonl(tmp_path / "data" / "demos.jsonl", [i.demo for i in items])
    shutil.copytree(tiny_policy, tmp_path / "base" / "toy")
    seen: list[set[str]] = []

    def fake_learn(bank, policy, train, val, settings, **_):  # type: ignore[no-untyped-def]
        seen.extend({i.prompt.split for i in own} for own in (train, val))
        return Outcome(bank, policies=[policy])

    def stop(found, *_):  # type: ignore[no-untyped-def]
        seen.append({i.prompt.split for i in found})
        raise InterruptedError

    monkeypatch.setattr("drirl.reward.irl.learn", fake_learn)
    monkeypatch.setattr("drirl.reward.report.draw_held_out", stop)
    for split in ("val", "test"):
        with pytest.raises(InterruptedError):
            _run_model(Job("toy", tmp_path, RewardSettings(report_split=split), 0, "cpu"))
    assert seen == [{"train"}, {"val"}, {"val"}, {"train"}, {"val"}, {"test"}]


def test_resampling_follows_the_softmax_of_the_reward(tiny_policy: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, [0])
    asked = ([PROMPT] * 4, COMPLETIONS, [True] * 4, [0] * 4)
    torch.manual_seed(0)
    with torch.no_grad():
        bank.head.weight.normal_()
        bank.head.weight.div_(bank.score(*asked).std())
    stored = [[Reply(COMPLETIONS[k % 4], True, "sample") for k in range(400)]]
    items = [item(PROMPT, "No.", 0, "harmful")]
    (found,) = _resampled(bank, items, stored, 1, RewardSettings(beta=0.5), 0)
    shares = [sum(reply.text == text for reply in found) / 400 for text in COMPLETIONS]
    assert shares == pytest.approx(torch.softmax(bank.score(*asked) / 0.5, 0).tolist(), abs=0.1)
    assert {reply.iteration for reply in found} == {1}
