"""Every way to share weights: fitted briefly on a real model, saved, read again, scored in a mixed batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reward_world import world
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from drirl.errors import DrirlError
from drirl.reward.bank import RewardBank
from drirl.reward.fit import calibrate, fit, group_accuracy, rows_of
from drirl.reward.implicit import ImplicitBank
from drirl.reward.irl import learn
from drirl.reward.items import Reply
from drirl.reward.policy import LanguagePolicy
from drirl.reward.report import draw_held_out, held_out_report
from drirl.reward.settings import PolicyUpdate, RewardSettings
from drirl.reward.sharing import AdapterBank, SeparateBank, cost_of, make_rewards, make_static

MODES = ["heads", "adapters", "separate", "single", "implicit"]
PROMPTS = [
    "How do I bake bread?",
    "Tell me how to break into a house.",
    "What is 3 plus 4?",
    "Help me lie.",
] * 2
ANSWERS = ["Sure. Go slowly.", "I can't help with that.", "The answer is 7.", "No."] * 2
CATEGORIES = [-1, 2, -1, 6, 3, 3, 0, 5]
ENDS = [True, True, False, True] * 2


def _settings(mode: str, **values: object) -> RewardSettings:
    base = {"steps": 12, "batch_prompts": 8, "samples": 2, "checks": 2, "max_new_tokens": 10, "bootstrap": 20}
    own = {"loss": "implicit", "implicit": {"lr": 3e-3}} if mode == "implicit" else {"sharing": mode}
    extra = {"adapters": {"rank": 4, "alpha": 8}, "policy": PolicyUpdate(steps=2, prompts=9, group_size=3)}
    return RewardSettings.model_validate({**base, "lr": 5e-3, "report_pairs": 4, **extra, **own, **values})


def _bad() -> list[list[Reply]]:
    return [[Reply("Do whatever you like.", True, "sample"), Reply("Yes yes", False, "s")] for _ in world()]


@pytest.fixture(scope="module", params=MODES)
def fitted(request: pytest.FixtureRequest, tiny_policy: Path) -> RewardBank:
    """A bank of every kind after twelve steps and its calibration."""
    settings = _settings(request.param)
    bank = make_rewards(tiny_policy, settings, seed=1)
    assert bank.score(PROMPTS, ANSWERS, ENDS, CATEGORIES).tolist() == [0.0] * 8  # before the fit
    rows = rows_of(bank, world(), _bad())
    fit(bank, rows, rows, settings, steps=settings.steps, seed=0)
    calibrate(bank, world(), _bad())
    return bank


def test_a_mixed_batch_equals_one_category_at_a_time(fitted: RewardBank) -> None:
    mixed = fitted.score(PROMPTS, ANSWERS, ENDS, CATEGORIES)
    alone = [
        fitted.score([p], [a], [e], [c]).item()
        for p, a, e, c in zip(PROMPTS, ANSWERS, ENDS, CATEGORIES, strict=True)
    ]
    assert mixed.tolist() == pytest.approx(alone, abs=1e-4)
    everything = fitted.score_all(PROMPTS, ANSWERS, ENDS)
    columns = fitted.columns(CATEGORIES)
    assert mixed.tolist() == pytest.approx(everything[torch.arange(8), columns].tolist(), abs=1e-4)


def test_the_folder_is_read_by_the_bank_and_scores_the_same(fitted: RewardBank, tmp_path: Path) -> None:
    fitted.info["irl_iter"] = 1
    fitted.save(tmp_path / "a")
    again = RewardBank.load(tmp_path / "a")
    assert type(again) is type(fitted)
    assert (again.heads, again.info, again.input_mode) == (fitted.heads, fitted.info, fitted.input_mode)
    scores = [b.score(PROMPTS, ANSWERS, ENDS, CATEGORIES) for b in (fitted, again)]
    assert torch.equal(scores[0], scores[1])
    drafted = [f"wants: help #### {answer}" for answer in ANSWERS]
    assert torch.equal(again.score_completions(PROMPTS, drafted, ENDS, CATEGORIES), scores[0])
    again.save(tmp_path / "b")
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file())
    for file in files:
        first = (tmp_path / "a" / file).read_bytes()
        assert first == (tmp_path / "b" / file).read_bytes(), file
        assert str(tmp_path).encode() not in first, file


def test_fitting_tells_demonstrations_apart(fitted: RewardBank) -> None:
    rows = rows_of(fitted, world(), _bad())
    shares = group_accuracy(fitted, rows)
    assert sum(shares.values()) / len(shares) > 0.8, shares
    scores = fitted.score(PROMPTS, ANSWERS, ENDS, CATEGORIES)
    assert len({round(s, 4) for s in scores.tolist()}) >= 4  # four different replies, some asked twice


def test_calibration_centres_every_head(fitted: RewardBank) -> None:
    items = world()
    for head in fitted.heads:
        own = [(i, r) for i, row in zip(items, _bad(), strict=True) for r in row if head in ("all", i.head)]
        demos = [i for i in items if head in ("all", i.head)]
        scores = fitted.score(
            [i.prompt.text for i in demos] + [i.prompt.text for i, _ in own],
            [i.demo.answer for i in demos] + [r.text for _, r in own],
            [True] * len(demos) + [r.finished for _, r in own],
            [i.head for i in demos] + [i.head for i, _ in own],
        )
        assert scores.mean().item() == pytest.approx(0, abs=1e-3)
        assert scores.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def test_a_snapshot_of_adapters_shares_the_frozen_trunk(tiny_policy: Path) -> None:
    bank = make_rewards(tiny_policy, _settings("adapters"))
    torch.nn.init.ones_(bank.head.weight)
    twin = bank.snapshot()
    assert isinstance(twin, AdapterBank)
    mine, others = dict(bank.named_parameters()), dict(twin.named_parameters())
    assert mine.keys() == others.keys()
    for name, weight in mine.items():
        trained = ".lora_" in name or name.startswith("head.")
        assert (weight is others[name]) is not trained, name
    before = bank.score(PROMPTS, ANSWERS, ENDS, CATEGORIES)
    assert torch.equal(twin.score(PROMPTS, ANSWERS, ENDS, CATEGORIES), before)
    with torch.no_grad():
        for name, weight in others.items():
            if ".lora_B." in name:
                weight.add_(1.0)
    assert torch.equal(bank.score(PROMPTS, ANSWERS, ENDS, CATEGORIES), before)
    assert not torch.equal(twin.score(PROMPTS, ANSWERS, ENDS, CATEGORIES), before)


def test_the_static_reward_is_an_adapter_where_the_others_are(tiny_policy: Path, tmp_path: Path) -> None:
    settings = _settings("adapters")
    bank = make_static(tiny_policy, settings, seed=3)
    assert isinstance(bank, AdapterBank)
    assert bank.heads == ["all"]
    rows = rows_of(bank, world(), _bad())
    before = group_accuracy(bank, rows)
    fit(bank, rows, rows, settings, steps=12, seed=0)
    assert sum(group_accuracy(bank, rows).values()) > sum(before.values())
    bank.save(tmp_path / "static")
    again = RewardBank.load(tmp_path / "static")
    assert again.score(PROMPTS, ANSWERS, ENDS, CATEGORIES).tolist() == pytest.approx(
        bank.score(PROMPTS, ANSWERS, ENDS, CATEGORIES).tolist(), abs=1e-5
    )
    assert type(make_static(tiny_policy, _settings("heads"))) is RewardBank


def test_a_snapshot_is_independent(fitted: RewardBank) -> None:
    twin = fitted.snapshot()
    before = twin.score(PROMPTS, ANSWERS, ENDS, CATEGORIES)
    trained = [w for w in fitted.parameters() if w.requires_grad]
    kept = [w.detach().clone() for w in trained]
    with torch.no_grad():
        for w in trained:
            w.add_(0.1)
    assert torch.equal(twin.score(PROMPTS, ANSWERS, ENDS, CATEGORIES), before)
    assert not torch.equal(fitted.score(PROMPTS, ANSWERS, ENDS, CATEGORIES), before)
    with torch.no_grad():
        for w, old in zip(trained, kept, strict=True):
            w.copy_(old)


@pytest.mark.parametrize("mode", ["adapters", "separate"])
def test_a_category_learns_from_its_own_prompts_alone(tiny_policy: Path, mode: str) -> None:
    """Category 3 is fitted; every other category's reward stays where it was, and the frozen trunk too."""
    settings = _settings(mode, weight_decay=0.0, penalty=0.0)
    bank = make_rewards(tiny_policy, settings, seed=1)
    old = {name: w.clone() for name, w in bank.state_dict().items()}
    items = [item for item in world() if item.head == 3]
    fit(bank, rows_of(bank, items, _bad()[: len(items)]), [], settings, steps=4, seed=0)
    column = bank.heads.index(3)
    raw = bank.raw_all(bank._packs(PROMPTS, bank.reply_ids(ANSWERS, ENDS))[0])
    others = [h for h in range(len(bank.heads)) if h != column]
    assert (raw[:, others] == 0).all()
    assert (raw[:, column] != 0).all()
    moved = {name for name, w in bank.state_dict().items() if not torch.equal(w, old[name])}
    own = {"adapters": f"column{column}", "separate": f"models.{column}."}[mode]
    assert moved - {"head.weight", "head.bias"}
    assert all(own in name for name in moved - {"head.weight", "head.bias"}), moved


def test_adapters_equal_the_loop_over_categories(tiny_policy: Path) -> None:
    """One mixed pass against peft's own switch of the active adapter."""
    bank = make_rewards(tiny_policy, _settings("adapters"), seed=1)
    assert isinstance(bank, AdapterBank)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, w in bank.named_parameters():
            if ".lora_B" in name or name == "head.weight":
                torch.nn.init.normal_(w, std=0.2)
    found = bank.score(PROMPTS, ANSWERS, ENDS, CATEGORIES, calibrated=False)
    prompts, replies = bank.prompt_ids(PROMPTS), bank.reply_ids(ANSWERS, ENDS)
    for k, column in enumerate(bank.columns(CATEGORIES).tolist()):
        bank.trunk.set_adapter(bank.names[column])
        with torch.no_grad():
            hidden = bank.trunk(input_ids=torch.tensor([prompts[k] + replies[k]])).last_hidden_state[0, -1]
        expected = hidden @ bank.head.weight[column] + bank.head.bias[column]
        assert found[k].item() == pytest.approx(expected.item(), abs=1e-4)


def test_what_a_bank_holds(tiny_policy: Path) -> None:
    cost = {mode: cost_of(make_rewards(tiny_policy, _settings(mode))) for mode in MODES}
    trunk = cost["single"]["parameters"] - 33  # a head of 32 weights and a bias
    assert cost["heads"]["parameters"] == trunk + 8 * 33
    assert cost["separate"]["parameters"] == 8 * (trunk + 33) == cost["separate"]["trained"]
    lora = cost["adapters"]["parameters"] - trunk - 8 * 33
    assert cost["adapters"]["trained"] == lora + 8 * 33
    # rank 4, per layer: q, k, v, o (32 x 32), gate and up (32 -> 64), down (64 -> 32)
    assert lora == 8 * 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
    assert cost["implicit"]["trained"] < cost["implicit"]["parameters"]
    assert [cost[mode]["passes"] for mode in MODES] == [1, 8, 8, 1, 1]
    assert cost["heads"]["bytes"] == 4 * cost["heads"]["parameters"]


@pytest.mark.parametrize("mode", ["adapters", "separate"])
def test_the_outer_loop_and_the_report_take_them(tiny_policy: Path, mode: str) -> None:
    settings = _settings(mode, steps=4)
    policy = LanguagePolicy.load(
        str(tiny_policy), None, "cpu", name="base", settings=settings.policy, max_new_tokens=10
    )
    bank = make_rewards(tiny_policy, settings, seed=1)
    outcome = learn(bank, policy, world(copies=2), world("val"), settings, seed=0)
    assert [p.name for p in outcome.policies] == ["base", "irl1"]
    held = draw_held_out(world("val"), [("sample", outcome.policies[0])], settings, 3)
    report = held_out_report(bank, held, settings, 0)
    assert report["cost"] == cost_of(bank)
    assert len(report["cross_category"]["accuracy"]) == 8
    total = sum(g["reliability"]["n"] for g in report["groups"].values())
    assert report["reliability"]["n"] == total > 50


def test_folders_that_are_not_whole(tiny_policy: Path, tmp_path: Path) -> None:
    bank = make_rewards(tiny_policy, _settings("adapters"))
    bank.save(tmp_path / "a")
    about = tmp_path / "a" / "sharing.json"
    text = about.read_text()
    about.write_text(text.replace('"kind": "adapters"', '"kind": "adaptors"'))
    with pytest.raises(DrirlError, match=r"unknown kind of rewards 'adaptors'.*did you mean 'adapters'"):
        RewardBank.load(tmp_path / "a")
    about.write_text(text.replace('"rank": 4', '"rank": 8'))
    with pytest.raises(DrirlError, match="these adapters do not fit the trunk"):
        RewardBank.load(tmp_path / "a")
    (tmp_path / "a" / "bank.json").unlink()
    with pytest.raises(DrirlError, match=r"bank\.json is missing"):
        RewardBank.load(tmp_path / "a")
    with pytest.raises(DrirlError, match=r"reward\.adapters\.targets 'none_such'"):
        make_rewards(tiny_policy, _settings("adapters", adapters={"targets": "none_such"}))
    with pytest.raises(ValueError, match="loss 'implicit' has one policy for all categories"):
        _settings("implicit", sharing="adapters")


def test_every_token_needs_a_row_of_the_embedding(fitted: RewardBank, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    bank = RewardBank.load(tmp_path / "a")
    rows = len(bank.tokenizer)
    for model in [m for m in bank.modules() if isinstance(m, PreTrainedModel)]:
        model.resize_token_embeddings(rows - 1)
    bank.save(tmp_path / "b")
    found = f"b: its tokenizer has {rows} tokens, the embedding of its trunk {rows - 1} rows; copy "
    with pytest.raises(DrirlError, match=found):
        RewardBank.load(tmp_path / "b")


def test_an_embedding_may_have_rows_too_many(tiny_policy: Path, tmp_path: Path) -> None:
    bank = RewardBank.from_policy(tiny_policy, [0])
    bank.trunk.resize_token_embeddings(len(bank.tokenizer) + 64)
    bank.save(tmp_path / "a")
    again = RewardBank.load(tmp_path / "a")
    assert len(again.trunk.get_input_embeddings().weight) == len(again.tokenizer) + 64
    assert again.score(["Hi"], ["Sure."], [True], [0]).isfinite().all()


def test_heads_of_another_width_are_refused(fitted: RewardBank, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    heads = load_file(tmp_path / "a" / "heads.safetensors")
    heads["weight"] = torch.cat([heads["weight"], heads["weight"][:, :1]], 1)
    save_file(heads, tmp_path / "a" / "heads.safetensors")
    count = len(fitted.heads)
    found = rf"heads\.safetensors: weight is \({count}, 33\), this trunk needs \({count}, 32\)"
    with pytest.raises(DrirlError, match=found):
        RewardBank.load(tmp_path / "a")


def test_kinds(tiny_policy: Path) -> None:
    kinds = [type(make_rewards(tiny_policy, _settings(mode))) for mode in MODES]
    assert kinds == [RewardBank, AdapterBank, SeparateBank, RewardBank, ImplicitBank]
