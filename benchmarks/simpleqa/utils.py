"""Items and scores of SimpleQA by rules, for the YAML file of this folder."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from drirl.detect import degenerate, is_refusal
from drirl.errors import DrirlError
from drirl.evaluate.tasks import as_dataset, choose, data_file, read_table, row, text_id
from drirl.text import split_draft

_MONTHS = "january february march april may june july august september october november december".split()
_SPREADSHEET_DATE = re.compile(r"(?:(\d{1,2})-)?([A-Z][a-z]{2})(?:-(\d{2}))?")
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}}) (?:of )?({'|'.join(_MONTHS)})\b")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_NOT_ATTEMPTED = re.compile(
    r"\b(?:i )?(?:do not|don't|cannot|can't|could not|couldn't|did not|didn't) "
    r"(?:\w+ )?(?:know|find|recall|remember|answer|say|tell|determine|verify|confirm|provide|have)\b"
    r"|\b(?:i am|i'm) (?:not (?:sure|certain|aware|able|familiar)|unsure|unaware|unable)\b"
    r"|\bno (?:idea|information|record|data)\b"
    r"|^\W*(?:unknown|unsure|not known|not sure|n/a)\b"
)


def load(
    task: str,
    root: str | None = None,
    hub: dict[str, str] | None = None,
    subset: Any = None,
    limit: int | None = None,
    subset_seed: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """The questions; the answer type (date, person, ...) goes into the column label where the file has it."""
    path = data_file("simpleqa/simpleqa_full_dataset.csv", root, hub)
    table = read_table(path, ["problem"])
    answer = "answer" if "answer" in table[0][1] else "expected_answer"
    rows = []
    for number, cells in table:
        reference = (cells.get(answer) or "").strip()
        if not normalise(reference):
            raise DrirlError(f"{path}:{number}: column 'expected_answer' (or 'answer') is missing or empty")
        item = f"simpleqa-{text_id(cells['problem'])}"
        label = cells.get("answer_type") or ""
        rows.append(row(item, cells["problem"], kind="task", label=label, reference=reference))
    return as_dataset(choose(rows, task, subset=subset, limit=limit, seed=subset_seed))


def normalise(text: str) -> str:
    """Drop case, accents, articles, punctuation, thousands commas and ordinal ends; put months first."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\d),(?=\d)", "", plain)
    words = [w for w in re.sub(r"[\W_]+", " ", plain).split() if w not in {"a", "an", "the"}]
    joined = _ORDINAL.sub(r"\1", " ".join(words))
    joined = re.sub(r"\b0(\d)\b", r"\1", joined)
    return _DAY_FIRST.sub(r"\2 \1", joined)


def accepted(reference: str) -> list[str]:
    """Return the normalised forms of a reference; a spreadsheet date (``Jan-08``) has no century."""
    match = _SPREADSHEET_DATE.fullmatch(reference.strip())
    month = next((m for m in _MONTHS if match and m[:3] == match[2].lower()), None)
    if match is None or month is None or not (match[1] or match[3]):
        return [normalise(reference)]
    start = f"{month} {int(match[1])}" if match[1] else month
    return [f"{start} {century}{match[3]}" for century in (19, 20)] if match[3] else [start]


def grade(reference: str, reply: str) -> str:
    """Return correct, not_attempted or incorrect, by rules alone."""
    found = f" {normalise(reply)} "
    if any(f" {form} " in found for form in accepted(reference)):
        return "correct"
    plain = reply.lower().replace("’", "'")
    if not found.strip() or is_refusal(reply) or _NOT_ATTEMPTED.search(plain):
        return "not_attempted"
    return "incorrect"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Share correct of all questions, and share not attempted."""
    _, answer = split_draft(results[0])
    verdict = grade(doc["reference"], answer)
    return {
        "accuracy": float(verdict == "correct"),
        "not_attempted_rate": float(verdict == "not_attempted"),
        "degenerate_text": float(degenerate(answer) != ""),
    }
