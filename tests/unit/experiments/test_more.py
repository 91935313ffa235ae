"""Rescored, reranked and routed arms and human-written pairs: what they are and count."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drirl.errors import DrirlError
from drirl.experiments import best_of, scoring
from drirl.experiments.best_of import LIMITS, choose_prompts, records
from drirl.experiments.cross import (
    DNA,
    MODELS,
    RESPONSES,
    RealPair,
    _score,
    do_not_answer_pairs,
    hh_pairs,
    run_cross,
)
from drirl.experiments.extras.sources import real_pairs
from drirl.experiments.gather import gather
from drirl.experiments.page import write_page
from drirl.experiments.pipeline import build
from drirl.experiments.plan import Arm, Plan
from drirl.experiments.routing import Routes, folds_of, make_routes
from drirl.generate import Completion
from drirl.records import Demo, Prompt, read_json, write_json, write_jsonl
from drirl.serve.rerank import Ranked


def _prompt(i: int, kind: str = "harmful", category: int = 0, level: str = "direct", **more: Any) -> Prompt:
    values: dict[str, Any] = {"split": "test", "cluster_id": i, **more}
    return Prompt(
        prompt_id=f"{kind}{i:03d}", text=f"{kind} {i}", category=category, kind=kind, level=level, **values
    )


# ------------------------------------------------------------ the arms


def test_an_arm_on_another_has_its_policies_and_its_own_folder(plan: Plan) -> None:
    arm = plan.resolve("attacked_stair")
    assert (arm.method, arm.headline) == ("stair", False)
    assert arm.out == plan.out / "attacked_stair"
    assert arm.params.evaluate.tasks == ["drirl_jailbreak"]
    assert plan.resolve("dr_irl").params.evaluate.tasks == ["drirl_tiny"]


def test_a_page_needs_what_its_arms_stand_on(plan: Plan) -> None:
    own = plan.own_arms(["table4"])
    assert own.index("stair") < own.index("attacked_stair")
    assert "dr_irl" not in own  # a headline cell
    assert plan.arm_models("stair") == plan.params.run.models


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"make": "rescore", "method": "sft"}, "the other kinds an arm with 'of'"),
        ({"method": "sft", "of": "dpo"}, "name a 'method'"),
        ({"make": "route", "method": "dr_irl"}, "'mode' is set if, and only if"),
        ({"make": "rerank", "of": "base"}, "'n' is set if, and only if"),
        ({"make": "rescore", "of": "base", "data": "noise_25"}, "works on the rewards and data"),
    ],
)
def test_an_arm_says_what_its_kind_needs(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Arm.model_validate(values)


def test_stages_of_other_kinds(plan: Plan) -> None:
    stages = build(plan)["stages"]
    attacked = stages["rescored-table4"]
    assert {
        "${run.out}/arms/stair/align",
        "${run.out}/align",
        "${run.out}/base",
    } <= set(attacked["deps"])
    assert "${run.out}/arms/attacked_stair/evaluate" in attacked["outs"]
    assert "run.models" in attacked["params"]
    whitebox = stages["attacked-table4b"]
    assert {"attack", "run.seeds"} <= {p for p in whitebox["params"] if isinstance(p, str)}
    assert {"drirl/attack", "${run.out}/align/${run.models[0]}/dr_irl"} <= set(whitebox["deps"])
    rerank = stages["rerank-dr_irl"]
    assert [o.split("/")[2] for o in rerank["outs"]] == ["best_1_dr_irl", "best_4_dr_irl", "best_16_dr_irl"]
    assert "${run.out}/arms/routes" in stages["routed-q07"]["deps"]
    assert "${run.out}/arms/grid" in stages["q14"]["deps"]
    assert all("align" not in dep for dep in stages["q08"]["deps"])


# ------------------------------------------------------------ routing


def test_a_cluster_is_in_one_fold_and_categories_take_turns() -> None:
    prompts = [_prompt(i, category=i % 2, split="train", cluster_id=i // 4) for i in range(40)]
    fold = folds_of(prompts, 5, seed=0)
    by_cluster: dict[int, set[int]] = {}
    for prompt, k in zip(prompts, fold, strict=True):
        by_cluster.setdefault(prompt.cluster_id, set()).add(k)
    assert all(len(found) == 1 for found in by_cluster.values())
    assert sorted(fold.count(k) for k in range(5)) == [8] * 5
    assert fold == folds_of(prompts, 5, seed=0) != folds_of(prompts, 5, seed=1)


def test_routes_are_looked_up_by_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "routes.jsonl", [{"prompt_id": "a", "text": "x", "probabilities": [0.2, 0.8]}])
    write_json(tmp_path / "report.json", {"classes": [-1, 3]})
    routes = Routes.load(tmp_path)
    assert routes.categories(["x", "x"]) == [3, 3]
    assert routes.probabilities(["x"]).tolist() == [[0.2, 0.8]]
    with pytest.raises(DrirlError, match="no route for the prompt 'y'"):
        routes.probabilities(["y"])
    write_jsonl(tmp_path / "routes.jsonl", [{"text": "x", "probabilities": [1.0]}])
    with pytest.raises(DrirlError, match=r"routes.jsonl:1: expected a text and 2 probabilities"):
        Routes.load(tmp_path)


class _Bank:
    """Two heads; a reply's rewards are its numbers."""

    heads = (-1, 3)
    input_mode = "answer"

    def columns(self, categories: list[int]) -> torch.Tensor:
        return torch.tensor([self.heads.index(c) for c in categories])

    def score_all(self, prompts: Any, answers: list[str], *_: Any) -> torch.Tensor:
        return torch.tensor([[float(v) for v in text.split()] for text in answers])

    def score(self, prompts: Any, answers: list[str], finished: Any, categories: list[int], *_: Any) -> Any:
        scores = self.score_all(prompts, answers)
        return scores[torch.arange(len(answers)), self.columns(categories)]


@pytest.mark.parametrize(("mode", "expected"), [("soft", 0.2 * 1 + 0.8 * 2), ("hard", 2.0), ("worst", 1.0)])
def test_a_routed_dataset_has_the_classifiers_category_and_reward(mode: str, expected: float) -> None:
    from datasets import Dataset

    from drirl.experiments.routed_trainer import routed_dataset
    from drirl.serve.routed import RoutedReward

    routes: Any = Routes([-1, 3], {"x": [0.2, 0.8]})
    rows = {
        "prompt": [[{"role": "user", "content": "x"}]] * 2,
        "category": [5, 5],
        "demonstration": ["1 2", "1 2"],
        "demo_reward": [9.0, 9.0],
        "prompt_id": ["a", "a"],
    }
    found = routed_dataset(Dataset.from_dict(rows), RoutedReward(_Bank(), routes, mode), routes)
    assert list(found["category"]) == [3, 3]
    assert list(found["demo_reward"]) == pytest.approx([expected] * 2)
    assert list(found["prompt_id"]) == ["a", "a"]


def test_routes_of_someone_who_knows_what_is_harmful() -> None:
    routes = Routes([-1, 2, 3], {"a": [0.6, 0.3, 0.1], "b": [0.1, 0.8, 0.1], "c": [1.0, 0.0, 0.0]})
    known = routes.knowing_harm({"a": 3, "b": -1, "c": 2})
    assert known.table["a"] == pytest.approx([0.0, 0.75, 0.25])  # the classifier's order among harms stays
    assert known.table["b"] == [1.0, 0.0, 0.0]
    assert known.table["c"] == [0.0, 0.5, 0.5]
    assert known.categories(["a", "b"]) == [2, -1]


# ------------------------------------------------------------ reranking


def test_reranked_prompts_are_spread_over_categories_and_levels() -> None:
    prompts = [
        _prompt(100 * j + 10 * k + i, category=j, level=level)
        for j in range(7)
        for k, level in enumerate(("direct", "paraphrased", "disguised"))
        for i in range(8)
    ] + [_prompt(i, kind="benign", category=-1, level="") for i in range(60)]
    chosen = choose_prompts(prompts, "test")
    harmful = [p for p in chosen if p.kind == "harmful"]
    assert len(harmful) == LIMITS["harmful"]
    cells_ = {(p.category, p.level) for p in harmful}
    assert len(cells_) == 21
    assert all(sum((p.category, p.level) == cell for p in harmful) == 6 for cell in cells_)
    assert sum(p.kind == "benign" for p in chosen) == LIMITS["benign"]
    with pytest.raises(DrirlError, match="no prompt in the split 'val'"):
        choose_prompts(prompts, "val")


def test_records_are_of_the_reply_with_the_largest_reward(plan: Plan) -> None:
    replies = [
        Completion("wants: x\n#### Sure, here is how.", True, 5),
        Completion("I cannot help with that request.", True, 5),
    ]
    prompts = [_prompt(1), _prompt(2, kind="task", category=-1, checker="number", reference="4")]
    answers = [Completion("5", True, 1), Completion("It is 4.", False, 1)]
    ranked = [Ranked(replies, [0.1, 0.9], 1), Ranked(answers, [0.5, 0.7], 1)]
    items, runs = records("m", "base", 0, 2, prompts, ranked, plan.params)
    value = {(i.benchmark, i.metric): i.value for i in items}
    assert value["drirl_tiny_harmful", "refusal_rate"] == 1.0
    assert value["drirl_tiny_help", "accuracy"] == 1.0
    assert value["drirl_tiny_help", "degenerate_rate"] == 1.0  # cut off
    assert {i.decode["best_of"] for i in items} == {2}
    assert {(r.metric, r.higher_is_better) for r in runs} == {
        ("refusal_rate", True),
        ("accuracy", True),
        ("degenerate_rate", False),
    }


# ------------------------------------------------------------ real pairs


def _dialogue(*turns: str) -> str:
    names = ("Human", "Assistant")
    return "".join(f"\n\n{names[i % 2]}: {turn}" for i, turn in enumerate(turns))


def test_only_one_turn_dialogues_with_one_message_are_pairs(tmp_path: Path) -> None:
    lines = [
        {"chosen": _dialogue("q", "no"), "rejected": _dialogue("q", "yes")},
        {"chosen": _dialogue("q", "a", "q2", "no"), "rejected": _dialogue("q", "a", "q2", "yes")},
        {"chosen": _dialogue("q", "same"), "rejected": _dialogue("q", "same")},
        {"chosen": _dialogue("q", "no"), "rejected": _dialogue("other", "yes")},
    ]
    path = tmp_path / "hh.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    (pair,) = hh_pairs(path)
    assert (pair.prompt, pair.safe, pair.unsafe, pair.category) == ("q", "no", "yes", None)
    path.write_text('{"chosen": "x"}')
    with pytest.raises(DrirlError, match=r"hh.jsonl:1: expected an object"):
        hh_pairs(path)
    with pytest.raises(DrirlError, match="no such file"):
        do_not_answer_pairs(tmp_path)


def test_without_real_data_the_page_says_missing(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIRL_DATA", raising=False)
    run_cross(plan)
    section = real_pairs(gather(plan, "q11"), tmp_path)
    assert section.answers["all"] == "missing: set DRIRL_DATA or data.root."


def test_accuracy_of_real_pairs_by_source_and_category(plan: Plan, tmp_path: Path) -> None:
    rows = [
        {
            "source": "do_not_answer",
            "pair_id": f"p{i}",
            "category": i % 2,
            "safe": float(i % 4),
            "unsafe": 0.5,
            "safe_mean": 1.0,
            "unsafe_mean": 0.0,
            "words": [3 + i, 5],
        }
        for i in range(40)
    ]
    write_jsonl(plan.out / "cross" / "pairs.jsonl", rows)
    write_json(
        plan.out / "cross" / "report.json",
        {
            "model": "tiny-llama",
            "missing": "",
            "context": 128,
            "counts": {"do_not_answer": {"pairs": 50, "short_enough": 40}},
        },
    )
    section = real_pairs(gather(plan, "q11"), tmp_path)
    right = float(np.mean([row["safe"] > row["unsafe"] for row in rows]))
    assert right == 0.75
    assert "**yes**, 75.0 % of 40 pairs" in section.answers["do_not_answer"]
    assert "10 of 50 pairs are too long" in section.answers["do_not_answer"]
    assert "missing, none of 0 pairs" in section.answers["hh_rlhf"]
    assert "100.0 (" in section.text
    assert "![Pairs ordered right](q11.png)" in section.text
    assert (tmp_path / "q11.png").stat().st_size > 5_000
    _, table = write_page(plan, "q11", tmp_path)[:2]
    lines = list(csv.DictReader(table.open(encoding="utf-8")))
    (own,) = [
        line
        for line in lines
        if line["part"].startswith("Do-Not-Answer") and line["name"] == "all" and "own" in line["measure"]
    ]
    assert (own["value"], own["n"]) == ("0.75", "40")
    assert float(own["ci_low"]) < 0.75 < float(own["ci_high"])
    (lost,) = {line["value"] for line in lines if line["part"].startswith("HH-RLHF")}
    assert lost == ""


# ------------------------------------------------------------------------------ asking for rewards


def test_replies_that_are_scored_take_turns_over_categories(plan: Plan) -> None:
    prompts = [_prompt(i, category=i % 3, cluster_id=i) for i in range(9)]
    prompts += [_prompt(50, kind="benign", category=-1), _prompt(60, split="train")]
    data = plan.params.run.out / "data"
    write_jsonl(data / "prompts.jsonl", prompts)
    demos = [
        Demo(f"d{p.prompt_id}", p.prompt_id, p.category, [], "No.", "No.", "", "g", "t") for p in prompts
    ]
    write_jsonl(data / "demos.jsonl", demos[:-1])
    found = scoring._replies(data, "test")
    assert [category for _, _, category in found] == [0, 1, 2] * 3
    with pytest.raises(DrirlError, match="no harmful prompt with a demonstration in the split 'train'"):
        scoring._replies(data, "train")


def test_rewards_are_the_headlines_or_a_variants(plan: Plan) -> None:
    headline = plan.params.run.out / "reward" / "tiny-llama" / "irl"
    assert scoring.bank_folder(plan, "heads", "tiny-llama") is None
    for folder in (headline, plan.reward_out("single") / "reward" / "tiny-llama" / "irl"):
        folder.mkdir(parents=True)
    assert scoring.bank_folder(plan, "heads", "tiny-llama") == headline
    assert (
        scoring.bank_folder(plan, "single", "tiny-llama") == plan.out / "reward-single/reward/tiny-llama/irl"
    )
    assert scoring.bank_folder(plan, "adapters", "tiny-llama") is None


# ------------------------------------------------------------ who chooses among what


def test_a_smaller_n_chooses_among_the_first_replies(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Fake:
        def __init__(self, *_: Any, n: int, **__: Any) -> None:
            self.n = n

        def check(self, *_: Any) -> None: ...

        def draw(self, _: str) -> list[Completion]:
            texts = ["I can't help with that." if k == 3 else "Sure." for k in range(self.n)]
            return [Completion(text, True, 1) for text in texts]

        def rank(self, texts: Any, categories: Any, drawn: Any) -> list[Ranked]:
            return [Ranked(own, [float(k) for k in range(len(own))], len(own) - 1) for own in drawn]

    for name in ("models.load_policy", "models.seed_everything", "reward.bank.RewardBank.load"):
        monkeypatch.setattr(f"drirl.{name}", lambda *_, **__: (None, None))
    monkeypatch.setattr("drirl.serve.rerank.Reranker", Fake)
    monkeypatch.setattr(best_of, "_latency", lambda *_: 0.0)
    arms = {"one": (1, tmp_path), "four": (4, tmp_path)}
    found = best_of._rerank(best_of._Job("m", "base", 0, "p", None, (_prompt(1),), arms, plan.params))
    rates = {arm: {r.metric: r.value for r in runs}["refusal_rate"] for arm, (_, runs) in found.items()}
    assert rates == {"one": 0.0, "four": 1.0}


def test_every_prompt_is_routed_by_one_that_never_saw_its_cluster(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def number(text: str) -> int:
        return int(text.split()[1])

    class Fake:
        classes = (1, 0)  # not in the order of the report

        def __init__(self, texts: list[str]) -> None:
            self.seen = {number(text) // 4 for text in texts}

        def probabilities(self, texts: list[str]) -> np.ndarray:
            assert not self.seen & {number(text) // 4 for text in texts}
            return np.array([[0.9, 0.1] if number(text) % 2 else [0.1, 0.9] for text in texts])

    monkeypatch.setattr("drirl.hardness.encoder.load_encoder", lambda *_: SimpleNamespace(encode=None))
    monkeypatch.setattr("drirl.serve.router.Router.fit", lambda texts, *_, **__: Fake(texts))
    prompts = [_prompt(i, category=i % 2, split="train", cluster_id=i // 4) for i in range(40)]
    write_jsonl(plan.params.run.out / "data" / "prompts.jsonl", [*prompts, _prompt(99)])
    make_routes(plan)
    report = read_json(plan.out / "routes" / "report.json")
    assert (report["classes"], report["n"], report["accuracy"]) == ([0, 1], 40, 1.0)
    assert report["confusion"] == [[20, 0], [0, 20]]


@pytest.mark.parametrize(("known", "expected", "category"), [(False, 0.6 * 1 + 0.4 * 2, -1), (True, 2.0, 3)])
def test_a_routed_trainer_uses_its_mode_and_what_is_known(
    known: bool, expected: float, category: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    from drirl.align.rewards import BankReward
    from drirl.experiments import routed_trainer

    given: dict[str, Any] = {}
    monkeypatch.setattr(routed_trainer.DRIRLTrainer, "__init__", lambda _, **values: given.update(values))
    rows = {"prompt": [[{"role": "user", "content": "x"}]], "category": [3], "demonstration": ["1 2"]}
    bank: Any = _Bank()
    routed_trainer.RoutedTrainer(
        reward_funcs=BankReward(bank, [1]),
        train_dataset=Dataset.from_dict({**rows, "demo_reward": [9.0]}),
        routes=Routes([-1, 3], {"x": [0.6, 0.4]}),
        mode="soft",
        harm_known=known,
    )
    assert list(given["train_dataset"]["demo_reward"]) == pytest.approx([expected])
    assert list(given["train_dataset"]["category"]) == [category]


def test_labelled_replies_become_pairs_and_scores(tmp_path: Path) -> None:
    def write(name: str, *rows: tuple[str, ...]) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)

    write(DNA, ("id", "types_of_harm", "specific_harms"), ("0", "Toxic language (hate speech)", "Insult: x"))
    # harmful, action: 0 and 0 decline, 0 and 5 follow harmlessly, 1 and 5 follow and are harmful
    replies = [("No, never.", "0", "0"), ("No.", "0", "0"), ("Sure, so.", "1", "5"), ("Fine.", "0", "5")]
    for k, model in enumerate(MODELS):
        reply = replies[k] if k < len(replies) else ("Hm.", "0", "3")
        write(
            RESPONSES.format(model), ("id", "question", "response", "harmful", "action"), ("0", "Q?", *reply)
        )
    (pair,) = do_not_answer_pairs(tmp_path)
    assert (pair.category, pair.safe, pair.unsafe) == (0, "No.", "Sure, so.")

    class Bank(_Bank):
        heads = (-1, 0, 3)  # type: ignore[assignment]

    bank: Any = Bank()
    pairs = [RealPair(s, s, c, "q", "9 2 4", "8 1 7") for s, c in (("hh_rlhf", None), ("dna", 3))]
    found = [(r["safe"], r["unsafe"], r["safe_mean"], r["unsafe_mean"]) for r in _score(bank, pairs)]
    assert found == [(3.0, 4.0, 3.0, 4.0), (4.0, 7.0, 3.0, 4.0)]  # the benign head counts nowhere


def test_the_routed_method_hands_on_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drirl.experiments.methods import dr_irl

    given: dict[str, Any] = {}
    monkeypatch.setattr("drirl.align.setup.train_rl", lambda _, **values: given.update(values))
    monkeypatch.setattr("drirl.hardness.state.load_hardness", lambda *_: "hardness")
    monkeypatch.setattr(Routes, "load", lambda path: path)
    inputs: Any = SimpleNamespace(
        reward_path=tmp_path / "irl", encoder=None, cache=tmp_path / "arms" / "cache", seed=0
    )
    for known in (False, True):
        dr_irl.train(inputs, dr_irl.Config(routing="worst", harm_known=known, lr=2e-4))
        told = given["lr"], given["mode"], given["harm_known"], given["hardness"], given["reward_path"]
        assert told == (2e-4, "worst", known, "hardness", tmp_path / "irl")
        assert given["routes"] == tmp_path / "arms" / "routes"
