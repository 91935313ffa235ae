"""Stage ``data``: collect, classify, clean, cluster, split, demonstrate, balance, check for leaks, report.

Writes ``out/data/``: ``prompts.jsonl``, ``demos.jsonl``, ``base_corpus.jsonl``, the imbalanced control
(``imbalanced.jsonl``, ``imbalanced_demos.jsonl``), ``report.json``, ``datasheet.md`` and ``manifest.json``;
with ``data.disjoint`` also ``halves.json``. The folder is written whole or not at all, and is the same bytes
for the same settings and files (and, where an LLM writes, the same cache of replies).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl.data.agreement import compare_labels
from drirl.data.balance import Candidate, Drawer, imbalanced_counts, round_robin
from drirl.data.cluster import Embedder, classify, cluster_ids
from drirl.data.demonstrate import Demonstrator, Job
from drirl.data.generators import open_generator
from drirl.data.leaks import RULES, LeakIndex, attack_texts, verify
from drirl.data.normalise import drop_duplicates, with_text, words
from drirl.data.paraphrase import ROUNDS, Paraphraser
from drirl.data.raw import RawPrompt
from drirl.data.report import balance_figures, datasheet, demo_figures, prompt_figures, shares
from drirl.data.settings import DataSettings
from drirl.data.sources import bundled_corpus, collect, read_held_out
from drirl.data.split import HALVES, HALVES_FILE, SPLITS, assign_splits, halve
from drirl.data.taxonomy import CATEGORIES, category_name
from drirl.errors import DrirlError
from drirl.records import BENIGN, Demo, Prompt, atomic_dir, prompt_id, write_json, write_jsonl
from drirl.resources import Meter

if TYPE_CHECKING:
    from drirl.config import Params

__all__ = ["Built", "build", "run"]

Group = tuple[str, int]
"""(kind, category): what is balanced and drawn together."""

_GROUPS: tuple[Group, ...] = (
    *(("harmful", category.index) for category in CATEGORIES),
    ("benign", BENIGN),
    ("contrast", BENIGN),
    ("task", BENIGN),
)


@dataclass(frozen=True)
class Built:
    """What the stage makes, before it is written."""

    prompts: list[Prompt]
    demos: list[Demo]
    imbalanced: list[Prompt]
    imbalanced_demos: list[Demo]
    base: list[dict[str, Any]]
    report: dict[str, Any]
    halves: dict[str, str] = field(default_factory=dict)
    spent: dict[str, Any] = field(default_factory=dict)
    """What an LLM took this time: differs between runs, so it goes to the cost file only."""


def run(params: Params) -> None:
    """Build the data of ``params.data`` and write it to ``out/data``."""
    meter = Meter("data", "data")
    built = build(params.data, params.run.seed)
    with atomic_dir(params.run.out / "data") as folder:
        write_built(built, folder)
    meter.generated_tokens = built.report.get("generator", {}).get("completion_tokens", 0)
    meter.write(params.run.out, **built.spent)


def write_built(built: Built, folder: Path) -> None:
    """Write every file of the stage into ``folder``; the manifest comes last."""
    rows = {
        "prompts.jsonl": write_jsonl(folder / "prompts.jsonl", built.prompts),
        "demos.jsonl": write_jsonl(folder / "demos.jsonl", built.demos),
        "imbalanced.jsonl": write_jsonl(folder / "imbalanced.jsonl", built.imbalanced),
        "imbalanced_demos.jsonl": write_jsonl(folder / "imbalanced_demos.jsonl", built.imbalanced_demos),
        "base_corpus.jsonl": write_jsonl(folder / "base_corpus.jsonl", built.base),
    }
    if built.halves:
        write_json(folder / HALVES_FILE, built.halves)
    write_json(folder / "report.json", built.report)
    (folder / "datasheet.md").write_text(datasheet(built.report), encoding="utf-8")
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": rows.get(path.name)}
        for path in sorted(folder.iterdir())
    }
    write_json(folder / "manifest.json", {"files": files})


def build(settings: DataSettings, seed: int) -> Built:
    """Build everything in memory.

    Raises:
        DrirlError: unknown source, unreadable file, an empty or short category, a leak that removal of
            training prompts cannot mend.
    """
    return _Builder(settings, seed).build()


class _Builder:
    """The state of one build: settings, encoder, writer and what was counted on the way."""

    def __init__(self, settings: DataSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.encode = Embedder(settings.encoder)
        uses_model = settings.fill == "paraphrase" or "model" in settings.writer
        self.generator = open_generator(settings.generator) if uses_model else None
        self.writer = Demonstrator(settings.writer, settings.demos, seed, self.generator)
        self.paraphraser: Paraphraser | None = None
        self.demos: dict[str, Demo] = {}
        self.bad: dict[str, str] = {}
        self.prompts: dict[str, Prompt] = {}
        self.dropped: Counter[str] = Counter()
        self.leaks: Counter[str] = Counter()
        self.held_out: list[tuple[str, str]] = []
        self.index: LeakIndex | None = None

    def build(self) -> Built:
        corpus = collect(self.settings, self.seed)
        self.held_out = read_held_out(self.settings)
        raw = self._clean(corpus.prompts)
        candidates = self._candidates(raw)
        if self.generator is not None and self.settings.fill == "paraphrase":
            self.paraphraser = Paraphraser(
                self.generator, self.settings, encode=self.encode, known=[p.text for p in raw], seed=self.seed
            )
        drawn = {split: self._draw_held_out(candidates, split) for split in ("val", "test")}
        items = [(f"{split} {c.prompt_id}", c.raw.text) for split in drawn for c in drawn[split]]
        self.index = LeakIndex(
            [*items, *self.held_out],
            settings=self.settings.leaks,
            encode=self.encode,
            attacks=attack_texts(),
        )
        drawers = {group: self._drawer(candidates, group, "train") for group in _GROUPS}
        drawn["train"] = [c for group in _GROUPS for c in self._draw_train(drawers[group], group)]
        imbalanced = self._draw_imbalanced([drawers[group] for group in _GROUPS if group[0] == "harmful"])
        prompts = [self._prompt(c) for split in SPLITS for c in drawn[split]]
        control = [self._prompt(c) for c in imbalanced]
        kept_out = [p for p in prompts if p.split != "train"]
        verify(prompts, self.index)
        verify([*control, *kept_out], self.index)
        demos = [self.demos[p.prompt_id] for p in prompts]
        base = [*corpus.base, *self._base_rows(candidates)]
        report = self._report(raw, candidates, prompts, demos, control, base)
        every = {p.prompt_id: p for p in (*prompts, *control)}
        halves = halve([*every.values()], self.seed) if self.settings.disjoint else {}
        self._add_options(report, prompts, halves)
        control_demos = [self.demos[p.prompt_id] for p in control]
        return Built(prompts, demos, control, control_demos, base, report, halves, self._spent())

    # -- collecting ------------------------------------------------------------------------------------

    def _clean(self, collected: Sequence[RawPrompt]) -> list[RawPrompt]:
        prompts = [with_text(p) for p in collected]
        if self.settings.fill == "bundled" and "bundled" not in self.settings.sources:
            filler = bundled_corpus(self.settings, self.seed).prompts
            prompts += [
                dataclasses.replace(with_text(p), synthetic=True)
                for p in filler
                if p.kind == "harmful" and p.split == "train"
            ]
        limit = self.settings.max_prompt_words
        if limit is not None:
            short = [p for p in prompts if len(words(p.text)) <= limit]
            self.dropped["too_long"] = len(prompts) - len(short)
            prompts = short
        prompts = classify(prompts, encode=self.encode, seed=self.seed)
        prompts, dropped = drop_duplicates(
            prompts,
            threshold=self.settings.duplicate_jaccard,
            cosine=self.settings.duplicate_cosine,
            encode=self.encode,
        )
        self.dropped += dropped
        return prompts

    def _candidates(self, raw: Sequence[RawPrompt]) -> list[Candidate]:
        clusters = cluster_ids(raw, encode=self.encode, seed=self.seed)
        splits = assign_splits(raw, clusters, shares=self.settings.split, seed=self.seed)
        return [
            Candidate(p, prompt_id(p.text), cluster, split)
            for p, cluster, split in zip(raw, clusters, splits, strict=True)
        ]

    # -- drawing ---------------------------------------------------------------------------------------

    def _drawer(self, candidates: Sequence[Candidate], group: Group, split: str) -> Drawer:
        members = [c for c in candidates if (c.raw.kind, c.raw.category) == group and c.split == split]
        label = f"{split}/{group[0]}/{group[1]}"
        order = round_robin([c for c in members if not c.raw.synthetic], seed=self.seed, label=label)
        order += round_robin([c for c in members if c.raw.synthetic], seed=self.seed, label=f"{label}/fill")
        whole = group[0] != "harmful"
        return Drawer(
            order,
            max_weak=1.0 if whole else self.settings.max_weak,
            max_synthetic=1.0 if whole else self.settings.max_synthetic,
        )

    def _wanted(self, group: Group, split: str) -> int | None:
        kind = group[0]
        if kind == "harmful":
            by_split = {
                "train": self.settings.per_category,
                "val": self.settings.per_category_val,
                "test": self.settings.per_category_test,
            }
            return by_split[split]
        counts = {
            "benign": self.settings.benign,
            "contrast": self.settings.contrast,
            "task": self.settings.tasks,
        }
        wanted: int | None = getattr(counts[kind], split)
        return wanted

    def _draw_held_out(self, candidates: Sequence[Candidate], split: str) -> list[Candidate]:
        drawn = []
        for group in _GROUPS:
            drawer = self._drawer(candidates, group, split)
            wanted = self._wanted(group, split)
            found = self._fill(drawer, wanted, short=True) or self._fill(drawer, wanted)
            self._check_count(drawer, found, group, split)
            drawn += found
        return drawn

    def _draw_train(self, drawer: Drawer, group: Group) -> list[Candidate]:
        wanted = self._wanted(group, "train")
        found = self._fill(drawer, wanted)
        if self.paraphraser is not None and group[0] == "harmful" and wanted is not None:
            found = self._paraphrase(drawer, found, wanted)
        self._check_count(drawer, found, group, "train")
        return found

    def _paraphrase(self, drawer: Drawer, found: list[Candidate], wanted: int) -> list[Candidate]:
        """Add paraphrases to ``drawer`` until it gives ``wanted`` prompts or the share is used up."""
        assert self.paraphraser is not None
        order = list(drawer.order)
        real = [c for c in order if not c.raw.synthetic and c.prompt_id not in drawer.rejected]
        real.sort(key=lambda c: c.raw.weak_map)  # stable: weakly mapped seeds last
        for turn in range(ROUNDS):
            room = floor(drawer.max_synthetic * wanted + 1e-9) - sum(c.raw.synthetic for c in found)
            missing = min(wanted - len(found), room)
            if missing <= 0 or not real:
                break
            order += self.paraphraser.fill(real, ceil(1.25 * missing), turn)
            drawer.order = order
            found = self._fill(drawer, wanted)
        return found

    def _draw_imbalanced(self, drawers: Sequence[Drawer]) -> list[Candidate]:
        total, s = len(CATEGORIES) * self.settings.per_category, self.settings.imbalance
        ideal = imbalanced_counts(total, s, [total] * len(CATEGORIES))
        available = [len(self._fill(d, count)) for d, count in zip(drawers, ideal, strict=True)]
        counts = imbalanced_counts(total, s, available)
        return [c for d, count in zip(drawers, counts, strict=True) for c in self._fill(d, count)[:count]]

    def _fill(self, drawer: Drawer, count: int | None, *, short: bool = False) -> list[Candidate]:
        """Draw until each prompt has a demonstration and, in training, is far from evaluation items."""
        while True:
            drawn = drawer.draw(count, short=short)
            bad = self._reject(drawn)
            if not bad:
                return drawn
            drawer.rejected.update(bad)

    def _reject(self, drawn: Sequence[Candidate]) -> dict[str, str]:
        new = [c for c in drawn if c.prompt_id not in self.demos and c.prompt_id not in self.bad]
        if self.index is not None:
            for c, hit in zip(new, self.index.find([c.raw.text for c in new]), strict=True):
                if hit is not None:
                    self.bad[c.prompt_id] = f"leak check ({hit[0]})"
                    self.leaks[hit[0]] += 1
        new = [c for c in new if c.prompt_id not in self.bad]
        written = self.writer.write_all([Job(self._prompt(c), c.raw) for c in new])
        for c, demo in zip(new, written, strict=True):
            if demo is None:
                self.bad[c.prompt_id] = "demonstration filters"
            else:
                self.demos[c.prompt_id] = demo
        return {c.prompt_id: self.bad[c.prompt_id] for c in drawn if c.prompt_id in self.bad}

    def _check_count(self, drawer: Drawer, found: Sequence[Candidate], group: Group, split: str) -> None:
        kind, category = group
        wanted = self._wanted(group, split)
        if kind == "harmful":
            name, setting = f"category '{category_name(category)}'", "data.per_category"
            setting += "" if split == "train" else f"_{split}"
            least = wanted if wanted is not None and split == "train" else 1
        else:
            name, setting = f"kind '{kind}'", f"data.{'tasks' if kind == 'task' else kind}.{split}"
            least = (wanted or 0) if split == "train" else 0
        if len(found) >= least:
            return
        weak = sum(c.raw.weak_map for c in drawer.order)
        synthetic = sum(c.raw.synthetic for c in drawer.order)
        reasons = Counter(drawer.rejected.values())
        lost = ", ".join(f"{n} lost to {reason}" for reason, n in sorted(reasons.items())) or "none lost"
        raise DrirlError(
            f"data: {name} has {len(found)} {split} prompts, {least} are needed ({len(drawer.order)} "
            f"collected, of them {weak} weakly mapped and {synthetic} filled in, of which data.max_weak and "
            f"data.max_synthetic let in a share; {lost}): lower {setting}, "
            "add a source or set data.fill (bundled fills in nothing where bundled is among the sources)"
        )

    # -- records ---------------------------------------------------------------------------------------

    def _prompt(self, c: Candidate) -> Prompt:
        if c.prompt_id not in self.prompts:
            names = {f.name for f in dataclasses.fields(Prompt)} & {
                f.name for f in dataclasses.fields(RawPrompt)
            }
            values = {name: getattr(c.raw, name) for name in names}
            values.update(prompt_id=c.prompt_id, cluster_id=c.cluster, split=c.split, seed=self.seed)
            self.prompts[c.prompt_id] = Prompt(**values)
        return self.prompts[c.prompt_id]

    def _base_rows(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """Chat rows of benign training prompts with a written reply, and what each training prompt risks."""
        if not self.settings.base_chat:
            return []
        real = [
            c
            for c in candidates
            if c.split == "train" and not c.raw.source.startswith("bundled") and not c.raw.synthetic
        ]
        bad = self._reject(real)
        rows = []
        for c in real:
            if c.prompt_id in bad:
                continue
            demo = self.demos[c.prompt_id]
            if c.raw.category == BENIGN:
                rows.append(_row(c.raw.text, demo.full_text, f"chat/{c.raw.source}"))
            risk = "; ".join(demo.drafts[:2])
            rows.append(_row(f"{c.raw.text} Risk?", risk, f"knowledge/{c.raw.source}"))
        return rows

    # -- report ----------------------------------------------------------------------------------------

    def _report(
        self,
        raw: Sequence[RawPrompt],
        candidates: Sequence[Candidate],
        prompts: Sequence[Prompt],
        demos: Sequence[Demo],
        control: Sequence[Prompt],
        base: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        harmful = [
            c for c in candidates if c.raw.kind == "harmful" and c.split == "train" and not c.raw.synthetic
        ]
        kinds = {p.prompt_id: p.kind for p in prompts}
        files = Counter(name.rpartition("/")[0] for name, _ in self.held_out)
        items = {f"{split} split": sum(p.split == split for p in prompts) for split in ("val", "test")}
        return {
            "seed": self.seed,
            "collected": {
                source: dict(sorted(Counter(p.kind for p in raw if p.source == source).items()))
                for source in sorted({p.source for p in raw})
            },
            "dropped": dict(sorted(self.dropped.items())),
            "classified": sum(p.category_origin == "classified" for p in raw),
            "before_balancing": {
                "train": balance_figures(Counter(c.raw.category for c in harmful)),
                "harmful_sources": shares(c.raw.source for c in harmful),
                "weak_share": round(sum(c.raw.weak_map for c in harmful) / len(harmful), 4),
            },
            "splits": prompt_figures(prompts),
            "imbalanced": {
                **balance_figures(Counter(p.category for p in control)),
                "total": len(control),
                "total_wanted": len(CATEGORIES) * self.settings.per_category,
                "s": self.settings.imbalance,
            },
            "leaks": {
                "evaluation_items": {**items, **dict(sorted(files.items()))},
                "removed": {rule: self.leaks[rule] for rule in RULES},
            },
            "demonstrations": {
                "tried": self.writer.tried,
                "accepted": self.writer.accepted,
                "acceptance_rate": round(self.writer.accepted / self.writer.tried, 4),
                "failed": dict(sorted(self.writer.failed.items())),
                "turned_down_templates": dict(sorted(self.writer.rejected_by_template.items())),
                "prompts_without": sum(why == "demonstration filters" for why in self.bad.values()),
                "groups": demo_figures(demos, kinds, self.seed),
            },
            "base_corpus": _base_figures(base, {p.prompt_id for p in prompts if p.split != "train"}),
            "encoded_texts": self.encode.encoded,
        }

    def _add_options(
        self, report: dict[str, Any], prompts: Sequence[Prompt], halves: Mapping[str, str]
    ) -> None:
        """Add what only some settings have: the LLM, hand labels, halves of the training split."""
        if self.generator is not None:
            figures = self.generator.usage.figures(self.settings.generator)
            report["generator"] = {"name": self.generator.name, "style": self.settings.demos.style, **figures}
        if self.paraphraser is not None:
            report["paraphrases"] = dict(sorted(self.paraphraser.counts.items()))
        if self.settings.labels:
            first, second = map(Path, self.settings.labels)
            mapped = {p.prompt_id: p.category for p in prompts if p.category_origin == "mapped"}
            report["labels"] = compare_labels(first, second, mapped)
        if halves:
            counts = Counter(halves[p.prompt_id] for p in prompts if p.split == "train")
            report["halves"] = {half: counts[half] for half in HALVES}

    def _spent(self) -> dict[str, Any]:
        if self.generator is None:
            return {}
        usage = self.generator.usage
        return {
            "generator_fresh_requests": usage.fresh,
            "generator_seconds": round(usage.seconds, 3),
            "generator_tried_again": getattr(self.generator.generator, "tried_again", 0),
        }


def _row(user: str, reply: str, tag: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "loss": "reply", "tag": tag}


def _base_figures(base: Sequence[Mapping[str, Any]], held_out: set[str]) -> dict[str, Any]:
    rows: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for row in base:
        rows[row["tag"]] += 1
        text = row["messages"][0]["content"].removesuffix(" Risk?")
        seen[row["tag"]] += prompt_id(text) in held_out
    return {tag: {"rows": rows[tag], "held_out_prompts": seen[tag]} for tag in sorted(rows)}
