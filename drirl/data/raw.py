"""Prompts and demonstrations as they are collected, before balancing, splitting and numbering."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drirl.records import BENIGN

__all__ = ["UNLABELLED", "Corpus", "RawDemo", "RawPrompt"]

UNLABELLED = -2
"""Category of a collected prompt whose source gives no label; ``classify`` replaces it by 0..6."""


@dataclass(frozen=True)
class RawDemo:
    """A demonstration as a writer gives it; ``verdict`` is refuse, redirect or answer."""

    drafts: list[str]
    answer: str
    verdict: str
    generator: str
    template_id: str


@dataclass(frozen=True)
class RawPrompt:
    """One collected prompt; the fields are those of :class:`drirl.records.Prompt`.

    ``category`` is 0..6, ``BENIGN`` (-1), or ``UNLABELLED`` (-2) until it is classified. ``split`` is
    empty when it is decided by cluster, else train, val or test. ``demo`` is a demonstration that came
    with the prompt, or None when the writer has to make one. ``answers`` are labelled replies of the
    source, best first; the writer ``human`` takes them before the grammar.
    """

    text: str
    category: int = BENIGN
    kind: str = "harmful"
    level: str = "direct"
    intent: str = ""
    wording: str = ""
    source: str = ""
    source_id: str = ""
    source_label: str = ""
    reference: str = ""
    checker: str = ""
    novelty: str = ""
    split: str = ""
    lang: str = "en"
    weak_map: bool = False
    category_origin: str = "mapped"
    synthetic: bool = False
    demo: RawDemo | None = None
    answers: tuple[RawDemo, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """What a source gives: prompts, and rows of ``base_corpus.jsonl``.

    A row is ``{"messages": [{"role": ..., "content": ...}, ...], "loss": "all" | "reply", "tag": str}``.
    """

    prompts: list[RawPrompt]
    base: list[dict[str, Any]] = field(default_factory=list)
