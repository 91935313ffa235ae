from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drirl.align.actor_critic import ActorCriticTrainer, load_critic, state_values
from drirl.align.interface import Inputs
from drirl.errors import DrirlError
from drirl.records import read_jsonl

from ..align.conftest import SMALL

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def ppo(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("ppo")


def test_critic_starts_at_zero_and_comes_back_as_saved(tiny_policy: Any, tmp_path: Any) -> None:
    critic = load_critic(tiny_policy, torch.float32)
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.long)
    assert state_values(critic, ids, mask, 2).eq(0).all()
    with torch.no_grad():
        critic.score.weight.normal_()
    expected = critic(input_ids=ids).logits[0, 1:3, 0]  # the states before tokens 2 and 3
    assert torch.equal(state_values(critic, ids, mask, 2)[0], expected)
    critic.save_pretrained(tmp_path)
    again = load_critic(tmp_path, torch.float32)
    assert torch.equal(state_values(again, ids, mask, 2), state_values(critic, ids, mask, 2))


def test_run_trains_policy_and_critic_and_saves_both(ppo: Any, make_inputs: Make, tiny_policy: Any) -> None:
    inputs = make_inputs("ppo")
    ppo.train(inputs, ppo.Config(lr=1e-3))
    policy = load_file(inputs.out / "policy" / "model.safetensors")
    critic = load_file(inputs.out / "critic" / "model.safetensors")
    base = load_file(tiny_policy / "model.safetensors")
    assert any(not torch.equal(policy[name], base[name]) for name in base)
    assert critic["score.weight"].abs().sum() > 0
    assert any(not torch.equal(critic[name], base[name]) for name in base if name in critic)
    again = load_critic(inputs.out / "critic", torch.float32).state_dict()
    assert set(critic) <= set(again)
    assert all(torch.equal(again[name], critic[name]) for name in critic)
    log = read_jsonl(inputs.out / "log.jsonl")
    assert len(log) == SMALL.updates
    assert all(row["value_loss"] >= 0 and row["kl"] >= 0 for row in log)
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy still is the reference


def test_two_epochs_keep_the_number_of_updates(ppo: Any, make_inputs: Make) -> None:
    once, twice = make_inputs("once"), make_inputs("twice")
    ppo.train(once, ppo.Config())
    ppo.train(twice, ppo.Config(epochs=2))
    assert twice.meter.updates == once.meter.updates == SMALL.updates
    assert twice.meter.generated_tokens < once.meter.generated_tokens


def test_policy_loss_is_the_clipped_objective_per_token(
    ppo: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the formula, token by token; a completion counts as one, whatever its length."""
    pairs, ratios = [], []

    def step(self: ActorCriticTrainer, model: Any, inputs: dict[str, Any]) -> Any:
        kept, self.value_coefficient = self.value_coefficient, 0.0
        with torch.no_grad():
            found = compute(self, model, inputs) * self.current_gradient_accumulation_steps
        self.value_coefficient = kept
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        mask, advantages = inputs["completion_mask"].float(), inputs["advantages"]
        length = mask.shape[1]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
        now = (logits / self.temperature).log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
        old = inputs.get("old_per_token_logps")
        ratio = torch.exp(now - (now if old is None else old))
        clipped = ratio.clamp(1 - 0.02, 1 + 0.02)
        tokens = -torch.minimum(ratio * advantages, clipped * advantages)
        rows = (tokens * mask).sum(1) / mask.sum(1)
        assert advantages.shape == mask.shape  # (B, T)
        pairs.append((float(found), float(rows.mean())))
        ratios.append(float(((ratio - 1).abs() * mask).max()))
        return compute(self, model, inputs)

    compute = ActorCriticTrainer._compute_loss
    monkeypatch.setattr(ActorCriticTrainer, "_compute_loss", step)
    shared = SMALL.model_copy(update={"epsilon": 0.02})
    ppo.train(make_inputs("loss", shared=shared), ppo.Config(lr=3e-3, epochs=2))
    assert len(pairs) >= 2
    for found, expected in pairs:
        assert found == pytest.approx(expected, abs=2e-5)
    assert max(ratios) > 0.02  # the clip acted somewhere


def test_token_rewards_gradient_clipping_and_the_kl_outside_the_loss(
    ppo: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def estimate(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, **options: float) -> Any:
        seen.setdefault("rewards", (rewards.clone(), mask.clone()))
        return generalised(rewards, values, mask, **options)

    def step(self: ActorCriticTrainer, *args: Any) -> Any:
        if "first" not in seen:
            seen["first"] = self._batch.rewards.clone()
        loss = compute(self, *args)
        assert self.beta == SMALL.beta  # put back after TRL's loss, which must not add the KL again
        return loss

    def after(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        pre(self, args, state, control)
        gradients = [p.grad.flatten() for p in self.trainer.critic.parameters() if p.grad is not None]
        seen.setdefault("norms", []).append(torch.cat(gradients).norm().item())

    from drirl.align import actor_critic

    generalised, compute = ppo.generalised_advantages, ActorCriticTrainer._compute_loss
    pre = actor_critic._CriticStep.on_pre_optimizer_step
    monkeypatch.setattr(ppo, "generalised_advantages", estimate)
    monkeypatch.setattr(ActorCriticTrainer, "_compute_loss", step)
    monkeypatch.setattr(actor_critic._CriticStep, "on_pre_optimizer_step", after)
    inputs = make_inputs("seen", shared=SMALL.model_copy(update={"max_grad_norm": 0.01}))
    ppo.train(inputs, ppo.Config())
    rewards, mask = seen["rewards"]
    last = mask.sum(-1).long() - 1
    on_last = rewards.gather(1, last[:, None]).squeeze(1)
    torch.testing.assert_close(on_last, seen["first"], atol=1e-5, rtol=1e-5)  # KL is 0 at the first update
    assert rewards.sum().item() == pytest.approx(on_last.sum().item(), abs=1e-4)
    assert all(norm <= 0.01 * 1.001 for norm in seen["norms"])
    assert seen["norms"][0] > 0


def test_without_a_reference_there_is_no_penalty(ppo: Any, make_inputs: Make) -> None:
    with pytest.raises(DrirlError, match=r"align\.shared\.beta"):
        ppo.train(make_inputs(shared=SMALL.model_copy(update={"beta": 0.0})), ppo.Config())


@pytest.mark.parametrize("lost", ["some", "all"])
def test_a_completion_without_a_reward_leaves_the_batch(
    ppo: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    calculate = ActorCriticTrainer._calculate_rewards
    loss = ppo.clipped_value_loss

    def rewards(self: ActorCriticTrainer, *args: Any) -> torch.Tensor:
        found = calculate(self, *args)
        rows = slice(0, 2) if lost == "some" else slice(None)
        self._batch.rewards[rows] = torch.nan
        return found

    def value_loss(values: Any, old: Any, returns: Any, mask: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((values.detach(), returns, mask))
        return loss(values, old, returns, mask, *args, **kwargs)

    monkeypatch.setattr(ActorCriticTrainer, "_calculate_rewards", rewards)
    monkeypatch.setattr(ppo, "clipped_value_loss", value_loss)
    inputs = make_inputs(lost)
    ppo.train(inputs, ppo.Config())
    empty = [int((mask.sum(-1) == 0).sum()) for _, _, mask in seen]
    assert all(count == (2 if lost == "some" else len(seen[0][2])) for count in empty)
    assert all(returns[mask.bool()].isfinite().all() for _, returns, mask in seen)
    assert all(
        value.isfinite().all() for value in load_file(inputs.out / "policy" / "model.safetensors").values()
    )
    share = 2 / len(seen[0][2]) if lost == "some" else 1.0
    log = read_jsonl(inputs.out / "log.jsonl")
    assert [row["unscored_share"] for row in log] == [pytest.approx(share)] * SMALL.updates


def test_a_token_pays_beta_times_its_log_ratio(
    ppo: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    shaped, generalised = ActorCriticTrainer.shaped_advantages, ppo.generalised_advantages

    def estimate(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, **options: float) -> Any:
        seen.append([rewards.clone(), mask.clone()])
        return generalised(rewards, values, mask, **options)

    def spy(self: ActorCriticTrainer, batch: Any, output: dict[str, Any]) -> Any:
        result = shaped(self, batch, output)
        old = output.get("old_per_token_logps")
        old = output["sampling_per_token_logps"] if old is None else old
        seen[-1] += [old - output["ref_per_token_logps"], batch.rewards.clone()]
        return result

    monkeypatch.setattr(ppo, "generalised_advantages", estimate)
    monkeypatch.setattr(ActorCriticTrainer, "shaped_advantages", spy)
    ppo.train(make_inputs(), ppo.Config(lr=1e-2))
    rewards, mask, log_ratio, scores = seen[-1]  # by now the policy has left the reference
    assert (log_ratio * mask).abs().max() > 1e-3
    expected = -SMALL.beta * log_ratio * mask
    expected[torch.arange(len(mask)), mask.sum(-1).long() - 1] += scores
    torch.testing.assert_close(rewards, expected)


def test_the_critic_gets_nearer_to_the_returns(ppo: Any, make_inputs: Make) -> None:
    inputs = make_inputs()
    ppo.train(inputs, ppo.Config(epochs=2, critic_lr=1e-3))  # both updates on one batch
    first, second = (row["value_loss"] for row in read_jsonl(inputs.out / "log.jsonl"))
    assert second < first
