"""Tokens of Chain of Draft against Chain of Thought (Table 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drirl.compare.names import code, escape
from drirl.compare.published import COLUMNS
from drirl.errors import DrirlError
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Fact, Section, markdown_table
from drirl.records import Prompt, read_json, read_jsonl

__all__ = ["draft_tokens"]

COUNT = 100
_STYLES = {"cod": "Chain of Draft", "cot": "Chain of Thought"}
_PUBLISHED = "Qwen-2-7B-Instruct"


def draft_tokens(found: Gathered, target: Path) -> Section:
    """Tokens of the bundled demonstrations of 100 test prompts in both styles; an LLM's too if measured."""
    from drirl.base.location import policy_path
    from drirl.data.drafting import choose, measure_bundled, summarise
    from drirl.models import load_tokenizer

    plan, params = found.plan, found.plan.params
    path = params.run.out / "data" / "prompts.jsonl"
    heads = ["Written by", "Counted with", "Style", "Tokens, mean", "Median", "Draft words", "Seconds", "n"]
    lines, answers, facts = [], {}, []
    for style in _STYLES:
        lines.append(
            [
                f"{code(_PUBLISHED)}, as published",
                "its own",
                _STYLES[style],
                _published(plan, _STYLES[style]),
                *[MISSING] * 4,
            ]
        )
    if path.is_file():
        prompts = [p for p in read_jsonl(path, Prompt) if p.split == params.evaluate.split]
        chosen = choose(prompts, COUNT, params.run.seed)
        for model in found.models:
            try:
                tokenizer = load_tokenizer(*policy_path(params.run.out, model))
            except DrirlError:
                lines.append(["the bundled grammar", escape(model), *[MISSING] * 5, "0"])
                continue
            rows = [
                row
                for style in ("cod", "cot")
                for row in measure_bundled(
                    chosen,
                    tokenizer,
                    params.data.demos,
                    style=style,
                    seed=params.run.seed,
                )
            ]
            summary = summarise(rows, params.run.seed)
            lines += _lines("the bundled grammar", model, summary)
            facts += _facts("the bundled grammar", model, summary)
            answers[model] = _answer(model, summary, "templates of the bundled grammar, not an LLM's writing")
    measured = params.run.out / "cost" / "data" / "drafts.json"
    if measured.is_file():
        summary = read_json(measured)
        writer = ", ".join(sorted({str(row.get("generator", "")) for row in summary.get("records", [])}))
        if writer and "grammar" not in writer:
            lines += _lines(writer, "its own", summary)
            facts += _facts(writer, "its own", summary)
            answers["measured"] = _answer(writer, summary, "measured by drirl data drafts")
    note = (
        "The grammar writes the same four notes in both styles, as keywords or as sentences, and the "
        "same reply. An "
        "LLM may think longer: measure one with `drirl data drafts --model PATH`, and this page "
        "shows it as well."
    )
    return Section(f"## Tokens per demonstration\n\n{markdown_table(heads, lines)}\n\n{note}", answers, facts)


def _lines(writer: str, tokenizer: str, summary: dict[str, Any]) -> list[list[str]]:
    lines = []
    for style, values in sorted(summary.get("styles", {}).items()):
        seconds = values["seconds"]
        lines.append(
            [
                escape(writer),
                escape(tokenizer),
                _STYLES.get(style, escape(style)),
                f"{values['completion_tokens']:.1f}",
                f"{values['completion_tokens_median']:g}",
                f"{values['draft_words']:.1f}",
                MISSING if seconds is None else f"{seconds:.2f}",
                str(values["n"]),
            ]
        )
    return lines


def _facts(writer: str, tokenizer: str, summary: dict[str, Any]) -> list[Fact]:
    part = f"{writer}, counted with {tokenizer}"
    facts = []
    for style, values in sorted(summary.get("styles", {}).items()):
        for key, measure in (("completion_tokens", "tokens"), ("draft_words", "draft words")):
            facts.append(Fact(part, _STYLES.get(style, style), measure, values[key], n=values["n"]))
    ratio = summary.get("completion_tokens_ratio")
    if ratio:
        name = f"{_STYLES['cot']} / {_STYLES['cod']}"
        low, high = ratio["interval"]
        facts.append(Fact(part, name, "tokens", ratio["cot_over_cod"], low, high, ratio["n"]))
    return facts


def _answer(name: str, summary: dict[str, Any], what: str) -> str:
    ratio = summary.get("completion_tokens_ratio")
    if not ratio:
        return f"{escape(name)}: {MISSING}, both styles are needed."
    low, high = ratio["interval"]
    word = "yes" if low > 1 else "no" if high < 1 else "cannot tell"
    return (
        f"{escape(name)}: **{word}**, Chain of Thought has {ratio['cot_over_cod']:.2f} times the tokens "
        f"({low:.2f} to {high:.2f}; n = {ratio['n']}); {what}. Published: 1289 against 162, 8.0 times."
    )


def _published(plan: Any, style: str) -> str:
    import csv

    path = plan.root / plan.params.compare.published
    if not path.is_file():
        return MISSING
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            key = (row.get("model"), row.get("method"), row.get("metric"))
            if set(COLUMNS) <= set(row) and key == (_PUBLISHED, style.lower(), "tokens_mean"):
                return str(row["value"])
    return MISSING
