"""Question 11: do rewards learnt on our demonstrations order replies that people wrote or labelled?

Two sources of pairs, none of which any reward was trained on: HH-RLHF harmless, test split (one-turn
dialogues; the reply people chose against the one they rejected), and Do-Not-Answer (two models' replies
to the same question that people labelled as refusing, action 0 and not harmful, and as following it,
action 5 and harmful). HH-RLHF has no category: its prompts are scored by the mean over the harm
categories' rewards. Files: docs/data.md.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.errors import DrirlError
from drirl.experiments.plan import Plan
from drirl.records import atomic_dir, write_json, write_jsonl

__all__ = ["RealPair", "data_root", "do_not_answer_pairs", "hh_pairs", "run_cross"]

HH = "hh_rlhf_harmless/harmless_base_test.jsonl"
DNA = "do_not_answer/do_not_answer_en.csv"
RESPONSES = "do_not_answer/human_annotated_responses/annotated_response_{}.csv"
MODELS = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
REFUSES, FOLLOWS = "0", "5"


@dataclass(frozen=True)
class RealPair:
    """A prompt with a safe and an unsafe reply. ``category``: 0..6, or None where the source has none."""

    source: str
    pair_id: str
    category: int | None
    prompt: str
    safe: str
    unsafe: str


def data_root(plan: Plan) -> Path | None:
    """Return the folder of real data files (``data.root``, then DRIRL_DATA), or None if none is named."""
    named = os.path.expandvars(plan.params.data.root)
    root = named if named and "$" not in named else os.environ.get("DRIRL_DATA", "")
    return Path(root) if root else None


def hh_pairs(path: Path) -> list[RealPair]:
    """Read one-turn dialogues: one message of a person, and two replies to it.

    Raises:
        DrirlError: a line is no JSON object with the texts chosen and rejected.
    """
    pairs = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            value = json.loads(line)
            both = [_turns(value[name]) for name in ("chosen", "rejected")]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise DrirlError(
                f"{path}:{number}: expected an object with the texts chosen and rejected"
            ) from None
        if all(len(turns) == 2 for turns in both) and both[0][0] == both[1][0] and both[0][1] != both[1][1]:
            pairs.append(RealPair("hh_rlhf", f"hh-{number}", None, both[0][0], both[0][1], both[1][1]))
    return pairs


def _turns(text: str) -> list[str]:
    """Return the messages of a dialogue in turn, the person's first; empty if it is not of that form."""
    head, *rest = text.split("\n\nHuman: ")
    if head.strip() or len(rest) != 1:
        return []
    parts = rest[0].split("\n\nAssistant:")
    found = [part.strip() for part in parts]
    return found if len(found) == 2 and all(found) else []


def do_not_answer_pairs(root: Path) -> list[RealPair]:
    """Pair a refusing with a following reply to each question that has both, the shortest of all models'.

    Raises:
        DrirlError: a file is missing or lacks a column.
    """
    from drirl.data.taxonomy import map_do_not_answer

    categories: dict[str, int] = {}
    for number, row in _rows(root / DNA, ("id", "types_of_harm", "specific_harms")):
        mapping = map_do_not_answer(row["types_of_harm"], row["specific_harms"], f"{DNA}:{number}")
        if mapping.category is not None:
            categories[row["id"]] = mapping.category
    safe: dict[str, str] = {}
    unsafe: dict[str, str] = {}
    questions: dict[str, str] = {}
    for model in MODELS:
        columns = ("id", "question", "response", "harmful", "action")
        for _, row in _rows(root / RESPONSES.format(model), columns):
            questions[row["id"]] = row["question"].strip()
            if row["action"] == REFUSES and row["harmful"] == "0":
                _keep_shorter(safe, row["id"], row["response"])
            elif row["action"] == FOLLOWS and row["harmful"] == "1":
                _keep_shorter(unsafe, row["id"], row["response"])
    ids = [i for i in questions if i in categories and safe.get(i) and unsafe.get(i)]
    return [
        RealPair("do_not_answer", f"dna-{i}", categories[i], questions[i], safe[i], unsafe[i]) for i in ids
    ]


def _keep_shorter(found: dict[str, str], name: str, text: str) -> None:
    text = text.strip()
    if text and (name not in found or len(text) < len(found[name])):
        found[name] = text


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(_text(path, "utf-8-sig").splitlines(keepends=True))
    rows = [(reader.line_num, row) for row in reader]
    for name in columns:
        if name not in (reader.fieldnames or ()):
            raise DrirlError(f"{path}:1: column '{name}' is missing")
    return [(number, {name: row[name] or "" for name in columns}) for number, row in rows]


def _text(path: Path, encoding: str = "utf-8") -> str:
    try:
        return path.read_text(encoding=encoding)
    except FileNotFoundError:
        raise DrirlError(
            f"{path}: no such file; DRIRL_DATA (or data.root) should hold it, or leave both unset"
        ) from None
    except UnicodeDecodeError as error:
        raise DrirlError(f"{path}: not UTF-8 text: {error}") from None


def run_cross(plan: Plan) -> None:
    """Score the pairs on the first model; write ``out/arms/cross/{pairs.jsonl, report.json}``.

    Without real data the report says so and nothing fails. Texts are not kept: only ids, categories and
    scores.

    Raises:
        DrirlError: a file under the root is missing or malformed, or the rewards have not been learnt.
    """
    target = plan.out / "cross"
    root = data_root(plan)
    model = plan.params.run.models[0]
    if root is None:
        with atomic_dir(target) as folder:
            write_jsonl(folder / "pairs.jsonl", [])
            write_json(folder / "report.json", {"model": model, "missing": "set DRIRL_DATA or data.root"})
        return
    import torch

    from drirl.models import resolve_device
    from drirl.reward.bank import RewardBank

    torch.set_num_threads(plan.params.run.threads)
    pairs = [*hh_pairs(root / HH), *do_not_answer_pairs(root)]
    irl = plan.params.run.out / "reward" / model / "irl"
    bank = RewardBank.load(irl, device=resolve_device(plan.params.run.device))
    usable = [pair for pair in pairs if _fits(bank, pair)]
    counts: dict[str, dict[str, int]] = {}
    for pair in pairs:
        own = counts.setdefault(pair.source, {"pairs": 0, "short_enough": 0})
        own["pairs"] += 1
    for pair in usable:
        counts[pair.source]["short_enough"] += 1
    rows = _score(bank, usable)
    with atomic_dir(target) as folder:
        write_jsonl(folder / "pairs.jsonl", rows)
        write_json(
            folder / "report.json", {"model": model, "missing": "", "counts": counts, "context": bank.context}
        )


def _fits(bank: Any, pair: RealPair) -> bool:
    """Whether prompt and either reply fit the rewards' context whole: nothing is cut."""
    from drirl.generate import render

    tokenizer = bank.tokenizer
    prompt = len(tokenizer(render(tokenizer, [pair.prompt])[0], add_special_tokens=False)["input_ids"])
    longest = max(
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (pair.safe, pair.unsafe)
    )
    return prompt + longest + 2 <= bank.context


def _score(bank: Any, pairs: Sequence[RealPair]) -> list[dict[str, Any]]:
    if not pairs:
        return []
    texts = [pair.prompt for pair in pairs]
    harm = [k for k, head in enumerate(bank.heads) if head == "all" or (isinstance(head, int) and head >= 0)]
    scores = []
    for replies in ([p.safe for p in pairs], [p.unsafe for p in pairs]):
        table = bank.score_all(texts, replies, [True] * len(pairs))  # (B, H)
        mean = table[:, harm].mean(1)
        columns = bank.columns([pair.category if pair.category is not None else 0 for pair in pairs]).cpu()
        own = [
            float(table[i, int(columns[i])]) if pair.category is not None else float(mean[i])
            for i, pair in enumerate(pairs)
        ]
        scores.append([(round(value, 6), round(float(average), 6)) for value, average in zip(own, mean)])
    lengths = [[len(text.split()) for text in (pair.safe, pair.unsafe)] for pair in pairs]
    return [
        {
            "source": pair.source,
            "pair_id": pair.pair_id,
            "category": pair.category,
            "safe": scores[0][i][0],
            "unsafe": scores[1][i][0],
            "safe_mean": scores[0][i][1],
            "unsafe_mean": scores[1][i][1],
            "words": lengths[i],
        }
        for i, pair in enumerate(pairs)
    ]
