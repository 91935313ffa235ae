"""Known scores: the same bytes, nothing scored twice, and a miss whenever anything behind a score changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from drirl.evaluate import cache as cache_module
from drirl.evaluate import harness
from drirl.evaluate.cache import (
    Batches,
    Entry,
    ScoreCache,
    rewards_digest,
    sources,
    sources_digest,
    tokenizer_digest,
)
from drirl.evaluate.harness import Scored, Subject, score_policy
from drirl.evaluate.policy_lm import PolicyLM
from drirl.evaluate.settings import EvaluateSettings
from drirl.models import load_policy, load_tokenizer, policy_hash
from drirl.records import EvalItem, write_jsonl
from drirl.reward.bank import RewardBank

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
TASKS = ["drirl_tiny_benign", "drirl_tiny_help"]
ITEM = EvalItem("", "", "", 0, "b", "i", "p", "r\u2028\u00e9", "m", 0.5, "j", raw={"x": [1.25]})


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BENCHMARKS, tmp_path / "benchmarks"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that were really generated for."""
    names: list[str] = []
    original = PolicyLM.generate_until

    def generate(self: PolicyLM, requests: Any, disable_tqdm: bool = False) -> list[str]:
        names.append(requests[0].task_name)
        return original(self, requests, disable_tqdm)

    monkeypatch.setattr(PolicyLM, "generate_until", generate)
    return names


@pytest.fixture
def score(restless_policy: Path, benchmarks: Path, out: Path, tmp_path: Path) -> Callable[..., Scored]:
    def run(
        policy: Path = restless_policy,
        *,
        subject: Subject | None = None,
        folder: Path = out,
        rewards: Any = None,
        keep: bool = True,
        edit: Callable[[Any, Any], None] = lambda model, tokenizer: None,
        **settings: Any,
    ) -> Scored:
        model, tokenizer = load_policy(policy)
        edit(model, tokenizer)
        return score_policy(
            model,
            tokenizer,
            subject or Subject("toy", "sft", 3, policy_hash(policy)),
            EvaluateSettings(**({"tasks": TASKS, "max_new_tokens": 6} | settings)),
            benchmarks=benchmarks,
            out=folder,
            rewards=rewards,
            cache=tmp_path / "scores" if keep else None,
        )

    return run


def written(scored: Scored, path: Path) -> bytes:
    write_jsonl(path, [*scored.items, *scored.runs])
    return path.read_bytes()


def test_the_same_bytes_without_and_with_and_from_the_cache(
    score: Any, asked: list[str], tmp_path: Path, restless_policy: Path
) -> None:
    plain, first = score(keep=False), score()
    assert asked == TASKS * 2
    second = score()
    assert asked == TASKS * 2  # nothing was generated
    assert (first.known, second.known) == ([], TASKS)
    expected = written(plain, tmp_path / "plain.jsonl")
    assert written(first, tmp_path / "first.jsonl") == expected
    assert written(second, tmp_path / "second.jsonl") == expected
    assert second.generated_tokens == first.generated_tokens == plain.generated_tokens > 0
    assert second.known_cost["wall_s"] > 0
    other = score(subject=Subject("else", "external", 0, policy_hash(restless_policy)))
    assert other.known == TASKS
    assert {(item.model, item.run_id) for item in other.items} == {("else", "else/external/seed0")}


def test_an_interrupted_run_loses_one_task(
    score: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(keep=False)
    generate = PolicyLM.generate_until

    def stop(self: PolicyLM, requests: Any, disable_tqdm: bool = False) -> list[str]:
        if requests[0].task_name == TASKS[1]:
            raise KeyboardInterrupt
        return generate(self, requests, disable_tqdm)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyLM, "generate_until", stop)
        with pytest.raises(KeyboardInterrupt):
            score()
    asked.clear()
    resumed = score()
    assert asked == TASKS[1:]
    assert resumed.known == TASKS[:1]
    assert resumed.items == whole.items


def test_an_interrupted_task_goes_on_with_the_next_batch(
    score: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = written(score(keep=False, batch_size=1), tmp_path / "whole.jsonl")
    generate, done = PolicyLM._generate, 0

    def stop(self: PolicyLM, context: Any, *args: Any, **options: Any) -> Any:
        nonlocal done
        if done == 3:  # the second batch of the second task
            raise KeyboardInterrupt
        done += 1
        return generate(self, context, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyLM, "_generate", stop)
        with pytest.raises(KeyboardInterrupt):
            score(batch_size=1)
    (kept,) = (tmp_path / "scores" / "batches").glob("*/*.json")
    done = -10
    monkeypatch.setattr(PolicyLM, "_generate", stop)
    resumed = score(batch_size=1)
    assert done == -9  # of two prompts the other one
    assert written(resumed, tmp_path / "resumed.jsonl") == expected
    assert not kept.exists()


@pytest.mark.parametrize("other_seed", [True, False], ids=["seeds", "arms"])
def test_equal_policies_scored_side_by_side_keep_their_own_batches(
    other_seed: bool,
    score: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    out: Path,
    restless_policy: Path,
) -> None:
    arm = Path(shutil.copytree(out, tmp_path / "arm"))

    def seed(number: int) -> Scored:
        subject = Subject("toy", "throwaway", number if other_seed else 0, policy_hash(restless_policy))
        return score(subject=subject, batch_size=1, folder=out if other_seed or number == 1 else arm)

    def kept() -> set[Path]:
        return set((tmp_path / "scores" / "batches").glob("*/*.json"))

    generate, calls = PolicyLM._generate, 0

    def beside(self: PolicyLM, context: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # one batch of seed 1 is there; seed 2, with the same keys, runs to its end
            before = kept()
            assert len(before) == 1
            other.append(seed(2))
            assert kept() == before
        return generate(self, context, *args, **options)

    other: list[Scored] = []
    monkeypatch.setattr(PolicyLM, "_generate", beside)
    one = seed(1)
    assert [item.raw for item in one.items] == [item.raw for item in other[0].items]
    assert one.generated_tokens == other[0].generated_tokens
    assert kept() == set()


def test_a_damaged_batch_is_generated_again(tmp_path: Path) -> None:
    batches = Batches(tmp_path / "b")
    batches.put("k", [[1, 2], [3, 4]])
    assert batches.get("k") == [[1, 2], [3, 4]]
    path = tmp_path / "b" / "k.json"
    path.write_text(path.read_text().replace("3", "5"))
    assert batches.get("k") is None
    path.write_text("{")
    assert batches.get("k") is batches.get("other") is None


def test_a_changed_byte_of_what_is_scored_is_a_miss(
    score: Any, benchmarks: Path, out: Path, restless_policy: Path, tmp_path: Path
) -> None:
    score()
    assert score().known == TASKS
    changed = tmp_path / "changed"
    shutil.copytree(restless_policy, changed)
    weights = changed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(bytes(data))
    assert score(changed).known == []

    def template(_: Any, tokenizer: Any) -> None:
        tokenizer.chat_template += " "

    assert score(edit=template).known == []
    yaml = benchmarks / "drirl_tiny" / "benign.yaml"  # all files of a task's folder count
    yaml.write_text(yaml.read_text() + "# one more line\n")
    assert score().known == []
    assert score().known == TASKS
    prompts = out / "data" / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("loaf of bread", "loaf of Bread"))
    assert score().known == TASKS[1:]


def test_changed_settings_and_rewards_are_a_miss(score: Any, restless_policy: Path) -> None:
    bank = RewardBank.from_policy(restless_policy, [*range(7), -1])
    score()
    for values in ({"batch_size": 3}, {"max_new_tokens": 5}, {"limit": 1}, {"overlong": "truncate"}):
        assert score(**values).known == []
    assert score(max_new_tokens_by_task={TASKS[1]: 4}).known == TASKS[:1]
    assert score(rewards=bank).known == []
    assert score(rewards=bank).known == TASKS
    before = rewards_digest(bank)
    bank.scale[0] += 1e-6
    assert rewards_digest(bank) != before
    assert score(rewards=bank).known == []


def test_a_changed_judge_is_a_miss(score: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The judge is code of the package, which is not edited here: a copy of the package is."""
    package = tmp_path / "drirl"
    root = cache_module.PACKAGE
    shutil.copytree(root, package, ignore=shutil.ignore_patterns("__pycache__", "corpus"))

    def copied(roots: Any, _: Path = root) -> str:
        inside = [package / p.relative_to(root) if p.is_relative_to(root) else p for p in map(Path, roots)]
        return sources_digest(inside, package)

    monkeypatch.setattr(harness, "sources_digest", copied)
    score()
    assert score().known == TASKS
    unrelated = package / "compare" / "tables.py"
    unrelated.write_text(unrelated.read_text() + "# unrelated\n")
    assert score().known == TASKS
    judge = package / "detect.py"
    judge.write_text(judge.read_text().replace("SHORT_WORDS = 60", "SHORT_WORDS = 61"))
    assert score().known == []


def test_the_sources_of_a_score_are_followed_through_imports() -> None:
    root = cache_module.PACKAGE
    found = {path.relative_to(root).as_posix() for path in sources([root / "evaluate" / "harness.py"])}
    assert {"detect.py", "text.py", "records.py", "errors.py", "evaluate/items.py"} <= found
    assert not any(name.startswith(("align", "compare", "base")) for name in found)
    tasks = {p.name for p in sources([BENCHMARKS / "drirl_tiny" / "utils.py"])}
    assert {"utils.py", "tasks.py", "check.py", "detect.py"} <= tasks


def test_a_damaged_entry_is_none_and_is_written_anew(tmp_path: Path) -> None:
    store = ScoreCache(tmp_path / "scores")
    entry = Entry([ITEM], 7, {"wall_s": 1.5})
    assert store.get("ab12") is None
    store.put("ab12", entry)
    assert store.get("ab12") == entry
    assert asdict(store.get("ab12").items[0]) == asdict(ITEM)  # type: ignore[union-attr]
    (path,) = (tmp_path / "scores").rglob("*.jsonl")
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"0.5", b"0.6"), b"\xff" + whole, b"", b"[]\n", b"{}\n"):
        path.write_bytes(damaged)
        assert store.get("ab12") is None
    shutil.copy(path, path.with_name("ab13.jsonl"))
    path.write_bytes(whole)
    path.with_name("ab13.jsonl").write_bytes(whole)
    assert store.get("ab13") is None  # another key's entry
    assert store.get("ab12") == entry


def test_a_tokenizer_is_known_by_content(restless_policy: Path) -> None:
    first, second = load_tokenizer(restless_policy), load_tokenizer(restless_policy)
    second(
        ["a", "a longer text"], padding=True, truncation=True, max_length=3
    )  # leaves traces in the backend
    second.padding_side = "left"
    assert tokenizer_digest(first) == tokenizer_digest(second)
    second.add_tokens(["<new>"])
    assert tokenizer_digest(first) != tokenizer_digest(second)


def test_a_policy_of_unknown_content_is_always_scored(score: Any, asked: list[str]) -> None:
    nameless = Subject("toy", "sft", 3, "")
    score(subject=nameless)
    assert score(subject=nameless).known == []
    assert asked == TASKS * 2
