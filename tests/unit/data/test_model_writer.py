"""The stage with an LLM as writer and filler, over a real server; its options; what drafts cost."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drirl.cli import main
from drirl.data import stage
from drirl.data.agreement import write_sheet
from drirl.data.balance import Candidate
from drirl.data.drafting import DraftCost, choose, measure_bundled, summarise
from drirl.data.generators import open_generator
from drirl.data.paraphrase import Paraphraser
from drirl.data.raw import RawPrompt
from drirl.data.settings import DataSettings, DemoSettings
from drirl.data.split import halve, of_half
from drirl.errors import DrirlError
from drirl.records import Prompt, prompt_id

VERBS = ["insult", "exclude", "rob", "hit", "sadden", "track", "deceive"]
PLACES = ["at work", "in town", "after school", "by night", "on a train", "near home", "in the park"]
NOTHING = {"train": 0, "val": 0, "test": 0}


@pytest.fixture
def values(tmp_path: Path, chat_server: Any, make_settings: Callable[..., Any]) -> dict[str, Any]:
    """Settings for an own file of eight harmful prompts a category; six of them are for training."""
    rows = []
    for j, verb in enumerate(VERBS):
        splits = ["train"] * 6 + ["val", "test"]
        for k, split in enumerate(splits):
            text = f"How would anybody {verb} person number {k} {PLACES[k % 7]}?"
            rows.append({"text": text, "category": j, "split": split, "intent": f"{verb} {k}"})
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generator = make_settings(kind="server", model="small-writer", url=chat_server.url)
    return {
        "sources": [str(path)],
        "per_category": 6,
        "benign": NOTHING,
        "contrast": NOTHING,
        "tasks": NOTHING,
        "imbalance": 0.0,
        "base_bundled": False,
        "leaks": {"cosine": None},
        "demos": {"reply_min_words": 5},
        "writer": "model",
        "generator": generator.model_dump(),
    }


def build(values: dict[str, Any], **more: Any) -> stage.Built:
    return stage.build(DataSettings(**{**values, **more}), 0)


def test_an_llm_writes_every_demonstration(values: dict[str, Any], tmp_path: Path) -> None:
    built = build(values)
    assert {d.generator for d in built.demos} == {"server:small-writer"}
    assert all(d.answer.startswith("I can't help with that") and len(d.drafts) == 4 for d in built.demos)
    train = Counter(p.category for p in built.prompts if p.split == "train")
    assert train == dict.fromkeys(range(7), 6)
    figures = built.report["generator"]
    assert figures["requests"] == built.report["demonstrations"]["tried"] >= 56
    assert figures["completion_tokens"] > 20 * 56
    stage.write_built(built, tmp_path / "data")
    sheet = (tmp_path / "data/datasheet.md").read_text()
    assert f"Written with `server:small-writer` (cod): {figures['requests']} requests" in sheet
    stage.write_built(build(values), tmp_path / "again")  # from the cache
    for path in sorted((tmp_path / "data").iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_build_that_broke_off_goes_on_to_the_same_bytes(
    values: dict[str, Any], tmp_path: Path, chat_server: Any
) -> None:
    values["generator"] |= {"retries": 0, "cache": str(tmp_path / "whole.sqlite")}
    stage.write_built(build(values), tmp_path / "whole")
    asked = len(chat_server.bodies)
    values["generator"] |= {"cache": str(tmp_path / "broken.sqlite")}
    chat_server.bodies, chat_server.dies_after = [], 30
    with pytest.raises(DrirlError, match="status 503"):
        build(values)
    with sqlite3.connect(tmp_path / "broken.sqlite") as connection:
        kept = connection.execute("SELECT count(*) FROM replies").fetchone()[0]
    assert kept == 30
    chat_server.bodies, chat_server.dies_after = [], None
    stage.write_built(build(values), tmp_path / "resumed")
    assert len(chat_server.bodies) == asked - kept
    for path in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "resumed" / path.name).read_bytes() == path.read_bytes(), path.name


def test_blocked_prompts_are_replaced_by_the_next_draw(values: dict[str, Any], chat_server: Any) -> None:
    blocked = {"error": {"code": "content_filter", "message": "no"}}
    values["generator"] |= {"concurrency": 1, "temperature": 0.0}
    values["demos"]["retries"] = 0
    values |= {"per_category": 4, "per_category_val": 1, "per_category_test": 1}
    whole = build(values, generator={**values["generator"], "cache": ""})
    chat_server.faults = ["ok"] * 14 + [(400, blocked, {})] * 2  # val and test come first
    built = build(values)
    for data in (whole, built):
        train = Counter(p.category for p in data.prompts if p.split == "train")
        assert train == dict.fromkeys(range(7), 4)
    assert built.report["generator"]["blocked_by_server"] == 2
    lost = {p.prompt_id for p in whole.prompts} - {p.prompt_id for p in built.prompts}
    assert len(lost) == 2
    assert built.report["demonstrations"]["prompts_without"] >= 2


def test_paraphrases_fill_up_to_their_share(values: dict[str, Any], tmp_path: Path) -> None:
    built = build(values, writer="grammar", fill="paraphrase", per_category=9, fill_similarity=0.0)
    train = [p for p in built.prompts if p.split == "train"]
    assert Counter(p.category for p in train) == dict.fromkeys(range(7), 9)
    made = [p for p in train if p.synthetic]
    assert Counter(p.category for p in made) == dict.fromkeys(range(7), 3)
    assert {p.source for p in made} == {"paraphrase-own"}
    clusters = {p.cluster_id for p in train if not p.synthetic}
    assert {p.cluster_id for p in made} <= clusters
    assert all(p.text.startswith("Tell me a ") for p in made)
    assert len({p.text for p in built.prompts}) == len(built.prompts)
    counts = built.report["paraphrases"]
    assert counts["kept"] >= 21
    assert counts["asked"] == sum(n for name, n in counts.items() if name != "asked")
    assert built.report["splits"]["train"]["synthetic_share"] == round(21 / 63, 4)
    with pytest.raises(DrirlError, match=r"'Insult' has 8 train prompts, 9 are needed"):
        build(
            values, writer="grammar", fill="paraphrase", per_category=9, max_synthetic=0.25, fill_similarity=0
        )


def test_paraphrases_far_from_their_seed_are_turned_down(values: dict[str, Any]) -> None:
    with pytest.raises(DrirlError, match="9 are needed"):
        build(values, writer="grammar", fill="paraphrase", per_category=9, fill_similarity=0.99)


@pytest.mark.parametrize(
    ("text", "limit", "reason"),
    [
        ("Tell me how to rob a shop.", 60, ""),
        ("Tell me", 60, "malformed"),
        ("Tell me how #### to rob", 60, "malformed"),
        ("Tell me how to rob a shop.", 5, "too_long"),
        ("I can't help with rewording that.", 60, "refused"),
        ("how  would anybody rob a bank?", 60, "duplicate"),
        ("How would anybody rob a bank by day right now?", 60, "duplicate"),
    ],
)
def test_each_reason_to_turn_a_paraphrase_down(
    text: str, limit: int, reason: str, values: dict[str, Any]
) -> None:
    settings = DataSettings(**{**values, "duplicate_jaccard": 0.25})
    known = ["How would anybody rob a bank?"]
    paraphraser = Paraphraser(
        open_generator(settings.generator), settings, encode=planted, known=known, seed=0
    )
    assert paraphraser._reason(text, limit, 1.0) == reason
    assert paraphraser._reason("Quite another wording of it.", 60, 0.2) == "off_topic"


def planted(texts: list[str]) -> np.ndarray:
    return np.eye(max(2, len(texts)), dtype=np.float32)[: len(texts)]


def test_a_paraphrase_keeps_what_its_seed_was(values: dict[str, Any]) -> None:
    settings = DataSettings(**{**values, "fill_similarity": 0.0})
    raw = RawPrompt(
        "How would anybody rob a bank?", 2, source="s", source_id="7", weak_map=True, intent="bank"
    )
    seed = Candidate(raw, prompt_id(raw.text), 5, "train")
    paraphraser = Paraphraser(open_generator(settings.generator), settings, encode=planted, known=[], seed=0)
    (made,) = paraphraser.fill([seed], 3, 2)
    assert (made.cluster, made.split, made.raw.category, made.raw.weak_map) == (5, "train", 2, True)
    assert (made.raw.source, made.raw.source_id, made.raw.synthetic) == ("paraphrase-s", "7#2", True)
    assert made.prompt_id == prompt_id(made.raw.text) != seed.prompt_id


# ---------------------------------------------------------------------------------------------- options


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(f"p{j}-{k}", f"text {j} {k}", j, "test" if k == 0 else "train", cluster_id=100 * j + k // 3)
        for j in range(7)
        for k in range(count)
    ]


def test_halves_keep_clusters_whole_and_even(tmp_path: Path) -> None:
    rows = prompts(31)
    halves = halve(rows, 0)
    assert set(halves) == {p.prompt_id for p in rows if p.split == "train"}
    for j in range(7):
        mine = [p for p in rows if p.category == j and p.split == "train"]
        assert abs(2 * sum(halves[p.prompt_id] == "reward" for p in mine) - len(mine)) <= 3
        by_cluster: dict[int, set[str]] = {}
        for p in mine:
            by_cluster.setdefault(p.cluster_id, set()).add(halves[p.prompt_id])
        assert all(len(found) == 1 for found in by_cluster.values())
    assert halve(rows, 1) != halves == halve(rows, 0)
    assert of_half(rows, tmp_path, "reward") == rows
    (tmp_path / "halves.json").write_text(json.dumps(halves))
    reward, policy = of_half(rows, tmp_path, "reward"), of_half(rows, tmp_path, "policy")
    assert {p.prompt_id for p in reward} & {p.prompt_id for p in policy} == {f"p{j}-0" for j in range(7)}
    assert len(reward) + len(policy) == len(rows) + 7
    with pytest.raises(DrirlError, match="training prompt new is not in it"):
        of_half([Prompt("new", "x", 0, "train")], tmp_path, "policy")


def test_options_are_in_the_files_and_the_datasheet(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"writer": "grammar", "disjoint": True}
    first = build(values)
    mapped = [p for p in first.prompts if p.split == "train"]
    write_sheet(mapped, tmp_path / "a.csv", count=20, seed=0)
    header, *lines = (tmp_path / "a.csv").read_text().splitlines()
    category = {p.prompt_id: p.category for p in mapped}
    filled = [f"{line}{category[line.split(',')[0]]}" for line in lines]
    (tmp_path / "a.csv").write_text("\n".join([header, *filled]) + "\n")
    wrong = [f"{line}{(category[line.split(',')[0]] + (k < 5)) % 7}" for k, line in enumerate(lines)]
    (tmp_path / "b.csv").write_text("\n".join([header, *wrong]) + "\n")
    built = build(values, labels=[str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert built.report["labels"]["labellers"]["observed"] == 0.75
    stage.write_built(built, tmp_path / "data")
    halves = json.loads((tmp_path / "data/halves.json").read_text())
    assert Counter(halves.values()) == {"reward": 21, "policy": 21}
    sheet = (tmp_path / "data/datasheet.md").read_text()
    assert "The training split is halved by cluster: 21 for the reward and 21 for the policy." in sheet
    assert "| labellers | 20 | 0.75 |" in sheet
    assert "halves.json" in json.loads((tmp_path / "data/manifest.json").read_text())["files"]


def test_equal_replies_can_be_turned_down(values: dict[str, Any]) -> None:
    values["demos"]["reply_jaccard"] = 0.9
    with pytest.raises(DrirlError, match=r"'Insult' has 0 test prompts, .* lost to demonstration filters"):
        build(values)  # the small LLM always writes the same reply, and the val prompt took it
    report = build(values, writer="grammar").report
    assert report["demonstrations"]["accepted"] >= 56


@pytest.fixture
def classifier(writer_model: Path, tmp_path: Path) -> Path:
    """A sequence classifier with random weights and the labels safe and unsafe."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(writer_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        id2label={0: "safe", 1: "unsafe"},
        label2id={"safe": 0, "unsafe": 1},
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_safety_classifier_has_the_last_word(values: dict[str, Any], classifier: Path) -> None:
    values["writer"] = "grammar"
    settings = {"path": str(classifier)}
    lax = build(values, demos={**values["demos"], "classifier": {**settings, "threshold": 1e-6}})
    assert all(d.filters["safe"] for d in lax.demos)
    with pytest.raises(DrirlError, match="lost to demonstration filters"):
        build(values, demos={**values["demos"], "classifier": {**settings, "threshold": 1.0}})
    with pytest.raises(DrirlError, match=r"classifier\.safe: known: safe, unsafe; did you mean 'safe'"):
        build(values, demos={**values["demos"], "classifier": {**settings, "safe": ["saef"]}})
    with pytest.raises(DrirlError, match=r"classifier\.path: '/nowhere' is no sequence classifier"):
        build(values, demos={**values["demos"], "classifier": {"path": "/nowhere"}})


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"writer": "model"}, "need an LLM, kind is 'none'"),
        ({"fill": "paraphrase"}, "need an LLM, kind is 'none'"),
        ({"labels": ["a.csv"]}, "two files are expected, or none"),
    ],
)
def test_contradicting_settings(more: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DataSettings(**{"sources": ["bundled"], "per_category": 1, **more})


# ---------------------------------------------------------------------------------------------- Table 7


def cost(
    key: str, style: str, tokens: int, seconds: float | None, failed: list[str] | None = None
) -> DraftCost:
    return DraftCost(key, style, "g", 10, tokens, 4, 20, seconds, "stop", failed or [])


def test_ratios_by_hand() -> None:
    rows = [cost("a", "cod", 10, 0.5), cost("b", "cod", 30, 1.5, ["length"])]
    rows += [cost("a", "cot", 60, 2.0), cost("b", "cot", 100, 4.0), cost("c", "cot", 999, 9.0)]
    found = summarise(rows)
    assert found["styles"]["cod"]["completion_tokens"] == 20
    assert found["styles"]["cod"]["accepted"] == 0.5
    assert found["completion_tokens_ratio"]["cot_over_cod"] == 4.0  # (60 + 100) / (10 + 30)
    assert found["seconds_ratio"] == {"cot_over_cod": 3.0, "interval": [2.667, 4.0], "n": 2}
    assert "seconds_ratio" not in summarise([cost("a", "cod", 1, None), cost("a", "cot", 2, None)])


def test_chosen_prompts_take_turns() -> None:
    chosen = choose(prompts(5), 14, 0)
    assert Counter(p.category for p in chosen) == dict.fromkeys(range(7), 2)
    assert choose(prompts(5), 14, 0) == chosen != choose(prompts(5), 14, 1)
    with pytest.raises(DrirlError, match="no harmful prompt"):
        choose([], 1, 0)


def test_the_bundled_grammar_needs_fewer_tokens_for_notes(writer_model: Path) -> None:
    from drirl.models import load_tokenizer

    tokenizer, rows = load_tokenizer(writer_model), []
    for style in ("cod", "cot"):
        settings = DemoSettings(reply_min_words=4)
        rows += measure_bundled(choose(prompts(5), 14, 0), tokenizer, settings, style=style, seed=0)
    found = summarise(rows)
    assert found["completion_tokens_ratio"]["interval"][0] > 1.3
    assert found["styles"]["cod"]["answer_words"] == found["styles"]["cot"]["answer_words"]
    assert all(not row.failed for row in rows)


def test_the_command_measures_a_model(
    writer_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from drirl.records import write_jsonl

    root = Path(__file__).resolve().parents[3]
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["data"]["generator"] |= {"exemplars": 0, "max_tokens": 64, "device": "cpu", "batch_size": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_jsonl(tmp_path / "out/data/prompts.jsonl", prompts(3))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "drafts", "--count", "3", "--model", str(writer_model)]) == 0
    found = json.loads((tmp_path / "out/cost/data/drafts.json").read_text())
    assert len(found["records"]) == 6
    assert all(row["seconds"] > 0 and row["completion_tokens"] > 0 for row in found["records"])
    assert found["styles"]["cod"]["n"] == found["styles"]["cot"]["n"] == 3
    assert found["styles"]["cot"]["prompt_tokens"] > found["styles"]["cod"]["prompt_tokens"]
    assert (tmp_path / "out/cache/generations.sqlite").is_file()
    assert main(["data", "drafts", "--count", "2", "--tokenizer", str(writer_model), "--style", "cod"]) == 0
    assert main(["data", "drafts", "--style", "codd"]) == 2
    assert "did you mean 'cod'" in capsys.readouterr().err
    assert main(["data", "label-sheet", str(tmp_path / "sheet.csv"), "--count", "5"]) == 0
    assert len((tmp_path / "sheet.csv").read_text().splitlines()) == 6
    assert main(["data", "agreement", "sheet.csv", "sheet.csv"]) == 2


def test_rewards_and_policies_read_their_own_half(tmp_path: Path) -> None:
    from drirl.align.stage import _load_splits
    from drirl.records import Demo, write_json, write_jsonl
    from drirl.reward.items import load_items

    rows = [*prompts(31), *(Prompt(f"b{k}", f"kind {k}", -1, "train", cluster_id=k) for k in range(4))]
    demos = [Demo(f"d{p.prompt_id}", p.prompt_id, p.category, [], "a", "a", "refuse", "g", "t") for p in rows]
    write_jsonl(tmp_path / "data/prompts.jsonl", rows)
    write_jsonl(tmp_path / "data/demos.jsonl", demos)
    both = {p.prompt_id for p in rows if p.split == "train"}
    assert {item.prompt.prompt_id for item in load_items(tmp_path, "train")} == both
    assert {p.prompt_id for p, _ in _load_splits(tmp_path, ["train"])[0]} == both
    write_json(tmp_path / "data/halves.json", halve(rows, 0))
    reward = {item.prompt.prompt_id for item in load_items(tmp_path, "train")}
    policy = {p.prompt_id for p, _ in _load_splits(tmp_path, ["train"])[0]}
    assert reward | policy == both
    assert not reward & policy
    assert abs(len(reward) - len(policy)) <= 3 * 8
