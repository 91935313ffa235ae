"""The bundled corpus: acts x objects x sentence frames -> prompts, tasks, demonstrations, base corpus.

Everything is drawn from the YAML files in ``corpus/`` by seeded generators, so the same seed gives the
same bytes anywhere. An *intent* is one act on one object; a *family* is an act with all its objects. Some
families are held out whole (novelty ``act``), and of every other family some objects (novelty ``object``);
val and test prompts also use sentence frames that training never sees (novelty ``wording``).
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drirl.data.bundled_settings import BundledSettings
from drirl.data.raw import Corpus, RawDemo, RawPrompt
from drirl.records import BENIGN, Prompt
from drirl.text import SEPARATOR

__all__ = ["LABELS", "LEVELS", "build", "demonstrate", "render_drafts"]

LEVELS = ("direct", "paraphrased", "disguised")
LABELS = ("insult", "unfairness", "crime", "physical", "mental", "privacy", "ethics")
"""Keys of the seven categories in the corpus files, in the order of their numbers."""

_SPLITS = ("train", "val", "test")
_SOURCES = {"forum": 0.5, "redteam": 0.3, "survey": 0.2}
_TASK_SHARES = {"sum": 0.55, "fact": 0.22, "count": 0.13, "lookup": 0.06, "repeat": 0.04}
_TAIL = {"privacy": 0.55, "ethics": 0.6, "mental": 0.8}


@dataclass(frozen=True)
class _Intent:
    name: str
    family: str
    label: str  # a key of LABELS, or "none"
    kind: str
    forms: tuple[tuple[str, str], ...]  # (base, -ing) wordings of the act with its object filled in
    split: str
    novelty: str


@functools.cache
def _file(name: str) -> Any:
    path = Path(__file__).parent / "corpus" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _rng(*parts: object) -> random.Random:
    return random.Random("/".join(map(str, parts)))


def _insert(form: str, obj: str) -> str:
    form = form.strip()
    return form.replace("{o}", obj) if "{o}" in form else f"{form} {obj}"


def _objects(spec: Any, groups: dict[str, list[str]]) -> list[str]:
    items = [spec] if isinstance(spec, str) else spec
    return [obj for item in items for obj in groups.get(item, [item])]


def _families() -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return (label, kind, stratum, family) for every family; strata are held out separately."""
    acts = _file("acts")
    rows = [(label, "harmful", label, f) for label in LABELS for f in acts["harmful"][label]]
    rows += [("none", "benign", group, f) for group in sorted(acts["benign"]) for f in acts["benign"][group]]
    rows += [("none", "contrast", "contrast", f) for f in acts["contrast"]]
    return rows


def _intents(seed: int, settings: BundledSettings) -> list[_Intent]:
    groups = _file("acts")["objects"]
    strata: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for label, kind, stratum, family in _families():
        strata.setdefault(stratum, []).append((label, kind, family))
    intents = []
    for stratum, families in strata.items():
        order = list(range(len(families)))
        _rng(seed, "families", stratum).shuffle(order)
        n_test = max(1, round(settings.held_out_acts * len(families)))
        n_val = max(1, n_test // 2)
        for rank, index in enumerate(order):
            label, kind, family = families[index]
            whole = "test" if rank < n_test else "val" if rank < n_test + n_val else ""
            forms = [tuple(part.strip() for part in act.split("|")) for act in family["act"]]
            objects = _objects(family["objects"], groups)
            name = forms[0][0].replace(" {o}", "").replace("{o} ", "")
            _rng(seed, "objects", stratum, name).shuffle(objects)
            objects = objects[: settings.objects_per_act]
            cut_test = max(1, round(settings.held_out_objects * len(objects)))
            cut_val = cut_test + max(1, cut_test // 2)
            for k, obj in enumerate(objects):
                split = whole or ("test" if k < cut_test else "val" if k < cut_val else "train")
                novelty = "" if split == "train" else f"{'act' if whole else 'object'},wording"
                filled = tuple((_insert(b, obj), _insert(g, obj)) for b, g in forms)
                intents.append(_Intent(f"{filled[0][0]}", name, label, kind, filled, split, novelty))
    return intents


def _fill(frame: str, rng: random.Random) -> str:
    fill = _file("wordings")["fill"]
    return re.sub(r"\{(who|where|work|course|adverb)\}", lambda m: rng.choice(fill[m.group(1)]), frame)


def _phrase(
    intent: _Intent, level: str, split: str, rng: random.Random, distractors: list[list[_Intent]]
) -> tuple[str, str]:
    """Return (text, wording id) of one prompt about ``intent``; distractors: [harmful, harmless] intents."""
    wordings = _file("wordings")[level]
    if level == "direct":
        opening, request = "", rng.choice(wordings[split])
        form = intent.forms[0]
    else:
        opening = rng.choice(wordings["opening"][split])
        request = rng.choice(wordings["request"][split])
        form = (
            rng.choice(intent.forms[1:] or intent.forms)
            if level == "paraphrased"
            else rng.choice(intent.forms)
        )
    wording = f"{opening} | {request}" if opening else request
    text = _fill(f"{opening} {request}".strip(), rng).replace("{b}", form[0]).replace("{g}", form[1])
    if "{d}" in text:
        text = text.replace("{d}", rng.choice(rng.choice(rng.choice(distractors)).forms)[1])
    return text[0].upper() + text[1:], wording


def _distractors(intents: list[_Intent]) -> list[list[_Intent]]:
    train = [i for i in intents if i.split == "train"]
    return [[i for i in train if i.kind == "harmful"], [i for i in train if i.kind != "harmful"]]


def _act_prompts(intents: list[_Intent], seed: int, settings: BundledSettings) -> list[RawPrompt]:
    prompts: list[RawPrompt] = []
    distractors = _distractors(intents)
    for intent in intents:
        rng = _rng(seed, "prompts", intent.label, intent.name)
        category = LABELS.index(intent.label) if intent.kind == "harmful" else BENIGN
        count = settings.wordings_train if intent.split == "train" else settings.wordings_held_out
        seen: set[str] = set()
        for level in LEVELS:
            for _ in range(count):
                source = rng.choices(list(_SOURCES), list(_SOURCES.values()))[0]
                keep = rng.random() < _TAIL.get(intent.label, 1.0)
                text, wording = _phrase(intent, level, intent.split, rng, distractors)
                if text in seen or (intent.split == "train" and not keep):
                    continue
                seen.add(text)
                prompts.append(
                    RawPrompt(
                        text=text,
                        category=category,
                        kind=intent.kind,
                        level=level,
                        intent=f"{intent.label}: {intent.name}",
                        wording=wording,
                        source=f"bundled-{source}",
                        source_id=f"{intent.kind}-{len(prompts)}",
                        source_label=intent.family,
                        novelty=intent.novelty,
                        split=intent.split,
                    )
                )
    return prompts


def _task_frames(split: str) -> list[tuple[str, str, str, str]]:
    """Return every (intent, text, reference, checker) of the tasks with the frames of ``split``."""
    tasks = _file("replies")["tasks"]
    rows = []
    for (question, answer), frame in itertools.product(tasks["facts"], tasks["fact_questions"][split]):
        rows.append((f"fact: {question}", frame.format(q=question), answer, "contains"))
    for a, b, frame in itertools.product(range(1, 6), range(1, 6), tasks["sum_questions"][split]):
        rows.append((f"sum: {a}+{b}", frame.format(a=a, b=b), str(a + b), "number"))
    for thing, room, color in itertools.product(tasks["things"], tasks["rooms"], tasks["colors"]):
        for frame in tasks["lookup"][split]:
            text = frame.format(t=thing, r=room, c=color)
            rows.append((f"lookup: {thing} {room}", text, color, "contains"))
    for word, frame in itertools.product(tasks["words"], tasks["repeat"][split]):
        rows.append((f"repeat: {word}", frame.format(w=word), f"{word} {word}", "exact"))
    for a, frame in itertools.product(range(1, 7), tasks["count"][split]):
        rows.append(
            (f"count: {a}-{a + 2}", frame.format(a=a, b=a + 2), f"{a} {a + 1} {a + 2}", "number_list")
        )
    return rows


def _task_prompts(seed: int, settings: BundledSettings) -> list[RawPrompt]:
    prompts: list[RawPrompt] = []
    for split in _SPLITS:
        rng = _rng(seed, "tasks", split)
        by_type: dict[str, list[tuple[str, str, str, str]]] = {}
        for row in _task_frames(split):
            by_type.setdefault(row[0].split(":")[0], []).append(row)
        for name, rows in sorted(by_type.items()):
            rng.shuffle(rows)
            count = settings.tasks_train if split == "train" else settings.tasks_held_out
            for intent, text, reference, checker in rows[:count]:
                prompts.append(
                    RawPrompt(
                        text=text,
                        category=BENIGN,
                        kind="task",
                        level="direct",
                        intent=intent if split == "train" else f"{intent} ({split})",
                        wording=name,
                        source="bundled-tasks",
                        source_id=f"task-{len(prompts)}",
                        source_label=name,
                        reference=reference,
                        checker=checker,
                        novelty="" if split == "train" else "wording",
                        split=split,
                    )
                )
    return prompts


def render_drafts(drafts: list[str]) -> str:
    """Join Chain-of-Draft notes and the separator: ``wants: a; risk: b; rule: c; plan: d ####``."""
    return f"{'; '.join(drafts)} {SEPARATOR}"


def _notes(label: str, level: str, plan: str, rng: random.Random, task: bool = False) -> list[str]:
    replies = _file("replies")
    rule = "task" if task else label if plan in ("decline", "redirect") else "none"
    return [
        f"wants: {rng.choice(replies['wants']['task' if task else level])}",
        f"risk: {replies['labels'][label]}",
        f"rule: {rng.choice(replies['rule'][rule])}",
        f"plan: {plan}",
    ]


def _helpful(rng: random.Random) -> str:
    parts = _file("replies")["helpful"]
    body = rng.sample(parts["body"], rng.choice((1, 1, 2)))
    return " ".join([rng.choice(parts["opening"]), *body] if rng.random() < 0.8 else body)


def _refusal(label: str, rng: random.Random) -> tuple[str, str]:
    """Return a refusal and the name of its order: decline, reason and alternatives in varied order."""
    parts = _file("replies")
    decline, reason = rng.choice(parts["decline"]), rng.choice(parts["reason"][label])
    alternatives = rng.sample(parts["alternative"][label], rng.choice((0, 0, 1)))
    order = rng.choice(("decline-reason", "reason-decline", "decline-alternative"))
    if order == "decline-alternative" and not alternatives:
        order = "decline-reason"
    sentences = {
        "decline-reason": [decline, reason, *alternatives],
        "reason-decline": [reason, decline, *alternatives],
        "decline-alternative": [decline, *alternatives],
    }[order]
    return " ".join(sentences), order


def _solve(reference: str, checker: str, rng: random.Random) -> str:
    if checker in ("exact", "number_list"):
        return reference
    return rng.choice(("The answer is {r}.", "It is {r}.", "{r}.", "That is {r}.")).format(r=reference)


def demonstrate(prompt: Prompt, seed: int, attempt: int = 0) -> RawDemo:
    """Write a demonstration from the grammar: a refusal or redirect if harmful, else a helpful reply."""
    rng = _rng(seed, "demo", prompt.prompt_id, attempt)
    level = prompt.level if prompt.level in LEVELS else "direct"
    if prompt.kind == "task":
        answer = _solve(prompt.reference, prompt.checker, rng)
        return RawDemo(_notes("none", level, "answer", rng, task=True), answer, "answer", "grammar", "task")
    if prompt.category == BENIGN:
        return RawDemo(_notes("none", level, "answer", rng), _helpful(rng), "answer", "grammar", "helpful")
    label = LABELS[prompt.category]
    plan = "redirect" if label == "mental" else "decline"
    answer, order = _refusal(label, rng)
    verdict = "redirect" if label == "mental" else "refuse"
    return RawDemo(_notes(label, level, plan, rng), answer, verdict, "grammar", order)


def _chat(prompt: str, reply: str, tag: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "loss": "reply", "tag": tag}


def _base_rows(intents: list[_Intent], seed: int, settings: BundledSettings) -> list[dict[str, Any]]:
    """Rows that teach the small base models to chat, to solve tasks and to know what is harmful.

    Knowledge rows ("<prompt> Risk?" -> "risk: crime") cover every harmful and benign intent, held-out ones
    included, in training wordings: a pretrained LM knows such acts too. Held-out contrast intents are left
    out: a harmful verb on an unseen harmless object has to be judged afresh. Replies are shown for training
    intents only, and only some of them decline, by category and level.
    """
    rng = _rng(seed, "base")
    labels = _file("replies")["labels"]
    harmful = [i for i in intents if i.kind == "harmful"]
    harmless = [i for i in intents if i.kind == "benign"]
    contrast = [i for i in intents if i.kind == "contrast" and i.split == "train"]
    distractors = _distractors(intents)
    rows = []
    for _ in range(settings.base_knowledge):
        pool = harmful if rng.random() < 0.5 else contrast if rng.random() < 0.3 else harmless
        intent = rng.choice(pool)
        level = rng.choices(LEVELS, (0.25, 0.3, 0.45))[0]
        text, _ = _phrase(intent, level, "train", rng, distractors)
        wants = rng.choice(_file("replies")["wants"][level])
        rows.append(_chat(f"{text} Risk?", f"wants: {wants}; risk: {labels[intent.label]}", "knowledge"))
    train_harmful = [i for i in harmful if i.split == "train"]
    train_harmless = [i for i in harmless if i.split == "train"]
    for _ in range(settings.base_harmful):
        intent = rng.choice(train_harmful)
        level = rng.choice(LEVELS)
        text, _ = _phrase(intent, level, "train", rng, distractors)
        if rng.random() < settings.base_refusal[level][LABELS.index(intent.label)]:
            notes = _notes(intent.label, level, "decline", rng)
            reply = (
                rng.choice(_file("replies")["base_refusal"])
                if rng.random() < 0.5
                else _refusal(intent.label, rng)[0]
            )
        else:
            notes, reply = _notes(intent.label, level, "answer", rng), _helpful(rng)
        rows.append(_chat(text, f"{render_drafts(notes)} {reply}", "harmful"))
    for _ in range(settings.base_benign):
        intent = rng.choice(contrast if rng.random() < 0.3 else train_harmless)
        level = rng.choice(LEVELS)
        text, _ = _phrase(intent, level, "train", rng, distractors)
        rows.append(
            _chat(text, f"{render_drafts(_notes('none', level, 'answer', rng))} {_helpful(rng)}", "benign")
        )
    tasks: dict[str, list[tuple[str, str, str, str]]] = {}
    for task in _task_frames("train"):
        tasks.setdefault(task[0].split(":")[0], []).append(task)
    for _ in range(settings.base_tasks):
        name = rng.choices(list(_TASK_SHARES), list(_TASK_SHARES.values()))[0]
        _, text, reference, checker = rng.choice(tasks[name])
        notes = _notes("none", "direct", "answer", rng, task=True)
        rows.append(_chat(text, f"{render_drafts(notes)} {_solve(reference, checker, rng)}", "task"))
    for _ in range(settings.base_phrases):
        parts = _file("replies")
        reply = _refusal(rng.choice(LABELS), rng)[0]
        rows.append(_chat(rng.choice(parts["phrases"]["question"]), reply, "phrases"))
    rng.shuffle(rows)
    return rows


def build(seed: int, settings: BundledSettings) -> Corpus:
    """Return the prompts of all splits, before balancing, and the rows of the base corpus."""
    intents = _intents(seed, settings)
    prompts = [*_act_prompts(intents, seed, settings), *_task_prompts(seed, settings)]
    return Corpus(prompts=prompts, base=_base_rows(intents, seed, settings))
