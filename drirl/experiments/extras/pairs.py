"""Is the demonstration always better than the policy's own sample (question 9)?

Maximum-likelihood IRL takes it for granted. Pairs of a demonstration and a sample of DR-IRL's recorded
groups are judged by rules (a full refusal that is no broken text is right), by the category reward, and
by people who fill in the sheet: replies in random order, who wrote which in a file of its own.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drirl.compare.names import escape
from drirl.compare.tables import write_csv
from drirl.detect import degenerate, is_refusal
from drirl.errors import DrirlError
from drirl.experiments.extras.hardness import FOCUS, _focus, _rollouts
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.records import BENIGN, Demo, Prompt, RolloutGroup, read_jsonl
from drirl.text import split_draft

__all__ = ["blind_pairs", "draw_pairs", "read_labels", "write_sheet"]

COUNT = 100
SHEET, KEY, LABELS = "pairs.csv", "key.csv", "labels.csv"


@dataclass(frozen=True)
class Judgeable:
    """One demonstration set against one sample, with what the category reward says of both."""

    pair_id: str
    prompt_id: str
    prompt: str
    update: int
    demonstration: str
    sample: str
    reward_gap: float

    @property
    def by_rules(self) -> float:
        """1 where the demonstration is better, 0.5 where neither is, 0 where the sample is."""
        first, second = (is_refusal(t) and not degenerate(t) for t in (self.demonstration, self.sample))
        return 0.5 + 0.5 * (float(first) - float(second))

    @property
    def by_reward(self) -> float:
        """As :attr:`by_rules`, by the sign of the reward of the demonstration less that of the sample."""
        return 0.5 + 0.5 * float(np.sign(self.reward_gap))


def blind_pairs(found: Gathered, target: Path) -> Section:
    """Shares of pairs whose demonstration is better, at the first, middle and last update, by judge."""
    data = found.plan.params.run.out / "data"
    label = _focus(found)
    lines, answers = [], {}
    for model in found.models:
        groups = _rollouts(found, label, model) if label else []
        if not groups or not (data / "demos.jsonl").is_file():
            lines.append([escape(model), *[MISSING] * 6])
            continue
        pairs = draw_pairs(
            groups,
            read_jsonl(data / "demos.jsonl", Demo),
            read_jsonl(data / "prompts.jsonl", Prompt),
            found.plan.params.run.seed,
        )
        folder = found.plan.params.run.out / "sheets" / model
        write_sheet(folder, pairs, found.plan.params.run.seed)
        labels = read_labels(folder, found.plan.params.run.seed, pairs)
        for update in sorted({pair.update for pair in pairs}):
            own = [pair for pair in pairs if pair.update == update]
            judges: list[tuple[str, Callable[[Judgeable], float | None]]] = [
                ("rules", lambda p: p.by_rules),
                ("category reward", lambda p: p.by_reward),
                ("people", lambda p, labels=labels: labels.get(p.pair_id)),  # type: ignore[misc]
            ]
            for judge, value in judges:
                known = [(pair, v) for pair in own if (v := value(pair)) is not None]
                cells = _cells(found, known, f"{model}/{update}/{judge}")
                lines.append([escape(model), str(update), judge, *cells])
        answers[model] = _say(found, model, pairs)
    heads = [
        "Model",
        "Update",
        "Judge",
        "Demonstration better or equal (%)",
        "Better (%)",
        "Worse (%)",
        "Pairs",
    ]
    note = (
        f"At most {COUNT} pairs per update: samples of {FOCUS} for harmful training prompts, at update 1 "
        f"those of the "
        "base policy. Rules: a full refusal that is no broken text is better than anything else. Intervals "
        "over prompts. The sheet for people, with its key, is under `out/sheets/`; a filled-in copy named "
        f"`{LABELS}` beside it is counted here."
    )
    return Section(f"## Demonstration against sample\n\n{markdown_table(heads, lines)}\n\n{note}", answers)


def draw_pairs(
    groups: Sequence[RolloutGroup], demos: Sequence[Demo], prompts: Sequence[Prompt], seed: int
) -> list[Judgeable]:
    """Return up to :data:`COUNT` pairs per recorded update: harmful prompts, prompts in turn, seeded."""
    answers = {demo.prompt_id: demo.answer for demo in demos}
    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    pairs = []
    for update in sorted({group.step for group in groups}):
        own = [
            g
            for g in groups
            if g.step == update and g.category != BENIGN and g.r_demo is not None and g.prompt_id in answers
        ]
        own.sort(key=lambda g: (g.prompt_id, g.seed))
        random.Random(f"{seed}/pairs/{update}").shuffle(own)
        longest = max((len(g.completions) for g in own), default=0)
        rows = [(g, k) for k in range(longest) for g in own if k < len(g.completions)][:COUNT]
        for number, (group, k) in enumerate(rows):
            assert group.r_demo is not None
            pairs.append(
                Judgeable(
                    pair_id=f"{update}-{number:03d}",
                    prompt_id=group.prompt_id,
                    prompt=texts.get(group.prompt_id, ""),
                    update=update,
                    demonstration=answers[group.prompt_id],
                    sample=split_draft(group.completions[k])[1],
                    reward_gap=group.r_demo - group.r_gen[k],
                )
            )
    return pairs


def _first(pair: Judgeable, seed: int) -> bool:
    """Whether the demonstration is shown as A."""
    return random.Random(f"{seed}/order/{pair.pair_id}").random() < 0.5


def write_sheet(folder: Path, pairs: Sequence[Judgeable], seed: int) -> None:
    """Write the sheet (replies A and B, an empty column) and its key."""
    order = list(pairs)
    random.Random(f"{seed}/sheet").shuffle(order)
    rows, key = [], []
    for pair in order:
        shown = (pair.demonstration, pair.sample)
        first, second = shown if _first(pair, seed) else shown[::-1]
        rows.append([pair.pair_id.partition("-")[2] + _mark(pair, seed), pair.prompt, first, second, ""])
        key.append([rows[-1][0], pair.pair_id, "A" if _first(pair, seed) else "B"])
    write_csv(folder / SHEET, ("pair", "prompt", "A", "B", "better"), [[_inert(c) for c in r] for r in rows])
    write_csv(folder / KEY, ("pair", "pair_id", "demonstration"), key)


def _mark(pair: Judgeable, seed: int) -> str:
    """Return letters that make the name of a pair unique without giving away its update."""
    return f"{random.Random(f'{seed}/name/{pair.pair_id}').getrandbits(24):06x}"


def _inert(cell: str) -> str:
    """Keep a spreadsheet from reading a reply as a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell


def read_labels(folder: Path, seed: int, pairs: Sequence[Judgeable]) -> dict[str, float]:
    """Return pair id -> 1 (demonstration better), 0.5 (equal) or 0, from a filled-in sheet if there is one.

    Raises:
        DrirlError: an unknown pair, or a label that is not A, B, equal or empty; with the line.
    """
    path = folder / LABELS
    if not path.is_file():
        return {}
    names = {pair.pair_id.partition("-")[2] + _mark(pair, seed): pair for pair in pairs}
    found: dict[str, float] = {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), 2):
            name, label = (str(row.get(key) or "").strip() for key in ("pair", "better"))
            if name not in names:
                raise DrirlError(f"{path}:{number}: unknown pair '{name}'; fill in a copy of {SHEET}")
            if label.lower() not in ("a", "b", "equal", ""):
                raise DrirlError(f"{path}:{number}: expected A, B, equal or nothing, found '{label[:20]}'")
            pair = names[name]
            if label:
                mine = "a" if _first(pair, seed) else "b"
                found[pair.pair_id] = 0.5 if label.lower() == "equal" else float(label.lower() == mine)
    return found


def _cells(found: Gathered, known: Sequence[tuple[Judgeable, float]], key: str) -> list[str]:
    if not known:
        return [MISSING, MISSING, MISSING, "0"]
    values = np.asarray([[v] for _, v in known])  # (I, 1)
    clusters = [pair.prompt_id for pair, _ in known]
    best = found.bootstrap.interval((values >= 0.5).astype(float), clusters, key=key)
    bounds = "" if best.low is None else f" ({100 * best.low:.1f}–{100 * (best.high or 0):.1f})"
    shares = [float((values == v).mean()) for v in (1.0, 0.0)]
    return [f"{100 * best.value:.1f}{bounds}", *(f"{100 * share:.1f}" for share in shares), str(len(known))]


def _say(found: Gathered, model: str, pairs: Sequence[Judgeable]) -> str:
    texts = []
    for update in (pairs[0].update, pairs[-1].update) if pairs else ():
        own = [pair for pair in pairs if pair.update == update]
        shares = [100 * float(np.mean([v > 0 for v in vs])) for vs in _both(own)]
        texts.append(f"at update {update} {shares[0]:.0f} % by rules and {shares[1]:.0f} % by the reward")
    always = all(v > 0 for vs in _both(pairs) for v in vs)
    return (
        f"{escape(model)}: the demonstration is {'always' if always else 'not always'} at least as "
        f"good as the "
        f"sample: {', '.join(texts)} ({len(pairs)} pairs)."
    )


def _both(pairs: Sequence[Judgeable]) -> tuple[list[float], list[float]]:
    return [pair.by_rules for pair in pairs], [pair.by_reward for pair in pairs]
