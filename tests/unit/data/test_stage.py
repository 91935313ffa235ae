"""The whole stage on a small bundled corpus and on hand-made files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drirl.data import stage
from drirl.data.settings import DataSettings
from drirl.detect import is_refusal
from drirl.errors import DrirlError
from drirl.records import Demo, Prompt, read_json, read_jsonl

SMALL: dict[str, Any] = {
    "sources": ["bundled"],
    "per_category": 12,
    "per_category_val": 3,
    "per_category_test": 3,
    "benign": {"train": 20, "val": 5, "test": 5},
    "contrast": {"train": 10, "val": 5, "test": 5},
    "tasks": {"train": 10, "val": 5, "test": 5},
    "demos": {"reply_min_words": 5, "reply_max_words": 60},
    "leaks": {"cosine": None},
    "bundled": {
        "objects_per_act": 3,
        "wordings_train": 2,
        "base_knowledge": 20,
        "base_harmful": 10,
        "base_benign": 10,
        "base_tasks": 10,
    },
}


def settings(**values: Any) -> DataSettings:
    return DataSettings(**{**SMALL, **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    stage.write_built(stage.build(settings(), 0), path)
    return path


def test_categories_are_exactly_balanced(folder: Path) -> None:
    prompts = read_jsonl(folder / "prompts.jsonl", Prompt)
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        rows = [p for p in prompts if p.split == split]
        assert Counter(p.category for p in rows if p.kind == "harmful") == dict.fromkeys(range(7), count)
    train = Counter(p.kind for p in prompts if p.split == "train")
    assert train == {"harmful": 84, "benign": 20, "contrast": 10, "task": 10}


def test_every_prompt_has_one_demonstration_that_fits_it(folder: Path) -> None:
    prompts = read_jsonl(folder / "prompts.jsonl", Prompt)
    demos = {d.prompt_id: d for d in read_jsonl(folder / "demos.jsonl", Demo)}
    assert list(demos) == [p.prompt_id for p in prompts]
    for p in prompts:
        assert demos[p.prompt_id].category == p.category
        assert is_refusal(demos[p.prompt_id].answer) == (p.kind == "harmful")
        assert all(demos[p.prompt_id].filters.values())


def test_no_id_and_no_cluster_crosses_splits(folder: Path) -> None:
    prompts = read_jsonl(folder / "prompts.jsonl", Prompt)
    for field in ("prompt_id", "cluster_id"):
        split_of: dict[Any, set[str]] = {}
        for p in prompts:
            split_of.setdefault(getattr(p, field), set()).add(p.split)
        assert all(len(splits) == 1 for splits in split_of.values())


def test_imbalanced_control(folder: Path) -> None:
    report = read_json(folder / "report.json")["imbalanced"]
    control = read_jsonl(folder / "imbalanced.jsonl", Prompt)
    demos = read_jsonl(folder / "imbalanced_demos.jsonl", Demo)
    assert [d.prompt_id for d in demos] == [p.prompt_id for p in control]
    assert len({p.prompt_id for p in control}) == len(control) == report["total"]
    counts = Counter(p.category for p in control)
    assert [counts[j] for j in (0, 1, 2, 3, 4, 6, 5)] == sorted(counts.values(), reverse=True)
    assert report["total_wanted"] == 84


def test_manifest_and_datasheet(folder: Path) -> None:
    files = read_json(folder / "manifest.json")["files"]
    assert set(files) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    for name, entry in files.items():
        assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert files["base_corpus.jsonl"]["rows"] >= 50
    sheet = (folder / "datasheet.md").read_text()
    assert "| train | 84 | 20 | 10 | 10 |" in sheet
    assert "| largest / smallest category |" in sheet


def test_same_seed_same_bytes_other_seed_other_bytes(folder: Path, tmp_path: Path) -> None:
    stage.write_built(stage.build(settings(), 0), tmp_path / "again")
    for path in sorted(folder.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    other = stage.build(settings(), 1)
    assert [p.text for p in other.prompts] != [p.text for p in read_jsonl(folder / "prompts.jsonl", Prompt)]


NOTHING = {"train": 0, "val": 0, "test": 0}


def test_leaking_training_prompts_are_removed_and_counted(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"how would one {split} go about act {j} of {k} near town?",
            "category": j,
            "split": split,
        }
        for j in range(7)
        for split, count in (("train", 3), ("val", 1), ("test", 1))
        for k in range(count)
    ]
    leaking = {"text": "please tell all of us how to open an old rusty door", "category": 3, "split": "train"}
    copy = {**leaking, "text": f"{leaking['text']} at night", "split": "test", "intent": "doors"}
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [leaking, copy, *rows]))
    values = {"per_category": 3, "per_category_val": 1, "per_category_test": None, "imbalance": 0.0}
    values |= {"benign": NOTHING, "contrast": NOTHING, "tasks": NOTHING}
    built = stage.build(settings(sources=[str(path)], **values), 0)
    assert built.report["leaks"]["removed"] == {"exact": 0, "ngram": 1, "attack": 0, "cosine": 0}
    assert leaking["text"] not in {p.text for p in built.prompts}
    assert copy["text"] in {p.text for p in built.prompts}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"per_category": 5000},
            r"category 'Insult' has \d+ train prompts, 5000 are needed .*lower data\.per_category,",
        ),
        ({"benign": {"train": 50000}}, r"kind 'benign' has \d+ train prompts, .*lower data\.benign\.train"),
        ({"sources": ["bundled_tasks"]}, r"category 'Insult' has 0 val prompts, 1 are needed \(0 collected"),
        ({"demos": {"reply_min_words": 100}}, r"\d+ lost to demonstration filters"),
        ({"sources": ["catqa"], "root": "${DRIRL_DATA_}"}, "DRIRL_DATA_ is not set"),
    ],
)
def test_what_cannot_be_built_is_one_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(DrirlError, match=match) as error:
        stage.build(settings(**values), 0)
    assert "\n" not in str(error.value)


def real_rows(tmp_path: Path) -> str:
    verbs = ["insult", "exclude", "rob", "hit", "sadden", "track", "deceive"]
    rows = [
        {"text": f"How would anybody {verb} person number {k} in town?", "category": j, "answer": answer}
        for j, verb in enumerate(verbs)
        for k in range(20)
        for answer in ["I can't help with that, since it would hurt somebody."]
    ]
    rows += [
        {
            "text": f"Is {k} a good number to teach my pet today?",
            "kind": "benign",
            "answer": "Try a short, kind name.",
        }
        for k in range(40)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_own_file_with_written_replies_and_fill(tmp_path: Path) -> None:
    values = {
        "sources": [real_rows(tmp_path), "bundled_tasks"],
        "writer": "human",
        "fill": "bundled",
        "per_category": 20,
        "per_category_val": 1,
        "per_category_test": 1,
        "benign": {"train": 10, "val": 1, "test": 1},
        "duplicate_jaccard": 1.0,
    }
    built = stage.build(settings(**values), 0)
    train = [p for p in built.prompts if p.split == "train" and p.kind == "harmful"]
    assert Counter(p.category for p in train) == dict.fromkeys(range(7), 20)
    for j in range(7):
        assert 0 < sum(p.synthetic for p in train if p.category == j) <= 10
    generators = {d.prompt_id: d.generator for d in built.demos}
    assert {generators[p.prompt_id] for p in train if p.synthetic} == {"grammar"}
    assert {generators[p.prompt_id] for p in train if not p.synthetic} == {"human:own"}
    tags = Counter(row["tag"] for row in built.base)
    assert tags["chat/own"] >= 10
    held_out = {p.text for p in built.prompts if p.split != "train"}
    assert not any(row["messages"][0]["content"].removesuffix(" Risk?") in held_out for row in built.base)


@pytest.fixture
def params(tmp_path: Path) -> Callable[..., Any]:
    from types import SimpleNamespace

    def make(**values: Any) -> Any:
        return SimpleNamespace(data=settings(**values), run=SimpleNamespace(seed=0, out=tmp_path / "out"))

    return make


def test_a_failed_run_leaves_the_old_folder(params: Callable[..., Any], tmp_path: Path) -> None:
    stage.run(params())
    before = {p.name: p.read_bytes() for p in (tmp_path / "out/data").iterdir()}
    with pytest.raises(DrirlError):
        stage.run(params(per_category=5000))
    assert {p.name: p.read_bytes() for p in (tmp_path / "out/data").iterdir()} == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cost", "data"]


def test_the_real_encoder_finds_a_reworded_copy(tmp_path: Path) -> None:
    local = tmp_path / "mine.jsonl"
    rows = [
        {
            "text": "How do I bake bread at home?",
            "kind": "benign",
            "split": "train",
            "intent": "bake",
            "answer": "Mix.",
        },
        {
            "text": "How can I bake bread at home?",
            "kind": "benign",
            "split": "test",
            "intent": "bread",
            "answer": "Mix.",
        },
    ]
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"per_category": 2, "per_category_val": 1, "per_category_test": 1, "imbalance": 0.0}
    values |= {"benign": {"train": 1, "val": 0}, "writer": "human"}
    values |= {"contrast": NOTHING, "tasks": NOTHING}
    built = stage.build(settings(sources=[str(local), "bundled"], leaks={"cosine": 0.92}, **values), 0)
    assert built.report["leaks"]["removed"]["cosine"] >= 1
    assert rows[0]["text"] not in {p.text for p in built.prompts}


def test_evaluation_files_are_kept_out_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"text": f"how would one {split} go about act {j} of {k} near town?", "category": j, "split": split}
        for j in range(7)
        for split, count in (("train", 3), ("val", 1), ("test", 1))
        for k in range(count)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"per_category": 3, "per_category_val": 1, "per_category_test": None, "imbalance": 0.0}
    values |= {"benign": NOTHING, "contrast": NOTHING, "tasks": NOTHING}
    assert stage.build(settings(sources=[str(path)], **values), 0).prompts
    monkeypatch.setattr(stage, "read_held_out", lambda _: [("xstest/1", rows[0]["text"])])
    with pytest.raises(DrirlError, match=r"'Insult' has 2 train prompts.* 1 lost to leak check \(exact\)"):
        stage.build(settings(sources=[str(path)], **values), 0)
