"""Tasks that compare log-likelihoods: the numbers of HFLM, and the records made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from drirl.errors import DrirlError
from drirl.evaluate.harness import Subject, score_policy
from drirl.evaluate.policy_lm import PolicyLM
from drirl.evaluate.settings import EvaluateSettings
from drirl.generate import render
from drirl.models import load_policy

UTILS = '''
from drirl.evaluate.tasks import as_dataset, row

CHOICES = [["the blue door", "a loaf of bread"], ["7", "12", "night and risk"], ["slowly", "home"]]


def load(**_):
    rows = []
    for i, choices in enumerate(CHOICES):
        item = row(f"item{i}", f"Which one goes with number {i}?", kind="task", cluster=f"c{i}", label="toy")
        rows.append(item | {"choices": choices, "gold": i % 2})
    return as_dataset(rows)


def first_is_true(doc, results):
    """Share of the probability that the first option has, as TruthfulQA's mc2 for one true answer."""
    from math import exp

    weights = [exp(value) for value, _ in results]
    return {"mc2": weights[0] / sum(weights)}
'''
TASK = """\
task: {name}
custom_dataset: !function utils.load
test_split: test
output_type: {kind}
doc_to_text: text
doc_to_target: {target}
num_fewshot: 0
{more}
metadata: {{version: 2.0, judge: log-likelihood/1}}
"""
CHOICE = """doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}"""
MC2 = """doc_to_choice: choices
process_results: !function utils.first_is_true
metric_list:
  - {metric: mc2, aggregation: mean, higher_is_better: true}"""
F1 = "doc_to_choice: choices\nmetric_list:\n  - {metric: f1, aggregation: f1, higher_is_better: true}"
WORDS = (
    "metric_list:\n  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}"
)
ROLL = "loglikelihood_rolling"


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks" / "toy"
    folder.mkdir(parents=True)
    (folder / "utils.py").write_text(UTILS)
    for name, kind, target, more in (
        ("toy_choice", "multiple_choice", "gold", CHOICE),
        ("toy_mc2", "multiple_choice", "gold", MC2),
        ("toy_f1", "multiple_choice", "gold", F1),
        ("toy_words", ROLL, "text", WORDS),
    ):
        text = TASK.format(name=name, kind=kind, target=target, more=more)
        (folder / f"{name}.yaml").write_text(text)
    return folder.parent


def score(policy: Path, benchmarks: Path, *tasks: str, **settings: Any) -> Any:
    model, tokenizer = load_policy(policy)
    return score_policy(
        model,
        tokenizer,
        Subject("toy", "sft", 3),
        EvaluateSettings(tasks=list(tasks), max_new_tokens=4, **settings),
        benchmarks=benchmarks,
        out=benchmarks,
    )


def pairs(policy: Path) -> list[tuple[str, str]]:
    _, tokenizer = load_policy(policy)
    contexts = render(tokenizer, ["Which one?", "How do I bake a loaf?", "What is 3 plus 4?"])
    return [(c, o) for c in contexts for o in ("7", "the blue door", "slowly, then home", "7 and 12")]


def requests(found: list[tuple[str, str]]) -> list[Instance]:
    return [
        Instance("loglikelihood", {"item_id": f"item{i}"}, pair, 0, ("t", i, 1))
        for i, pair in enumerate(found)
    ]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_log_likelihoods_are_exactly_those_of_hflm(restless_policy: Path, batch_size: int) -> None:
    model, tokenizer = load_policy(restless_policy)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=False)
    expected = stock.loglikelihood(requests(pairs(restless_policy)), disable_tqdm=True)
    lm = PolicyLM(model, tokenizer, batch_size=batch_size)
    assert lm.loglikelihood(requests(pairs(restless_policy))) == expected
    assert len({value for value, _ in expected}) == len(expected)


def test_records_of_a_choice(restless_policy: Path, benchmarks: Path) -> None:
    scored = score(restless_policy, benchmarks, "toy_choice", "toy_mc2")
    by_hand = {}
    model, tokenizer = load_policy(restless_policy)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, add_bos_token=False)
    for i, options in enumerate([["the blue door", "a loaf of bread"], ["7", "12", "night and risk"]]):
        context = render(tokenizer, [f"Which one goes with number {i}?"])[0]
        found = lm.loglikelihood(requests([(context, option) for option in options]), disable_tqdm=True)
        by_hand[f"item{i}"] = (options, [value for value, _ in found])
    assert [(r.benchmark, r.metric, r.n, r.task_version) for r in scored.runs] == [
        ("toy_choice", "acc", 3, "2.0"),
        ("toy_choice", "acc_norm", 3, "2.0"),
        ("toy_mc2", "mc2", 3, "2.0"),
    ]
    for item in scored.items:
        assert item.judge == "log-likelihood/1"
        assert item.decode == {"scored": "loglikelihood"}
        assert item.raw["label"] == "toy"
        assert item.raw["gold"] == int(item.item_id[-1]) % 2
        if item.item_id not in by_hand:
            continue
        options, values = by_hand[item.item_id]
        assert item.raw["choices"] == options
        assert item.raw["loglikelihoods"] == pytest.approx(values, abs=1e-4)
        best = max(range(len(values)), key=values.__getitem__)
        assert (item.response, item.raw["chosen"]) == (options[best], best)
        if item.metric == "acc":
            assert item.value == float(best == item.raw["gold"])
        if item.metric == "mc2":
            from math import exp

            shares = [exp(value) for value in values]
            assert item.value == pytest.approx(shares[0] / sum(shares), rel=1e-3)
    assert scored.generated_tokens == 0


def test_an_option_over_the_context_is_named_or_flagged(restless_policy: Path, benchmarks: Path) -> None:
    utils = benchmarks / "toy" / "utils.py"
    utils.write_text(UTILS.replace('"night and risk"', '"door " * 28 + "night"'))  # context 128
    with pytest.raises(
        DrirlError, match=r"toy_choice: item 'item1': a prompt with its answer option has \d+"
    ):
        score(restless_policy, benchmarks, "toy_choice")
    scored = score(restless_policy, benchmarks, "toy_choice", overlong="truncate")
    assert {i.item_id for i in scored.items if i.raw.get("truncated_prompt")} == {"item1"}
    utils.write_text(UTILS.replace('"night and risk"', '"door " * 200'))
    with pytest.raises(DrirlError, match="item1': an answer option alone exceeds the model's context of 128"):
        score(restless_policy, benchmarks, "toy_choice", overlong="truncate")


def test_what_has_no_value_per_prompt_is_refused(restless_policy: Path, benchmarks: Path) -> None:
    with pytest.raises(DrirlError, match=r"toy_words: output_type 'loglikelihood_rolling' has no score per"):
        score(restless_policy, benchmarks, "toy_words")
    with pytest.raises(DrirlError, match=r"toy_f1: metric 'f1' is no number per item but tuple"):
        score(restless_policy, benchmarks, "toy_f1")
