from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drirl.align.interface import Inputs
from drirl.align.trainer import DRIRLTrainer
from drirl.errors import DrirlError
from drirl.hardness.settings import HardnessSettings
from drirl.records import RolloutGroup, read_jsonl
from drirl.reward.bank import RewardBank

from ..align.conftest import SMALL

Make = Callable[..., Inputs]


@pytest.fixture(scope="module")
def ppo_s(method_file: Callable[[str], ModuleType]) -> Any:
    return method_file("ppo_s")


def test_alpha_one_is_ppo_to_the_last_bit(
    ppo_s: Any, method_file: Callable[[str], ModuleType], make_inputs: Make
) -> None:
    ppo = method_file("ppo")
    plain, ours = make_inputs("ppo"), make_inputs("ppo_s")
    ppo.train(plain, ppo.Config(lr=1e-3))
    ppo_s.train(ours, ppo_s.Config(lr=1e-3, hardness=HardnessSettings(combine="off")))
    for part in ("policy", "critic"):
        a, b = (load_file(i.out / part / "model.safetensors") for i in (plain, ours))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert ours.meter.counts() == plain.meter.counts()


def test_whitened_advantages_are_multiplied_by_the_prompts_alpha(
    ppo_s: Any, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    scaled = DRIRLTrainer.scaled_advantages

    def spy(self: Any, batch: Any, advantages: torch.Tensor) -> torch.Tensor:
        result = scaled(self, batch, advantages)
        seen.append((advantages.clone(), self.found.weights.reshape(-1), result.clone()))
        return result

    monkeypatch.setattr(DRIRLTrainer, "scaled_advantages", spy)
    inputs = make_inputs()
    ppo_s.train(inputs, ppo_s.Config())
    assert len(seen) == SMALL.updates
    for whitened, alpha, result in seen:
        assert whitened.dim() == 2
        torch.testing.assert_close(result, whitened * alpha[:, None])
        inside = whitened[whitened != 0]
        assert inside.mean().item() == pytest.approx(0, abs=1e-4)
        assert inside.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
        assert alpha.view(-1, SMALL.group_size).std(dim=1).max() == 0  # one alpha per prompt
    assert len({round(v, 5) for _, alpha, _ in seen for v in alpha.tolist()}) > 1


def test_the_gap_is_the_category_rewards_the_policys_reward_the_static_one(
    ppo_s: Any, make_inputs: Make
) -> None:
    inputs = make_inputs()
    ppo_s.train(inputs, ppo_s.Config())
    demos = {prompt.prompt_id: (prompt, demo) for prompt, demo in inputs.train}
    irl, static = RewardBank.load(inputs.reward_path), RewardBank.load(inputs.static_reward_path)
    for group in read_jsonl(inputs.out / "rollouts.jsonl", RolloutGroup):
        prompt, demo = demos[group.prompt_id]
        (wanted,) = irl.score_completions([prompt.text], [demo.full_text], [True], [prompt.category]).tolist()
        assert group.r_demo == pytest.approx(wanted, abs=1e-4)
        for text, r_gen, gap in zip(group.completions, group.r_gen, group.gap, strict=True):
            found = {
                bank: [
                    bank.score_completions([prompt.text], [text], [done], [prompt.category]).item()
                    for done in (True, False)  # whether it ended by itself is not recorded
                ]
                for bank in (irl, static)
            }
            assert min(abs(wanted - value - gap) for value in found[irl]) < 1e-4
            assert min(abs(value - r_gen) for value in found[static]) < 1e-4


def test_without_a_reference_there_is_no_penalty(ppo_s: Any, make_inputs: Make) -> None:
    with pytest.raises(DrirlError, match=r"align\.shared\.beta"):
        ppo_s.train(make_inputs(shared=SMALL.model_copy(update={"beta": 0.0})), ppo_s.Config())


def test_recentring_is_refused(ppo_s: Any) -> None:
    with pytest.raises(ValueError, match="per token"):
        ppo_s.Config(hardness=HardnessSettings(per_completion=True, recentre=True))
