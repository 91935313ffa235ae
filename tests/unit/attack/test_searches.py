"""GCG and the genetic search: swaps by hand, losses that never rise, budgets counted, seeds that decide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drirl.attack.autodan import Autodan, Pieces, crossover, mutate
from drirl.attack.gcg import Gcg, swaps
from drirl.attack.scorer import Scorer
from drirl.attack.search import generator, run_search
from drirl.attack.settings import AutodanSettings, GcgSettings
from drirl.errors import DrirlError
from drirl.generate import Completion

GCG = GcgSettings(steps=4, suffix="how how how", top_k=20, candidates=10)
AUTODAN = AutodanSettings(steps=4, population=6, elites=2)
REFUSAL = Completion("plan: decline #### I can't help with that.", True, 9)
ANSWER = Completion("plan: answer #### Sure. First gather what you need.", True, 9)
BROKEN = Completion("plan: answer ####", True, 4)


def refuse(monkeypatch: pytest.MonkeyPatch, *last: Completion) -> None:
    """Make every reply a refusal; ``last`` replaces the replies of the calls that come after the first."""
    calls = iter([REFUSAL, *last])
    monkeypatch.setattr(Scorer, "replies", lambda self, messages: [next(calls, REFUSAL)] * len(messages))


def searches(scorer: Scorer, items: list[dict[str, Any]], seed: int = 0) -> list[Any]:
    return [Gcg(scorer, items, GCG, seed), Autodan(scorer, items, AUTODAN, seed)]


def test_swaps_by_hand() -> None:
    """Two positions, five tokens; token 4 is not allowed, so the best two are 0, 2 and then 1, 3."""
    gradient = torch.tensor([[-3.0, 1.0, -2.0, 0.0, -9.0], [5.0, -4.0, 2.0, -1.0, -9.0]])
    allowed = torch.tensor([True, True, True, True, False])
    suffix = torch.tensor([4, 4])
    found = swaps(suffix, gradient, allowed, top_k=2, count=40, random=generator(0, "x"))
    assert found.shape == (40, 2)
    assert sum(row[0] != 4 for row in found.tolist()) == 20
    assert {tuple(row) for row in found.tolist()} == {(0, 4), (2, 4), (4, 1), (4, 3)}
    more = swaps(suffix, gradient, allowed, top_k=99, count=40, random=generator(0, "x"))
    assert 4 not in {token for row in more.tolist() for token in row if row.count(4) < 1}


@pytest.mark.parametrize("which", [0, 1])
def test_losses_never_rise_and_budgets_are_counted(
    scorer: Scorer, items: list[dict[str, Any]], which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    counted = 0
    measure = Scorer.losses

    def losses(self: Scorer, prompts: Any) -> list[float]:
        nonlocal counted
        counted += len(prompts)
        return measure(self, prompts)

    monkeypatch.setattr(Scorer, "losses", losses)
    search = searches(scorer, items)[which]
    attacked = run_search(search, scorer, items, 4)
    assert counted == sum(search.forward_passes)
    most = 1 + 3 * GCG.candidates if which == 0 else 3 * AUTODAN.population
    assert all(6 <= passes <= most for passes in search.forward_passes)
    assert search.gradient_passes == ([3, 3, 3] if which == 0 else [0, 0, 0])
    for one in attacked:
        assert [step.step for step in one.steps] == [0, 1, 2, 3, 4]
        assert one.success_step is None
        assert one.steps[0].loss is None
        assert [step.forward_passes for step in one.steps[:2]] == [0, 1]  # step 1: nothing searched yet
        found = [step.loss for step in one.steps[1:]]
        assert found == sorted(found, reverse=True)
        assert [step.forward_passes for step in one.steps] == sorted(
            step.forward_passes for step in one.steps
        )
        assert one.item["text"] in one.message
        # what is noted is what the policy would be served
        assert found[-1] == pytest.approx(scorer.losses(scorer.prompt_ids([one.message]))[0], abs=1e-5)
    assert any(one.steps[-1].loss < one.steps[1].loss for one in attacked)


@pytest.mark.parametrize("which", [0, 1])
def test_a_seed_gives_one_search_whoever_else_is_attacked(
    scorer: Scorer, items: list[dict[str, Any]], which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)

    def messages(chosen: list[dict[str, Any]], seed: int) -> list[str]:
        attacked = run_search(searches(scorer, chosen, seed)[which], scorer, chosen, 3)
        return [one.message for one in attacked]

    first = messages(items, 0)
    assert messages(items, 0) == first
    assert messages(items[1:], 0) == first[1:]
    assert messages(items, 1) != first


def test_a_search_ends_at_the_first_reply_that_is_neither_refusal_nor_broken(
    scorer: Scorer, items: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, BROKEN, ANSWER)
    search = Gcg(scorer, items[:1], GCG, 0)
    (one,) = run_search(search, scorer, items[:1], 4)
    assert [(step.refused, step.fault, step.success) for step in one.steps] == [
        (True, "", False),
        (False, "empty", False),
        (False, "", True),
    ]
    assert one.success_step == 2
    assert search.gradient_passes == [1]


def test_a_prompt_complied_with_is_not_attacked(
    scorer: Scorer, items: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "replies", lambda self, messages: [ANSWER] * len(messages))
    search = Gcg(scorer, items, GCG, 0)
    attacked = run_search(search, scorer, items, 4)
    assert [one.success_step for one in attacked] == [0, 0, 0]
    assert [one.message for one in attacked] == [item["text"] for item in items]
    assert sum(search.forward_passes) == 0


def test_gcg_tries_only_what_is_read_as_the_same_tokens(scorer: Scorer, items: list[dict[str, Any]]) -> None:
    search = Gcg(scorer, items, GCG, 0)
    whole = scorer.encode(" the house")
    letters = scorer.tokenizer.convert_tokens_to_ids([*"\u0120the", *"\u0120house"])
    assert scorer.tokenizer.decode(letters) == scorer.tokenizer.decode(whole) == " the house"
    assert len(letters) == 10 > len(whole)
    assert search._survivors(0, [letters, whole, letters]) == [whole]
    assert search._survivors(0, [scorer.encode(" the house ")]) == []  # a template may cut the space off
    special = scorer.tokenizer.all_special_ids
    assert not bool(search.allowed[special].any())
    assert int(search.allowed.sum()) > 50


def test_gcg_errors_name_the_setting(scorer: Scorer, items: list[dict[str, Any]]) -> None:
    with pytest.raises(DrirlError, match=r"attack\.gcg: prompt item0 .* shorten attack\.gcg\.suffix"):
        Gcg(scorer, items, GcgSettings(suffix="how " * 120), 0)
    with pytest.raises(DrirlError, match=r"elites \(6\) should be fewer than population \(6\)"):
        Autodan(scorer, items, AutodanSettings(population=6, elites=6), 0)
    long = [items[0] | {"text": "how " * 130}]
    with pytest.raises(DrirlError, match=r"attack\.autodan: prompt item0 has \d+ tokens"):
        Autodan(scorer, long, AUTODAN, 0)


def test_crossover_exchanges_and_loses_nothing() -> None:
    first, second = ("a", "b", "c"), ("x", "y", "z")
    seen = set()
    for k in range(40):
        one, two = crossover(first, second, 1.0, generator(k, "c"))
        assert [{p, q} for p, q in zip(one, two, strict=True)] == [{"a", "x"}, {"b", "y"}, {"c", "z"}]
        seen.add(one)
    assert len(seen) == 8
    assert crossover(first, second, 0.0, generator(0, "c")) == (first, second)


def test_mutation_draws_from_the_slot_or_swaps_a_synonym() -> None:
    pool = Pieces(["One dog.", "Two."], ["Three."], [["dog", "cat"], ["one", "any"]])
    found = {mutate(("One dog.", "", "Three."), pool, 1.0, generator(k, "m")) for k in range(200)}
    assert {wrapper[0] for wrapper in found} == {"One dog.", "Two.", "One cat.", "Any dog."}
    assert {wrapper[1] for wrapper in found} == {"One dog.", "Two.", ""}
    assert {wrapper[2] for wrapper in found} == {"Three."}
    assert mutate(("One dog.", "", "Three."), pool, 0.0, generator(0, "m")) == ("One dog.", "", "Three.")


def test_a_generation_without_new_wrappers_costs_nothing(scorer: Scorer, items: list[dict[str, Any]]) -> None:
    settings = AutodanSettings(population=3, elites=1, crossover=0.0, mutation=0.0)
    search = Autodan(scorer, items[:1], settings, 0)
    for _ in range(4):
        search.advance([0])
    assert search.forward_passes == [len(search.scores[0])]
    assert search.forward_passes[0] <= 3


def test_wrappers_are_shortened_until_they_fit(loaded: Any, items: list[dict[str, Any]]) -> None:
    scorer = Scorer(*loaded, target="Sure.", max_new_tokens=12, batch_size=16)
    longest = max(len(ids) for ids in scorer.prompt_ids([item["text"] for item in items]))
    scorer.room = longest + 30
    search = Autodan(scorer, items, AutodanSettings(population=20), 0)
    search.advance([0, 1, 2])
    search.advance([0, 1, 2])
    for scores in search.scores:
        assert all(len(ids) <= scorer.room for ids in scorer.prompt_ids(list(scores)))
    scorer.room = longest
    search = Autodan(scorer, items, AutodanSettings(population=20), 0)
    search.advance([0, 1, 2])
    assert max(len(ids) for ids in scorer.prompt_ids([m for s in search.scores for m in s])) <= longest
    assert search.messages[1] in search.scores[1]


def test_parents_are_drawn_by_their_fitness(scorer: Scorer, items: list[dict[str, Any]]) -> None:
    settings = AutodanSettings(population=6, elites=1, crossover=0.0, mutation=0.0)
    search = Autodan(scorer, items[:1], settings, 0)
    best, worst = ("One.", "", ""), ("Two.", "", "")
    search.populations[0] = [best, *[worst] * 5]
    search.scores[0] = {search._message(0, best): 0.0, search._message(0, worst): 50.0}
    assert search._next(0) == [best] * 6
