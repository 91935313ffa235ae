"""Demonstrations in Chain-of-Draft form: writers, filters and retries (paper section 3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drirl.data import grammar
from drirl.data.check import is_correct
from drirl.data.generators import TextGenerator
from drirl.data.normalise import NEAR_N, NearIndex, ngrams, normalise_text, words
from drirl.data.raw import RawDemo, RawPrompt
from drirl.data.safety import SafetyClassifier
from drirl.data.settings import DemoSettings
from drirl.data.templates import ask_demonstration, read_demonstration, think_aloud
from drirl.detect import is_refusal
from drirl.errors import DrirlError, nearest
from drirl.records import Demo, Prompt
from drirl.text import SEPARATOR, split_draft

__all__ = ["WRITERS", "Demonstrator", "Job", "Writer", "apply_filters", "copied_share", "full_text"]

OneByOne = Callable[[Prompt, RawPrompt, int, int], RawDemo | None]
"""(prompt, collected prompt, seed, attempt) -> a draft of a demonstration; None: nothing more to offer."""


@dataclass(frozen=True)
class Job:
    """A prompt that a demonstration is wanted for, as a record and as it was collected."""

    prompt: Prompt
    raw: RawPrompt


Writer = Callable[[Sequence[Job], int, int], list[RawDemo | None]]
"""(prompts, seed, attempt) -> for each a draft, or None (nothing more to offer): what every writer is."""

COPY_N = 8
"""Words of the n-grams that copying from the prompt is measured by."""

_STEP = re.compile(
    r"^\s*(?:step\s+\d+|\(?\d{1,2}[.):]\s|[-*•]\s)|\bstep\s+(?:\d|one|two)\b|\bfirst(?:ly)?,.*\b(?:second(?:ly)?|then|next),",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b\d\.)(?<!\b\d\d\.)\s+")  # "1. " opens a list item
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def write_grammar(prompt: Prompt, raw: RawPrompt, seed: int, attempt: int) -> RawDemo | None:
    """Writer ``grammar``: the demonstration that came with the prompt first, then the bundled grammar's."""
    if raw.demo is not None:
        if attempt == 0:
            return raw.demo
        attempt -= 1
    return grammar.demonstrate(prompt, seed, attempt)


def write_labelled(prompt: Prompt, raw: RawPrompt, seed: int, attempt: int) -> RawDemo | None:
    """Labelled or written replies of the source, best first."""
    return raw.answers[attempt] if attempt < len(raw.answers) else None


def write_missing(prompt: Prompt, raw: RawPrompt, seed: int, attempt: int) -> RawDemo | None:
    """The grammar, for harmful prompts and for others that came without a reply."""
    if raw.answers and prompt.kind != "harmful":
        return None
    return write_grammar(prompt, raw, seed, attempt)


def one_by_one(write: OneByOne, *, aloud: bool) -> Writer:
    """Return a writer that asks ``write`` for each prompt; ``aloud`` puts notes into sentences."""

    def writer(jobs: Sequence[Job], seed: int, attempt: int) -> list[RawDemo | None]:
        drafts = [write(job.prompt, job.raw, seed, attempt) for job in jobs]
        if not aloud:
            return drafts
        return [
            None if draft is None else think_aloud(draft, seed, job.prompt.prompt_id)
            for job, draft in zip(jobs, drafts, strict=True)
        ]

    return writer


def by_model(generator: TextGenerator, settings: DemoSettings) -> Writer:
    """Return a writer that asks an LLM with the Chain-of-Draft or Chain-of-Thought template."""

    def writer(jobs: Sequence[Job], seed: int, attempt: int) -> list[RawDemo | None]:
        asked = [
            ask_demonstration(
                job.prompt,
                settings.style,
                note_words=settings.note_words - 1,
                exemplars=generator.settings.exemplars,
                seed=seed,
                attempt=attempt,
            )
            for job in jobs
        ]
        replies = generator.replies([generator.request(text, seed, "demo", attempt) for text, _ in asked])
        return [
            read_demonstration(reply.text, generator.name, template)
            for reply, (_, template) in zip(replies, asked, strict=True)
        ]

    return writer


WRITERS: dict[str, tuple[OneByOne | None, ...]] = {
    "grammar": (write_grammar,),
    "human": (write_labelled, write_missing),
    "model": (None,),
    "human_model": (write_labelled, None),
}
"""Who writes demonstrations, by ``data.writer``: each in turn, with retries, until a draft passes.

None is the LLM of ``data.generator``.
"""


def full_text(drafts: Sequence[str], answer: str) -> str:
    """Return drafts, separator and reply as one completion."""
    return f"{grammar.render_drafts(list(drafts))} {answer}"


def copied_share(reply: str, prompt: str, n: int = COPY_N) -> float:
    """Return the share of the reply's n-grams that are in the prompt; 0 for a reply shorter than n words."""
    tokens = words(reply)
    if len(tokens) < n:
        return 0.0
    grams = ngrams(tokens, n)
    return len(grams & ngrams(words(prompt), n)) / len(grams)


def apply_filters(prompt: Prompt, draft: RawDemo, settings: DemoSettings) -> dict[str, bool]:
    """Return what each filter says; a demonstration is kept if all are true.

    ``drafts``: as many notes as asked for, none empty or too long, the parts can be split again, and the plan
    is known and, for harmful prompts, not to answer;
    ``length``: words of the reply within bounds (the lower one for harmful prompts only);
    ``copy``: not too much of the prompt;
    ``language``: no CJK characters in an English reply, some in a Chinese one;
    harmful prompts: ``refusal`` (the detector is positive) and ``no_steps`` (no enumerated instructions);
    benign ones: ``helpful`` (it is negative); tasks: ``correct`` (the checker agrees).
    """
    reply, count = draft.answer, len(words(draft.answer))
    text = full_text(draft.drafts, reply)
    longest = settings.note_words if settings.style == "cod" else settings.thought_words
    filters = {
        "drafts": len(draft.drafts) == settings.notes
        and all(0 < len(words(note)) <= longest for note in draft.drafts)
        and draft.verdict != ""
        and not (prompt.kind == "harmful" and draft.verdict == "answer")
        and split_draft(text) == (text.partition(f" {SEPARATOR}")[0], reply.strip())
        and SEPARATOR not in reply,
        "length": 0 < count <= settings.reply_max_words,
        "copy": copied_share(reply, prompt.text) <= settings.max_copy,
        "language": prompt.lang not in ("en", "zh")
        or (prompt.lang == "zh") == (_CJK.search(reply) is not None),
    }
    if prompt.kind == "harmful":
        filters["length"] = filters["length"] and count >= settings.reply_min_words
        filters["refusal"] = is_refusal(reply)
        filters["no_steps"] = _STEP.search(reply) is None
    else:
        filters["helpful"] = not is_refusal(reply)
        if prompt.checker:
            filters["correct"] = is_correct(prompt, reply)
    return filters


def trim_reply(reply: str, limit: int) -> str:
    """Return the leading whole sentences of ``reply`` that fit in ``limit`` words (at least one sentence)."""
    kept: list[str] = []
    for sentence in _SENTENCE.split(" ".join(reply.split())):
        if kept and len(words(" ".join([*kept, sentence]))) > limit:
            break
        kept.append(sentence)
    return " ".join(kept)


class Demonstrator:
    """Writes one demonstration per prompt and counts what the filters did.

    Attributes:
        tried: drafts written; accepted: drafts kept; failed: filter name -> drafts it turned down;
        rejected_by_template: ``generator/template`` -> drafts turned down.
    """

    def __init__(
        self, writer: str, settings: DemoSettings, seed: int, generator: TextGenerator | None = None
    ) -> None:
        """``generator``: the LLM of writers that need one."""
        if writer not in WRITERS:
            raise DrirlError(f"data.writer: unknown writer '{writer}'; {nearest(writer, WRITERS)}")
        self.writers: list[Writer] = []
        for write in WRITERS[writer]:
            if write is not None:
                self.writers.append(one_by_one(write, aloud=settings.style == "cot"))
            elif generator is not None:
                self.writers.append(by_model(generator, settings))
            else:
                raise DrirlError(f"data.writer: '{writer}' needs an LLM: set data.generator.kind")
        self.settings = settings
        self.seed = seed
        self.tried = 0
        self.accepted = 0
        self.failed: Counter[str] = Counter()
        self.rejected_by_template: Counter[str] = Counter()
        self.near = NearIndex(settings.reply_jaccard) if settings.reply_jaccard is not None else None
        self.classifier = SafetyClassifier(settings.classifier) if settings.classifier.path else None

    def write(self, prompt: Prompt, raw: RawPrompt) -> Demo | None:
        """Return a demonstration that passes every filter, or None if no writer gives one in its tries."""
        return self.write_all([Job(prompt, raw)])[0]

    def write_all(self, jobs: Sequence[Job]) -> list[Demo | None]:
        """Return a demonstration, or None, for each; every try asks for all that still lack one at once."""
        done: list[Demo | None] = [None] * len(jobs)
        for writer in self.writers:
            open_ = [i for i, demo in enumerate(done) if demo is None]
            for attempt in range(self.settings.retries + 1):
                drafts = writer([jobs[i] for i in open_], self.seed, attempt) if open_ else []
                offered = [(i, self._tidy(draft)) for i, draft in zip(open_, drafts, strict=True) if draft]
                safe = self._safe([(jobs[i].prompt, draft) for i, draft in offered])
                for (i, draft), verdict in zip(offered, safe, strict=True):
                    done[i] = self._judge(jobs[i].prompt, draft, verdict)
                open_ = [i for i, _ in offered if done[i] is None]
        return done

    def _safe(self, offered: Sequence[tuple[Prompt, RawDemo]]) -> list[bool | None]:
        if self.classifier is None:
            return [None] * len(offered)
        return [*self.classifier.safe([(prompt.text, draft.answer) for prompt, draft in offered])]

    def _judge(self, prompt: Prompt, draft: RawDemo, safe: bool | None) -> Demo | None:
        self.tried += 1
        filters = apply_filters(prompt, draft, self.settings)
        if safe is not None:
            filters["safe"] = safe
        if self.near is not None and prompt.kind != "task" and all(filters.values()):
            grams = ngrams(words(draft.answer), NEAR_N)
            filters["distinct"] = self.near.add((prompt.kind, prompt.category), grams)
        if all(filters.values()):
            self.accepted += 1
            return self._record(prompt, draft, filters)
        self.failed.update(name for name, passed in filters.items() if not passed)
        self.rejected_by_template[f"{draft.generator}/{_template(draft.template_id)}"] += 1
        return None

    def _tidy(self, draft: RawDemo) -> RawDemo:
        answer, template = normalise_text(draft.answer), draft.template_id
        if self.settings.trim and len(words(answer)) > self.settings.reply_max_words:
            answer, template = trim_reply(answer, self.settings.reply_max_words), f"{template}-trimmed"
        return RawDemo(list(draft.drafts), answer, draft.verdict, draft.generator, template)

    def _record(self, prompt: Prompt, draft: RawDemo, filters: dict[str, bool]) -> Demo:
        return Demo(
            demo_id=f"demo-{prompt.prompt_id}",
            prompt_id=prompt.prompt_id,
            category=prompt.category,
            drafts=draft.drafts,
            answer=draft.answer,
            full_text=full_text(draft.drafts, draft.answer),
            verdict=draft.verdict,
            generator=draft.generator,
            template_id=draft.template_id,
            n_tok_draft=sum(len(words(note)) for note in draft.drafts),
            n_tok_answer=len(words(draft.answer)),
            filters=filters,
            seed=self.seed,
        )


def _template(identity: str) -> str:
    """Return a template id without what was drawn for one prompt."""
    return identity.partition("/")[0]
