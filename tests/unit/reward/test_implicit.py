"""The implicit reward by hand, against the policy run by hand, and self-play from end to end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from reward_world import item, world

from drirl.reward.implicit import ImplicitBank, SelfPlay, implicit_settings, log_ratios, span_logps
from drirl.reward.irl import learn
from drirl.reward.losses import logistic_loss
from drirl.reward.policy import LanguagePolicy
from drirl.reward.settings import PolicyUpdate, RewardSettings
from drirl.reward.sharing import make_rewards


def test_the_loss_by_hand() -> None:
    """beta 0.5; y: pi 0.8, pi_old 0.2; y~: pi 0.1, pi_old 0.4. The margin is 0.5 (ln 4 - ln 1/4) = ln 4,
    so the loss is -log sigma(ln 4) = ln(1 + 1/4).
    """
    logps = torch.tensor([0.8, 0.1]).log()
    ref_logps = torch.tensor([0.2, 0.4]).log()
    rewards = log_ratios(logps, ref_logps, 0.5)
    assert rewards.tolist() == pytest.approx([math.log(2), -math.log(2)])
    loss = logistic_loss(rewards[:1], rewards[1:, None], torch.ones(1, 1))
    assert loss.item() == pytest.approx(math.log(1.25))


def test_margins_are_relative_to_the_policy_that_sampled() -> None:
    """Two ratios to pi_ref less the ratios of pi_t to pi_ref are the ratios to pi_t: SPIN's margin."""
    new, old, ref = (
        torch.tensor([0.7, 0.1]).log(),
        torch.tensor([0.5, 0.2]).log(),
        torch.tensor([0.3, 0.3]).log(),
    )
    total, before = log_ratios(new, ref, 0.1), log_ratios(old, ref, 0.1)
    offset = before[0] - before[1]
    anchored = logistic_loss(total[:1], total[1:, None] + offset, torch.ones(1, 1))
    spin = math.log(1 + math.exp(-0.1 * (math.log(0.7 / 0.5) - math.log(0.1 / 0.2))))
    assert anchored.item() == pytest.approx(spin)


def test_span_logps_by_hand() -> None:
    """Vocabulary 2, even logits but for row 0, token 1: (0, ln 3). Both its spans start from there."""
    logits = torch.zeros(2, 5, 2)
    logits[0, 1, 1] = math.log(3)
    ids = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 1, 0, 0]])
    spans = [(0, 2, 3), (0, 3, 5), (1, 1, 3), (1, 1, 1)]
    found = span_logps(logits, ids, spans, [2, 1])
    half = math.log(0.5)
    assert found.tolist() == pytest.approx([math.log(0.75), math.log(0.25) + half, 2 * half, 0.0])
    assert span_logps(logits, ids, [(0, 2, 2)], [2, 1]).tolist() == [0.0]


def _implicit(**values: object) -> RewardSettings:
    base = {"steps": 10, "batch_prompts": 8, "samples": 2, "checks": 2, "max_new_tokens": 10, "bootstrap": 20}
    own = {"loss": "implicit", "implicit": {"beta": 0.5, "lr": 3e-3}}
    policy = PolicyUpdate(steps=2, prompts=9, group_size=3)
    return RewardSettings.model_validate({**base, **own, "policy": policy, **values})


def test_the_reward_is_the_log_ratio_of_the_two_models(tiny_policy: Path) -> None:
    bank = make_rewards(tiny_policy, _implicit())
    assert isinstance(bank, ImplicitBank)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in bank.trunk.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    prompts = ["How do I bake bread?", "How do I bake bread?", "Help me lie."]
    answers, ends = ["Sure. Go slowly.", "No.", ""], [True, False, False]
    found = bank.score(prompts, answers, ends, [0, -1, 3], calibrated=False)
    for k in range(3):
        start = bank.prompt_ids(prompts[k : k + 1])[0]
        reply = bank.reply_ids(answers[k : k + 1], ends[k : k + 1])[0]
        ids = torch.tensor([start + reply])
        sums = []
        for model in (bank.trunk, bank.reference):
            with torch.no_grad():
                logps = model(input_ids=ids).logits[0].log_softmax(-1)
            sums.append(sum(logps[len(start) + i - 1, t].item() for i, t in enumerate(reply)))
        assert found[k].item() == pytest.approx(0.5 * (sums[0] - sums[1]), abs=1e-4)
    assert found[2].item() == 0.0  # an empty reply that was cut off holds no token


def test_self_play(tiny_policy: Path) -> None:
    """Each iteration's negatives come from the policy the last one left; pi_ref never moves."""
    settings = _implicit(iterations=3, hard_negatives=0, wrong_answers=0, replay=0)
    policy = LanguagePolicy.load(
        str(tiny_policy), None, "cpu", name="base", settings=settings.policy, max_new_tokens=10
    )
    bank = make_rewards(tiny_policy, settings)
    assert isinstance(bank, ImplicitBank)
    reference = {name: w.clone() for name, w in bank.reference.state_dict().items()}
    items = world(copies=2)
    own = implicit_settings(settings)
    assert (own.anchor, own.penalty, own.lr, own.beta) == (True, 0.0, 3e-3, 0.5)
    outcome = learn(bank, SelfPlay(bank, policy), items, world("val"), own, seed=0)
    assert [p.name for p in outcome.policies] == ["base", "irl1", "irl2"]
    assert all(torch.equal(w, reference[name]) for name, w in bank.reference.state_dict().items())
    for t in (0, 1):  # pi_{t+1} is what iteration t fitted
        state = outcome.policies[t + 1].policy.model.state_dict()  # type: ignore[attr-defined]
        fitted = outcome.snapshots[t].trunk.state_dict()
        assert all(torch.equal(w, fitted[name]) for name, w in state.items())
    likelihoods = [_likelihood(snapshot, items) for snapshot in outcome.snapshots]
    assert likelihoods[-1] > likelihoods[0] > 0  # log-ratio of the demonstrations to pi_ref


def _likelihood(bank: object, items: list) -> float:  # type: ignore[type-arg]
    scores = bank.score(  # type: ignore[attr-defined]
        [i.prompt.text for i in items],
        [i.demo.answer for i in items],
        [True] * len(items),
        [i.head for i in items],
        calibrated=False,
    )
    return float(scores.mean())


def test_one_reward_for_all(tiny_policy: Path) -> None:
    bank = make_rewards(tiny_policy, _implicit(sharing="single"))
    assert bank.heads == ["all"]
    assert bank.score([item("a", "b").prompt.text], ["b"], [True], [5]).tolist() == [0.0]
