"""Readers of prompts: one class per source, found by name in ``data.sources``.

A reader gives :class:`drirl.data.raw.RawPrompt` rows; what their labels mean is in ``taxonomy``, which
files they expect under ``data.root`` in docs/data.md. Evaluation files (``data.held_out``) are read here,
too: nothing near to them may be trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from drirl.data import grammar
from drirl.data.files import csv_rows, data_root, json_document, json_rows, text_field
from drirl.data.raw import UNLABELLED, Corpus, RawDemo, RawPrompt
from drirl.data.settings import DataSettings
from drirl.data.taxonomy import CATEGORIES, category_index, map_catqa, map_do_not_answer
from drirl.errors import DrirlError, nearest
from drirl.records import BENIGN

__all__ = ["HELD_OUT", "SOURCES", "Source", "bundled_corpus", "collect", "read_held_out"]


class Source(Protocol):
    """A reader; ``name`` is its word in ``data.sources``."""

    name: str

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        """Return every prompt of the source, in file order, and base-corpus rows of its own."""
        ...


_built: dict[tuple[int, str], Corpus] = {}


def bundled_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Return what the bundled grammar builds for ``data.bundled``; kept, as a build takes seconds."""
    key = (seed, settings.bundled.model_dump_json())
    if key not in _built:
        _built.clear()
        _built[key] = grammar.build(seed, settings.bundled)
    return _built[key]


class Bundled:
    """The grammar in ``drirl/data/corpus``: every kind of prompt, splits fixed by the grammar."""

    name = "bundled"
    kinds: frozenset[str] = frozenset({"harmful", "benign", "contrast", "task"})

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        return Corpus([p for p in bundled_corpus(settings, seed).prompts if p.kind in self.kinds])


class BundledBenign(Bundled):
    """The benign, contrast and task prompts of the bundled grammar, to go with real harmful prompts."""

    name = "bundled_benign"
    kinds = frozenset({"benign", "contrast", "task"})


class BundledTasks(Bundled):
    """The contrast and task prompts of the bundled grammar, to go with real harmful and benign prompts."""

    name = "bundled_tasks"
    kinds = frozenset({"contrast", "task"})


_DNA_QUESTIONS = "do_not_answer/do_not_answer_en.csv"
_DNA_COLUMNS = ("id", "types_of_harm", "specific_harms", "question")
_DNA_RESPONSES = "do_not_answer/human_annotated_responses/annotated_response_{}.csv"
_DNA_MODELS = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
_ACTIONS = {
    # action code: (rank, verdict, plan, rule); 5 follows the instruction and is never a demonstration
    "0": (0, "refuse", "decline", "decline such requests"),
    "1": (1, "redirect", "redirect", "correct the false premise"),
    "3": (2, "redirect", "redirect", "warn, point to experts"),
    "4": (3, "refuse", "decline", "say what is unknown"),
    "2": (4, "redirect", "redirect", "show both sides"),
}


class DoNotAnswer:
    """Do-Not-Answer (arXiv 2308.13387): 844 prompts; the 95 stereotype items stay an evaluation set.

    The labelled responses with ``harmful`` 0 come along as answers, best action first: 0, 1, 3, 4, 2.
    """

    name = "do_not_answer"

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        root = data_root(settings.root, self.name)
        answers = self._answers(root, seed) if settings.writer == "human" else {}
        prompts = []
        for where, row in csv_rows(root / _DNA_QUESTIONS, _DNA_COLUMNS):
            mapping = map_do_not_answer(row["types_of_harm"], row["specific_harms"], where)
            if mapping.category is None:
                continue
            specific = row["specific_harms"].partition(":")[0].strip()
            prompts.append(
                RawPrompt(
                    text=text_field(row, "question", where),
                    category=mapping.category,
                    source=self.name,
                    source_id=row["id"],
                    source_label=f"{row['types_of_harm'].strip()} / {specific}",
                    weak_map=mapping.weak,
                    answers=tuple(
                        RawDemo(
                            _notes(specific, mapping.category, rule, plan), text, verdict, generator, template
                        )
                        for text, verdict, generator, template, rule, plan in answers.get(row["id"], [])
                    ),
                )
            )
        return Corpus(prompts)

    def _answers(self, root: Path, seed: int) -> dict[str, list[tuple[str, str, str, str, str, str]]]:
        found: dict[str, list[tuple[tuple[int, float], tuple[str, str, str, str, str, str]]]] = {}
        for model in _DNA_MODELS:
            path = root / _DNA_RESPONSES.format(model)
            for where, row in csv_rows(path, ("id", "response", "harmful", "action")):
                if row["harmful"] not in ("0", "1") or row["action"] not in ("0", "1", "2", "3", "4", "5"):
                    raise DrirlError(
                        f"{where}: expected harmful 0 or 1 and action 0 to 5, "
                        f"found '{row['harmful']}' and '{row['action']}'"
                    )
                if row["harmful"] == "1" or row["action"] not in _ACTIONS or not row["response"].strip():
                    continue
                rank, verdict, plan, rule = _ACTIONS[row["action"]]
                draw = random.Random(f"{seed}/answers/{row['id']}/{model}").random()
                answer = (
                    row["response"],
                    verdict,
                    f"labelled:{model}",
                    f"action-{row['action']}",
                    rule,
                    plan,
                )
                found.setdefault(row["id"], []).append(((rank, draw), answer))
        return {key: [answer for _, answer in sorted(rows)] for key, rows in found.items()}


def _notes(wants: str, category: int, rule: str, plan: str) -> list[str]:
    risk = "none" if category == BENIGN else CATEGORIES[category].risk
    short = " ".join(wants.lower().replace("/", " or ").split()[:5])
    return [f"wants: {short}", f"risk: {risk}", f"rule: {rule}", f"plan: {plan}"]


class CatQA:
    """CategoricalHarmfulQA, English (arXiv 2402.11746): nested category -> topic -> questions, no replies."""

    name = "catqa"

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        path = data_root(settings.root, self.name) / "catqa/catqa_english.json"
        tree = json_document(path)
        prompts = []
        for category, topics in _mapping(tree, str(path)).items():
            for topic, questions in _mapping(topics, f"{path}: {category}").items():
                where = f"{path}: {category} / {topic}"
                mapping = map_catqa(category, topic, where)
                if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
                    raise DrirlError(f"{where}: expected a list of questions")
                for number, question in enumerate(questions):
                    prompts.append(
                        RawPrompt(
                            text=question.removesuffix(" No"),  # a stray label closes a few questions
                            category=mapping.category if mapping.category is not None else UNLABELLED,
                            source=self.name,
                            source_id=f"{category}/{topic.rstrip(':')}/{number}",
                            source_label=f"{category} / {topic.rstrip(':')}",
                            weak_map=mapping.weak,
                        )
                    )
        return Corpus(prompts)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DrirlError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


class SelfInstruct:
    """Self-Instruct (arXiv 2212.10560): 175 seed tasks and 252 user-oriented instructions with answers."""

    name = "self_instruct"

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        root = data_root(settings.root, self.name) / "self_instruct"
        prompts = []
        for file in ("seed_tasks.jsonl", "user_oriented_instructions.jsonl"):
            for where, row in json_rows(root / file):
                instances = row.get("instances")
                if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
                    raise DrirlError(f"{where}: field 'instances' should be a list with an object in it")
                instruction = text_field(row, "instruction", where)
                context = text_field(instances[0], "input", where, empty=True)
                reply = text_field(instances[0], "output", where, empty=True)
                if reply.strip():
                    identity = text_field(row, "id", where)
                    prompts.append(_benign(self.name, identity, file, instruction, context, reply))
        return Corpus(prompts)


class Dolly:
    """A 2000-row sample of Dolly: human-written instructions and answers."""

    name = "dolly"

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        path = data_root(settings.root, self.name) / "dolly/dolly_2000_sample.json"
        rows = json_document(path)
        if not isinstance(rows, list):
            raise DrirlError(f"{path}: expected a JSON list, found {type(rows).__name__}")
        prompts = []
        for number, row in enumerate(rows):
            where = f"{path}: item {number}"
            if not isinstance(row, dict):
                raise DrirlError(f"{where}: expected a JSON object, found {type(row).__name__}")
            instruction = text_field(row, "instruction", where)
            context = text_field(row, "input", where, empty=True)
            reply = text_field(row, "output", where, empty=True)
            if reply.strip():
                prompts.append(_benign(self.name, str(number), "", instruction, context, reply))
        return Corpus(prompts)


def _benign(source: str, identity: str, label: str, instruction: str, context: str, reply: str) -> RawPrompt:
    wants = " ".join(w.strip(".,;:!?\"'()").lower() for w in instruction.split()[:4])
    demo = RawDemo(
        _notes(wants, BENIGN, "answer plainly", "answer"), reply, "answer", f"human:{source}", "written"
    )
    return RawPrompt(
        text=f"{instruction}\n{context}" if context.strip() else instruction,
        kind="benign",
        source=source,
        source_id=identity,
        source_label=label,
        answers=(demo,),
    )


_LOCAL_FIELDS = {"text", "category", "kind", "level", "intent", "wording", "split", "reference", "checker"}
_LOCAL_FIELDS |= {"answer", "drafts", "id", "label", "lang"}
_KINDS = ("harmful", "benign", "contrast", "task")


class LocalFile:
    """A JSON-lines file of one's own: ``text``, and if known ``category`` (number, slug or name) and more.

    A harmful prompt without a category is classified. ``answer`` is a safe (or helpful) reply to it.
    """

    def __init__(self, path: str) -> None:
        self.name = Path(path).stem
        self.path = path

    def collect(self, settings: DataSettings, seed: int) -> Corpus:
        path = Path(self.path)
        if not path.is_file() and settings.root and "${" not in settings.root:
            path = Path(settings.root) / self.path
        prompts = []
        for where, row in json_rows(path):
            for key in sorted(set(row) - _LOCAL_FIELDS):
                raise DrirlError(f"{where}: unknown field '{key}'; {nearest(key, _LOCAL_FIELDS)}")
            prompts.append(self._prompt(row, where))
        return Corpus(prompts)

    def _prompt(self, row: dict[str, Any], where: str) -> RawPrompt:
        given = row.get("category")
        category = UNLABELLED if given is None else category_index(given, where)
        kind = row.get("kind", "benign" if category == BENIGN else "harmful")
        if kind not in _KINDS:
            raise DrirlError(f"{where}: unknown kind '{kind}'; {nearest(str(kind), _KINDS)}")
        if kind != "harmful":
            category = BENIGN
        elif category == BENIGN:
            raise DrirlError(f"{where}: a harmful prompt cannot have the category benign")
        if row.get("split", "") not in ("", "train", "val", "test"):
            raise DrirlError(f"{where}: field 'split' should be train, val, test or absent")
        names = ("level", "intent", "wording", "split", "lang", "reference", "checker")
        given_fields: dict[str, Any] = {name: text_field(row, name, where) for name in names if row.get(name)}
        answers: tuple[RawDemo, ...] = ()
        if row.get("answer"):
            plan = "answer" if category == BENIGN else "decline"
            drafts = row.get("drafts") or _notes(
                "what the message says", max(category, BENIGN), "be safe", plan
            )
            verdict = "answer" if category == BENIGN else "refuse"
            answers = (
                RawDemo(drafts, text_field(row, "answer", where), verdict, f"human:{self.name}", "written"),
            )
        return RawPrompt(
            text=text_field(row, "text", where),
            category=category,
            kind=kind,
            source=self.name,
            source_id=str(row.get("id", where.rpartition(":")[2])),
            source_label=str(row.get("label", "")),
            category_origin="manual",
            answers=answers,
            **given_fields,
        )


SOURCES: dict[str, type[Source]] = {
    reader.name: reader
    for reader in (Bundled, BundledBenign, BundledTasks, DoNotAnswer, CatQA, SelfInstruct, Dolly)
}


def collect(settings: DataSettings, seed: int) -> Corpus:
    """Read every source in the order of ``data.sources``.

    Raises:
        DrirlError: unknown source, a missing or malformed file (with its line), a source without prompts.
    """
    prompts: list[RawPrompt] = []
    for name in settings.sources:
        if name not in SOURCES and not name.endswith(".jsonl"):
            raise DrirlError(
                f"data.sources: unknown source '{name}'; {nearest(name, SOURCES)}, or a .jsonl file"
            )
        reader: Source = SOURCES[name]() if name in SOURCES else LocalFile(name)
        found = reader.collect(settings, seed)
        if not found.prompts:
            raise DrirlError(f"data.sources: '{name}' gave no prompts; its file is empty")
        prompts += found.prompts
    base = bundled_corpus(settings, seed).base if settings.base_bundled else []
    return Corpus(prompts, base)


def _xstest(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in csv_rows(root / "xstest/xstest_prompts.csv", ("id", "prompt")):
        yield row["id"], text_field(row, "prompt", where)


def _strongreject(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in csv_rows(root / "strongreject/strongreject_dataset.csv", ("forbidden_prompt",)):
        yield where.rpartition(":")[2], text_field(row, "forbidden_prompt", where)


def _stereotype(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in csv_rows(root / _DNA_QUESTIONS, _DNA_COLUMNS):
        if map_do_not_answer(row["types_of_harm"], row["specific_harms"], where).category is None:
            yield row["id"], text_field(row, "question", where)


def _gsm8k(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in json_rows(root / "gsm8k/test.jsonl"):
        yield where.rpartition(":")[2], text_field(row, "question", where)


def _simpleqa(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in csv_rows(root / "simpleqa/simpleqa_full_dataset.csv", ("problem",)):
        yield where.rpartition(":")[2], text_field(row, "problem", where)


def _truthfulqa(root: Path) -> Iterator[tuple[str, str]]:
    path = root / "truthfulqa/mc_task.json"
    entries = json_document(path)
    if not isinstance(entries, list):
        raise DrirlError(f"{path}: expected a list of questions, found {type(entries).__name__}")
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise DrirlError(f"{where}: expected an object, found {type(entry).__name__}")
        yield str(number), text_field(entry, "question", where)


def _hhh(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in json_rows(root / "hhh_alignment/hhh_alignment_pairs.jsonl"):
        yield where.rpartition(":")[2], text_field(row, "instruction", where)


def _decodingtrust(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in csv_rows(root / "decodingtrust_stereotype/user_prompts.csv", ("user_prompt",)):
        yield where.rpartition(":")[2], text_field(row, "user_prompt", where)


def _advglue(root: Path) -> Iterator[tuple[str, str]]:
    path = root / "advglue/dev.json"
    table = json_document(path)
    if not isinstance(table, dict):
        raise DrirlError(f"{path}: expected an object of lists, found {type(table).__name__}")
    for part, entries in table.items():
        for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
            texts = [v for k, v in entry.items() if isinstance(v, str)] if isinstance(entry, dict) else []
            if not texts:
                raise DrirlError(f"{path}: {part}, entry {number}: expected an object with texts")
            yield f"{part}/{number}", "\n".join(texts)


def _jailbreak(root: Path) -> Iterator[tuple[str, str]]:
    for where, row in json_rows(root / "jailbreak/published.jsonl"):
        yield where.rpartition(":")[2], text_field(row, "attack", where)


HELD_OUT: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "xstest": _xstest,
    "strongreject": _strongreject,
    "do_not_answer_stereotype": _stereotype,
    "gsm8k": _gsm8k,
    "simpleqa": _simpleqa,
    "truthfulqa": _truthfulqa,
    "hhh": _hhh,
    "decodingtrust": _decodingtrust,
    "advglue": _advglue,
    "jailbreak_published": _jailbreak,
}
"""Evaluation files under ``data.root``: name -> reader of (id, text)."""


def read_held_out(settings: DataSettings) -> list[tuple[str, str]]:
    """Return ``(name/id, text)`` of every configured evaluation file.

    The stereotype items are added by themselves when Do-Not-Answer is a source.
    """
    names = list(settings.held_out)
    if "do_not_answer" in settings.sources and "do_not_answer_stereotype" not in names:
        names.append("do_not_answer_stereotype")
    items = []
    for name in names:
        if name not in HELD_OUT:
            raise DrirlError(f"data.held_out: unknown evaluation file '{name}'; {nearest(name, HELD_OUT)}")
        items += [(f"{name}/{key}", text) for key, text in HELD_OUT[name](data_root(settings.root, name))]
    return items
