"""Tokens and seconds of Chain of Draft against Chain of Thought on the same prompts (paper Table 7)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from drirl.data import grammar
from drirl.data.demonstrate import apply_filters, full_text
from drirl.data.generators import Reply, TextGenerator
from drirl.data.normalise import words
from drirl.data.raw import RawDemo
from drirl.data.settings import DemoSettings
from drirl.data.templates import Style, ask_demonstration, read_demonstration, think_aloud
from drirl.errors import DrirlError
from drirl.records import Prompt

__all__ = ["DraftCost", "choose", "measure", "measure_bundled", "summarise"]

_DRAWS = 2000


@dataclass(frozen=True)
class DraftCost:
    """What one completion took. ``seconds`` is None where nothing was generated (the bundled grammar)."""

    prompt_id: str
    style: str
    generator: str
    prompt_tokens: int
    completion_tokens: int
    draft_words: int
    answer_words: int
    seconds: float | None
    stop: str
    failed: list[str]


def choose(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Return ``count`` harmful prompts (fewer if there are fewer), categories taking turns, seeded."""
    queues: dict[int, list[Prompt]] = {}
    for p in sorted((p for p in prompts if p.kind == "harmful"), key=lambda p: p.prompt_id):
        queues.setdefault(p.category, []).append(p)
    if not queues:
        raise DrirlError("there is no harmful prompt in that split: run 'drirl stage data' first")
    for category in queues:
        random.Random(f"{seed}/drafting/{category}").shuffle(queues[category])
    rows = sorted(queues)
    longest = max(map(len, queues.values()))
    return [queues[j][k] for k in range(longest) for j in rows if k < len(queues[j])][:count]


def measure(
    prompts: Sequence[Prompt],
    generator: TextGenerator,
    settings: DemoSettings,
    *,
    style: Style,
    seed: int,
    bare: bool = False,
) -> list[DraftCost]:
    """Let an LLM write one demonstration a prompt and count.

    ``bare`` sends the prompt without the template: for a policy that was trained to draft by itself. Use
    ``batch_size`` or ``concurrency`` 1 for seconds that no other prompt shares.
    """
    settings = settings.model_copy(update={"style": style})
    asked = [
        (p.text, "bare")
        if bare
        else ask_demonstration(
            p,
            style,
            note_words=settings.note_words - 1,
            exemplars=generator.settings.exemplars,
            seed=seed,
            attempt=0,
        )
        for p in prompts
    ]
    replies = generator.replies([generator.request(text, seed, "drafting", style) for text, _ in asked])
    return [
        _cost(p, style, read_demonstration(reply.text, generator.name, template), reply, settings)
        for p, reply, (_, template) in zip(prompts, replies, asked, strict=True)
    ]


def measure_bundled(
    prompts: Sequence[Prompt], tokenizer: Any, settings: DemoSettings, *, style: Style, seed: int
) -> list[DraftCost]:
    """Count the tokens of the bundled grammar's demonstrations with ``tokenizer``; nothing is timed."""
    settings = settings.model_copy(update={"style": style})
    rows = []
    for p in prompts:
        draft = grammar.demonstrate(p, seed)
        if style == "cot":
            draft = think_aloud(draft, seed, p.prompt_id)
        asked, given = (
            len(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (p.text, full_text(draft.drafts, draft.answer))
        )
        rows.append(_cost(p, style, draft, Reply("", "stop", asked, given, -1.0), settings))
    return rows


def _cost(prompt: Prompt, style: str, draft: RawDemo, reply: Reply, settings: DemoSettings) -> DraftCost:
    failed = [name for name, passed in apply_filters(prompt, draft, settings).items() if not passed]
    return DraftCost(
        prompt_id=prompt.prompt_id,
        style=style,
        generator=draft.generator,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        draft_words=sum(len(words(note)) for note in draft.drafts),
        answer_words=len(words(draft.answer)),
        seconds=reply.seconds if reply.seconds >= 0 else None,
        stop=reply.stop,
        failed=failed,
    )


def summarise(rows: Sequence[DraftCost], seed: int = 0) -> dict[str, Any]:
    """Return figures by style, and the ratios CoT / CoD of mean tokens and seconds.

    A ratio is over prompts that both styles have, with a 95 % bootstrap interval over prompts (pairs kept).
    """
    styles = sorted({row.style for row in rows})
    out: dict[str, Any] = {"styles": {}}
    for style in styles:
        mine = [row for row in rows if row.style == style]
        seconds = [row.seconds for row in mine if row.seconds is not None]
        tokens = [row.completion_tokens for row in mine]
        out["styles"][style] = {
            "n": len(mine),
            "completion_tokens": round(fmean(tokens), 2),
            "completion_tokens_median": median(tokens),
            "prompt_tokens": round(fmean(row.prompt_tokens for row in mine), 2),
            "draft_words": round(fmean(row.draft_words for row in mine), 2),
            "answer_words": round(fmean(row.answer_words for row in mine), 2),
            "seconds": round(fmean(seconds), 4) if seconds else None,
            "accepted": round(sum(not row.failed for row in mine) / len(mine), 4),
            "cut": sum(row.stop == "length" for row in mine),
        }
    if {"cod", "cot"} <= set(styles):
        by = {style: {row.prompt_id: row for row in rows if row.style == style} for style in ("cod", "cot")}
        shared = sorted(set(by["cod"]) & set(by["cot"]))
        for name in ("completion_tokens", "seconds"):
            pairs = [(getattr(by["cod"][k], name), getattr(by["cot"][k], name)) for k in shared]
            if pairs and all(None not in pair for pair in pairs):
                out[f"{name}_ratio"] = _ratio(pairs, seed)
    return out


def _ratio(pairs: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    rng = random.Random(f"{seed}/drafting/bootstrap")

    def of(sample: Sequence[tuple[float, float]]) -> float:
        base = sum(cod for cod, _ in sample)
        return sum(cot for _, cot in sample) / base if base else float("nan")

    draws = sorted(of(rng.choices(pairs, k=len(pairs))) for _ in range(_DRAWS))
    low, high = (round(draws[int(q * (_DRAWS - 1))], 3) for q in (0.025, 0.975))
    return {"cot_over_cod": round(of(pairs), 3), "interval": [low, high], "n": len(pairs)}


def as_json(rows: Sequence[DraftCost], seed: int) -> dict[str, Any]:
    """Return the summary with the records it was made from."""
    return {**summarise(rows, seed), "records": [asdict(row) for row in rows]}
