"""How varied the replies are, from per-prompt records and logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from drirl.compare.names import UNTRAINED, escape
from drirl.experiments.extras.hardness import _logs, over_seeds
from drirl.experiments.extras.words import vocabulary_of, word_vectors, words_of
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.records import BENIGN, Demo, EvalItem, RolloutGroup, read_jsonl
from drirl.text import split_draft

__all__ = ["distinct", "diversity", "entropy", "repeated", "self_bleu2"]

PAIR = ("dr_irl", "grpo_irl")


def diversity(found: Gathered, target: Path) -> Section:
    """Distinct n-grams, repeated replies, closeness to demonstrations; greedy replies to harmful prompts."""
    lines: list[list[str]] = []
    answers: dict[str, str] = {}
    demos = _demo_vectors(found)
    for model in found.models:
        seen: dict[str, list[float]] = {}
        for label, name in found.experiment.arms.items():
            folder = found.folder(label, "evaluate", model)
            path = folder / "items.jsonl" if folder else None
            if path is None or not path.is_file():
                lines.append([escape(model), escape(label), *[MISSING] * 6])
                continue
            by_seed: dict[int, dict[str, str]] = {}
            for item in read_jsonl(path, EvalItem):
                if item.kind == "harmful" and item.metric == "refusal_rate":
                    reply = split_draft(item.response)[1]
                    by_seed.setdefault(item.seed, {})[item.item_id] = reply
            values = np.array([_figures(list(replies.values()), demos) for replies in by_seed.values()])
            if not len(values):
                lines.append([escape(model), escape(label), *[MISSING] * 6])
                continue
            seen[name] = [float(v) for v in values[:, 1]]
            cells = [_spread(values[:, k], 100 if k in (2, 4) else 1) for k in range(values.shape[1])]
            lines.append(
                [escape(model), escape(label), *cells, f"{len(by_seed)} × {len(by_seed[min(by_seed)])}"]
            )
        if all(name in seen for name in PAIR):
            answers[model] = _say(escape(model), seen[PAIR[0]], seen[PAIR[1]])
    heads = [
        "Model",
        "Arm",
        "distinct-1",
        "distinct-2",
        "Replies seen before (%)",
        "self-BLEU-2",
        "Word cosine ≥ 0.9 to a demonstration (%)",
        "Seeds × replies",
    ]
    note = (
        "Mean (lowest–highest seed). distinct-n: different n-grams by all n-grams; self-BLEU-2: mean "
        "share of a reply's bigrams found in the other replies; higher means more alike."
    )
    text = f"## Diversity of replies\n\n{markdown_table(heads, lines)}\n\n{note}"
    return Section(f"{text}\n\n{_over_training(found, demos)}", answers)


def _over_training(found: Gathered, demos: _Demos | None) -> str:
    """Tabulate the same figures of the samples drawn in the recorded updates, harm categories only."""
    lines = []
    for model in found.models:
        for label in found.experiment.arms:
            by_update: dict[int, list[list[float]]] = {}
            folder = found.folder(label, "align", model)
            for path in sorted(folder.glob("seed*/rollouts.jsonl")) if folder else []:
                samples: dict[int, list[str]] = {}
                for group in read_jsonl(path, RolloutGroup):
                    if group.category != BENIGN:
                        replies = [split_draft(text)[1] for text in group.completions]
                        samples.setdefault(group.step, []).extend(replies)
                for step, replies in samples.items():
                    by_update.setdefault(step, []).append(_figures(replies, demos))
            for step, rows in sorted(by_update.items()):
                values = np.array(rows)
                cells = [_spread(values[:, k], 100 if k in (2, 4) else 1) for k in (1, 2, 3, 4)]
                lines.append([escape(model), escape(label), str(step), *cells])
    if not lines:
        return f"## Diversity over training\n\n{MISSING}: no recorded rollouts."
    heads = ["Model", "Arm", "Update", "distinct-2", "Replies seen before (%)", "self-BLEU-2"]
    heads.append("Word cosine ≥ 0.9 to a demonstration (%)")
    note = (
        "Samples drawn in training at the recorded updates (seven harmful prompts, a group "
        "each), so more varied "
        "than greedy replies; mean (lowest–highest seed). sft, and dpo after its samples of the "
        "base, draw nothing."
    )
    return f"## Diversity over training\n\n{markdown_table(heads, lines)}\n\n{note}"


def entropy(found: Gathered, target: Path) -> Section:
    """Token entropy over training, from the logs."""
    from drirl.experiments.figures import draw_curves

    panels: list[tuple[str, dict[str, list[tuple[float, float]]]]] = []
    lines = []
    for model in found.models:
        curves: dict[str, list[tuple[float, float]]] = {}
        for label, name in found.experiment.arms.items():
            if name in UNTRAINED:
                continue
            points: dict[int, list[float]] = {}
            for run in _logs(found, label, model):
                for line in run:
                    if line.get("entropy") is not None:
                        points.setdefault(int(line["update"]), []).append(float(line["entropy"]))
            if points:
                curves[label] = [(float(u), sum(v) / len(v)) for u, v in sorted(points.items())]
            ends = [over_seeds(points[update]) for update in (min(points), max(points))] if points else []
            lines.append([escape(model), escape(label), *(ends or [MISSING, MISSING])])
        panels.append((f"Token entropy, {model}", curves))
    notice = found.notice
    path = draw_curves(target / f"{found.name}_entropy.png", panels, notice=notice)
    table = markdown_table(["Model", "Arm", "First update (nats)", "Last update (nats)"], lines)
    note = "Mean (lowest to highest seed)."
    return Section(f"## Entropy over training\n\n![entropy]({path.name})\n\n{table}\n\n{note}")


def _figures(replies: Sequence[str], demos: _Demos | None) -> list[float]:
    words = [words_of(reply) for reply in replies]
    return [
        distinct(words, 1),
        distinct(words, 2),
        repeated(replies),
        self_bleu2(words),
        _near(words, demos) if demos is not None else float("nan"),
    ]


def distinct(words: Sequence[Sequence[str]], n: int) -> float:
    """Return different n-grams by all n-grams of the replies; 0 if there is none."""
    grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated(replies: Sequence[str]) -> float:
    """Return the share of replies that equal an earlier one."""
    return 1 - len({" ".join(r.lower().split()) for r in replies}) / len(replies) if replies else 0.0


def self_bleu2(words: Sequence[Sequence[str]]) -> float:
    """Return the mean share of a reply's bigrams that another reply has too (clipped bigram precision)."""
    grams = [Counter(pairwise(w)) for w in words]
    best: dict[tuple[str, str], list[int]] = {}
    for gram in grams:
        for key, count in gram.items():
            best.setdefault(key, []).append(count)
    tops = {key: sorted(counts, reverse=True)[:2] for key, counts in best.items()}
    shares = []
    for gram in grams:
        total = sum(gram.values())
        if not total:
            continue
        hit = 0
        for key, count in gram.items():
            top = tops[key]
            others = (top[1] if len(top) > 1 else 0) if top[0] == count else top[0]
            hit += min(count, others)
        shares.append(hit / total)
    return float(np.mean(shares)) if shares else 0.0


_Demos = tuple[dict[str, int], np.ndarray]
"""The vocabulary of the demonstrations, and their (n, V) vectors."""


def _demo_vectors(found: Gathered) -> _Demos | None:
    path = found.plan.params.run.out / "data" / "demos.jsonl"
    if not path.is_file():
        return None
    texts = [d.answer for d in read_jsonl(path, Demo) if d.category >= 0]
    words = [words_of(text) for text in dict.fromkeys(texts)]
    vocabulary = vocabulary_of(words)
    return vocabulary, word_vectors(words, vocabulary)


def _near(words: Sequence[Sequence[str]], demos: _Demos) -> float:
    vocabulary, theirs = demos
    if not words or not len(theirs):
        return 0.0
    own = word_vectors(words, vocabulary)
    best = np.concatenate([(own[i : i + 256] @ theirs.T).max(1) for i in range(0, len(own), 256)])
    return float((best >= 0.9).mean())


def _spread(values: np.ndarray, scale: float) -> str:
    if np.isnan(values).any():
        return MISSING
    digits = 1 if scale == 100 else 3
    low, high, mean = (scale * float(f(values)) for f in (np.min, np.max, np.mean))
    return (
        f"{mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})" if len(values) > 1 else f"{mean:.{digits}f}"
    )


def _say(model: str, own: Sequence[float], other: Sequence[float]) -> str:
    """Compare distinct-2 by Welch's interval over seeds."""
    a, b = np.asarray(own), np.asarray(other)
    if len(a) < 2 or len(b) < 2:
        return f"{model}: cannot tell with one seed."
    difference = float(a.mean() - b.mean())
    half = _welch(a, b)
    bounds = f"({difference - half:+.3f} to {difference + half:+.3f})"
    text = f"distinct-2 of {PAIR[0]} minus {PAIR[1]} is {difference:+.3f} {bounds}"
    if difference - half > -0.1 * float(b.mean()):
        return f"{model}: **yes**, {text}: a loss of a tenth is ruled out."
    if difference + half < 0:
        return f"{model}: **no**, {text}."
    seeds = int(np.ceil(len(a) * (half / (0.1 * float(b.mean()) + 1e-9)) ** 2))
    return f"{model}: **cannot tell at this n**, {text}: it would take about {max(seeds, len(a) + 1)} seeds."


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Return the half-width of Welch's 95 % interval of a difference of means; two values or more each."""
    from scipy.stats import t

    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = sum(parts)
    if error == 0:
        return 0.0
    freedom = error**2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    return float(t.ppf(0.975, freedom) * np.sqrt(error))
