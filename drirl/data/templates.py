"""Prompts that ask an LLM for a demonstration or a paraphrase, and the reading of what it gives back.

Chain of Draft (``cod``, arXiv 2502.18600): notes of a few words. Chain of Thought (``cot``): full sentences,
the comparison of the paper's Table 7. The text is in ``corpus/templates.yaml`` (paper section 3, "CoD").
"""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any, Literal

import yaml

from drirl.data import grammar
from drirl.data.raw import RawDemo
from drirl.data.taxonomy import CATEGORIES
from drirl.records import BENIGN, Prompt
from drirl.text import SEPARATOR

__all__ = [
    "KEYS",
    "VERDICTS",
    "Style",
    "ask_demonstration",
    "ask_paraphrase",
    "read_demonstration",
    "read_paraphrase",
    "think_aloud",
]

Style = Literal["cod", "cot"]
KEYS = ("wants", "risk", "rule", "plan")
VERDICTS = {"decline": "refuse", "redirect": "redirect", "answer": "answer"}
"""First word of the plan -> verdict of the demonstration."""

_NOTE = re.compile(r"(?:^|[\n;])[\s>*_#\-\d.()]*(wants|risk|rule|plan)[\s*_]*:[\s*_]*", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:the )?(?:reworded|rephrased|paraphrased|new)? ?(?:message|version)|paraphrase)\s*:\s*", re.I
)


@functools.cache
def _file() -> Any:
    path = Path(__file__).parent / "corpus" / "templates.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _area(prompt: Prompt) -> str:
    """Return the key of exemplars: a category's label, benign or task."""
    if prompt.kind == "task":
        return "task"
    return "benign" if prompt.category == BENIGN else grammar.LABELS[prompt.category]


def ask_demonstration(
    prompt: Prompt, style: Style, *, note_words: int, exemplars: int, seed: int, attempt: int
) -> tuple[str, str]:
    """Return (text of the request, template id); length, tone and alternatives are drawn per attempt.

    ``note_words`` bounds a Chain-of-Draft note without its key. Source: paper section 3.
    """
    parts, area = _file(), _area(prompt)
    rng = random.Random(f"{seed}/template/{prompt.prompt_id}/{attempt}")
    length, tone = rng.randint(2, 5), rng.choice(sorted(parts["tones"]))
    alternatives = rng.randint(0, len(parts["alternatives"]) - 1)
    kind = area if area in ("benign", "task") else "distress" if area == "mental" else "harmful"
    category = CATEGORIES[prompt.category] if prompt.category != BENIGN else None
    head = parts["area"]["harmful" if category else area]
    lines = [
        parts["role"],
        head.format(name=category.name, definition=category.definition) if category else head,
    ]
    lines += [parts["draft"][style].format(w=note_words), parts["cut"]]
    lines += [
        parts["reply"][kind].format(
            length=length, tone=parts["tones"][tone], alternatives=parts["alternatives"][alternatives]
        )
    ]
    shown = list(parts["exemplars"][area])
    rng.shuffle(shown)
    for example in shown[:exemplars]:
        notes = [f"{key}: {text}" for key, text in zip(KEYS, example[style], strict=True)]
        lines += ["", "Example", f"Message: <<<{example['message']}>>>", *notes, SEPARATOR, example["reply"]]
    lines += ["", parts["closing"], f"Message: <<<{prompt.text}>>>"]
    identity = f"{style}-v{parts['version']}/{area}-{length}-{tone}-{alternatives}"
    return "\n".join(lines), identity


def read_demonstration(text: str, generator: str, template: str) -> RawDemo:
    """Read an LLM's completion: notes by their keys, the separator, the reply.

    Nothing is mended: what lacks a note or the separator has fewer drafts than asked for, and a plan that is
    none of the three an empty verdict, so that the filters turn it down.
    """
    draft, found, answer = text.partition(SEPARATOR)
    if not found:
        return RawDemo([], text.strip(), "", generator, template)
    marks = list(_NOTE.finditer(draft))
    ends = [mark.start() for mark in marks[1:]] + [len(draft)]
    notes: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        notes.setdefault(mark[1].lower(), " ".join(draft[mark.end() : end].split()).rstrip(";,. "))
    plan = re.match(r"\W*(\w*)", notes.get("plan", ""))
    verdict = VERDICTS.get(plan[1].lower(), "") if plan else ""
    drafts = [f"{key}: {notes[key]}" for key in KEYS if notes.get(key)]
    return RawDemo(drafts, answer.strip(" \n*#"), verdict, generator, template)


def think_aloud(draft: RawDemo, seed: int, prompt_id: str) -> RawDemo:
    """Return a Chain-of-Draft demonstration with its notes put into sentences (Chain of Thought)."""
    rng = random.Random(f"{seed}/thoughts/{prompt_id}")
    frames = _file()["thoughts"]
    drafts = []
    for note in draft.drafts:
        key, _, text = note.partition(": ")
        drafts.append(f"{key}: {rng.choice(frames[key]).format(n=text)}" if key in frames else note)
    return RawDemo(drafts, draft.answer, draft.verdict, draft.generator, f"cot-{draft.template_id}")


def ask_paraphrase(seed_text: str, category: int, *, limit: int, turn: int) -> str:
    """Return the request for a rewording of a harmful prompt; ``turn`` picks the manner."""
    parts = _file()
    manner = parts["manners"][turn % len(parts["manners"])]
    area = CATEGORIES[category]
    text: str = parts["paraphrase"].format(
        name=area.name, definition=area.definition, manner=manner, limit=limit, seed=seed_text
    )
    return text


def read_paraphrase(text: str) -> str:
    """Return the reworded message without label, brackets and quotes; empty if it has several parts."""
    text = _LABEL.sub("", text.strip())
    text = text.replace("<<<", "").replace(">>>", "").strip()
    if "\n\n" in text:
        return ""
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”"):
        text = text[1:-1]
    return text.strip()
