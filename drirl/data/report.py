"""Figures about the built data: ``report.json`` and a datasheet to read (paper section 3, step 8)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import exp, log, log2
from typing import Any

from drirl.data.normalise import NEAR_N, jaccard, ngrams, words
from drirl.data.taxonomy import category_name
from drirl.records import Demo, Prompt

__all__ = ["balance_figures", "datasheet", "demo_figures", "distinct_n", "prompt_figures", "self_bleu"]

_SAMPLE = 40
"""Replies per category that self-BLEU and near-duplicates are measured on."""


def balance_figures(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return counts by category name, max/min ratio (null if one is empty) and entropy in bits."""
    values = [counts[key] for key in sorted(counts)]
    total = sum(values)
    entropy = -sum(n / total * log2(n / total) for n in values if n) if total else 0.0
    return {
        "counts": {category_name(key): counts[key] for key in sorted(counts)},
        "max_min_ratio": round(max(values) / min(values), 4) if values and all(values) else None,
        "entropy_bits": round(entropy, 4),
        "entropy_bits_if_equal": round(log2(len(values)), 4) if values else 0.0,
    }


def shares(names: Iterable[str]) -> dict[str, float]:
    """Return the share of each name, sorted by name."""
    counts = Counter(names)
    return {name: round(n / counts.total(), 4) for name, n in sorted(counts.items())}


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return different n-grams / all n-grams over ``texts`` (Li et al. 2016); 0 without any."""
    grams = [tuple(t[i : i + n]) for t in map(words, texts) for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Return the mean BLEU-n of each text against all the others (Zhu et al. 2018), 0 (varied) to 1 (copies).

    Uniform weights, clipped counts, add-one smoothing above unigrams, brevity penalty against the other
    text of the closest length. Fewer than two texts give 0.
    """
    tokens = [words(text) for text in texts]
    tokens = [t for t in tokens if t]
    if len(tokens) < 2:
        return 0.0
    counts = [
        [Counter(zip(*(t[i:] for i in range(k)), strict=False)) for t in tokens] for k in range(1, n + 1)
    ]
    top = [_two_largest(per_text) for per_text in counts]
    total = 0.0
    for index, own in enumerate(tokens):
        logs = 0.0
        for k in range(n):
            grams = counts[k][index]
            clipped = sum(min(c, _best_other(top[k][g], index)) for g, c in grams.items())
            add = 0 if k == 0 else 1
            precision = (clipped + add) / (grams.total() + add) if grams.total() + add else 0.0
            logs += log(precision) / n if precision else float("-inf")
        nearest = min((abs(len(t) - len(own)), len(t)) for j, t in enumerate(tokens) if j != index)[1]
        total += exp(logs) * min(1.0, exp(1 - nearest / len(own)))
    return total / len(tokens)


_Top = tuple[int, int, int]  # largest count, index of its text, second largest count


def _two_largest(per_text: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], _Top]:
    top: dict[tuple[str, ...], _Top] = {}
    for index, counts in enumerate(per_text):
        for gram, count in counts.items():
            first, where, second = top.get(gram, (0, -1, 0))
            if count > first:
                top[gram] = (count, index, first)
            elif count > second:
                top[gram] = (first, where, count)
    return top


def _best_other(top: _Top, index: int) -> int:
    return top[2] if top[1] == index else top[0]


def prompt_figures(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return, per split, counts by kind, category, level and novelty."""
    out: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        rows = [p for p in prompts if p.split == split]
        harmful = [p for p in rows if p.kind == "harmful"]
        out[split] = {
            "prompts": len(rows),
            "kinds": dict(sorted(Counter(p.kind for p in rows).items())),
            "harmful": balance_figures(Counter(p.category for p in harmful)),
            "levels": {
                kind: dict(sorted(Counter(p.level for p in rows if p.kind == kind).items()))
                for kind in sorted({p.kind for p in rows})
            },
            "clusters": len({p.cluster_id for p in rows}),
            "novelty": dict(sorted(Counter(p.novelty or "none" for p in rows).items())),
            "sources": shares(p.source for p in rows),
            "harmful_sources": shares(p.source for p in harmful),
            "synthetic_share": _share(p.synthetic for p in harmful),
            "weak_share": _share(p.weak_map for p in harmful),
        }
    return out


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return round(sum(values) / len(values), 4) if values else 0.0


def demo_figures(demos: Sequence[Demo], kinds: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return lengths, variety, verdicts and generators of the demonstrations.

    ``kinds``: prompt_id -> kind. Variety is measured on a seeded sample of each group.
    """
    groups: dict[str, list[Demo]] = {}
    for demo in demos:
        kind = kinds[demo.prompt_id]
        groups.setdefault(category_name(demo.category) if kind == "harmful" else kind, []).append(demo)
    out: dict[str, Any] = {}
    for name in sorted(groups):
        rows = groups[name]
        rng = random.Random(f"{seed}/variety/{name}")
        sample = [demo.answer for demo in rng.sample(rows, min(_SAMPLE, len(rows)))]
        answers = [demo.answer for demo in rows]
        grams = [ngrams(words(text), NEAR_N) for text in sample]
        near = sum(
            any(jaccard(a, b) >= 0.8 for j, b in enumerate(grams) if i != j) for i, a in enumerate(grams)
        ) / max(1, len(grams))
        out[name] = {
            "demonstrations": len(rows),
            "draft_words": round(sum(d.n_tok_draft for d in rows) / len(rows), 2),
            "answer_words": round(sum(d.n_tok_answer for d in rows) / len(rows), 2),
            "different_answers": round(len(set(answers)) / len(answers), 4),
            "near_duplicate_share": round(near, 4),
            "distinct_1": round(distinct_n(answers, 1), 4),
            "distinct_2": round(distinct_n(answers, 2), 4),
            "self_bleu_4": round(self_bleu(sample), 4),
            "largest_opening_share": round(_largest_opening(answers), 4),
            "verdicts": dict(sorted(Counter(d.verdict for d in rows).items())),
            "generators": dict(sorted(Counter(d.generator for d in rows).items())),
        }
    return out


def _largest_opening(answers: Sequence[str]) -> float:
    """Return the share of answers that open with the most frequent first three words."""
    openings = Counter(tuple(words(answer)[:3]) for answer in answers)
    return max(openings.values()) / len(answers)


def datasheet(report: Mapping[str, Any]) -> str:
    """Render ``report`` as Markdown for people."""
    train = report["splits"]["train"]
    before = report["before_balancing"]
    lines = ["# Datasheet of the built data", ""]
    lines += ["Written by the stage `data`; every figure is in `report.json`. How the prompts are collected,"]
    lines += ["mapped, written and checked is described in `docs/data.md`.", ""]
    lines += [
        "## Prompts",
        "",
        "| split | harmful | benign | contrast | task | clusters |",
        "|---|---|---|---|---|---|",
    ]
    for split, row in report["splits"].items():
        kinds = row["kinds"]
        cells = [str(kinds.get(k, 0)) for k in ("harmful", "benign", "contrast", "task")]
        lines.append(f"| {split} | {' | '.join(cells)} | {row['clusters']} |")
    lines += ["", "Harmful training prompts by category:", ""]
    lines += [
        "| category | collected | balanced | val | test | imbalanced control |",
        "|---|---|---|---|---|---|",
    ]
    for name, count in train["harmful"]["counts"].items():
        cells = [before["train"]["counts"].get(name, 0), count]
        cells += [report["splits"][split]["harmful"]["counts"].get(name, 0) for split in ("val", "test")]
        cells.append(report["imbalanced"]["counts"].get(name, 0))
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    lines += ["", "| figure | before balancing | after |", "|---|---|---|"]
    for key, label in (
        ("max_min_ratio", "largest / smallest category"),
        ("entropy_bits", "category entropy, bits"),
    ):
        lines.append(f"| {label} | {before['train'][key]} | {train['harmful'][key]} |")
    for source in sorted({*before["harmful_sources"], *train["harmful_sources"]}):
        cells = [str(part["harmful_sources"].get(source, 0)) for part in (before, train)]
        lines.append(f"| share of source {source} | {' | '.join(cells)} |")
    lines.append(f"| synthetic share | 0 | {train['synthetic_share']} |")
    lines.append(f"| weakly mapped share | {before['weak_share']} | {train['weak_share']} |")
    wanted, got = report["imbalanced"]["total_wanted"], report["imbalanced"]["total"]
    if got < wanted:
        lines += ["", f"The imbalanced control has {got} prompts, not {wanted}: its head category ran out."]
    lines += ["", "## Removed", "", "| step | prompts |", "|---|---|"]
    for name, count in report["dropped"].items():
        lines.append(f"| {name.replace('_', ' ')} | {count} |")
    for name, count in report["leaks"]["removed"].items():
        why = "training prompt with words of an attack"
        why = why if name == "attack" else f"training prompt too near an evaluation item: {name}"
        lines.append(f"| {why} | {count} |")
    lines.append(f"| no demonstration passed the filters | {report['demonstrations']['prompts_without']} |")
    lines += ["", "Evaluation items the training prompts were compared with:", ""]
    lines += [f"- {name}: {count}" for name, count in report["leaks"]["evaluation_items"].items()]
    lines += ["", "## Demonstrations", ""]
    demos = report["demonstrations"]
    lines.append(
        f"{demos['accepted']} of {demos['tried']} drafts passed the filters "
        f"(acceptance rate {demos['acceptance_rate']}). Turned down by filter (a draft may fail several): "
        + (", ".join(f"{name} {count}" for name, count in demos["failed"].items()) or "none")
        + "."
    )
    lines += ["", "Lengths are in words; the draft is what precedes `####`.", ""]
    lines += ["| group | n | draft | answer | different | distinct-2 | self-BLEU-4 | top opening |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, row in demos["groups"].items():
        cells = [row[key] for key in ("demonstrations", "draft_words", "answer_words", "different_answers")]
        cells += [row[key] for key in ("distinct_2", "self_bleu_4", "largest_opening_share")]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    lines += _optional(report)
    lines += ["", "## Base corpus", "", "Text that small base models are trained on from scratch.", ""]
    lines += ["| rows | n | whose prompt is a val or test prompt |", "|---|---|---|"]
    for tag, row in report["base_corpus"].items():
        lines.append(f"| {tag} | {row['rows']} | {row['held_out_prompts']} |")
    return "\n".join(lines) + "\n"


def _optional(report: Mapping[str, Any]) -> list[str]:
    """Return the datasheet's lines on the LLM, paraphrases, hand labels and halves, where there are any."""
    lines: list[str] = []
    if "generator" in report:
        row = report["generator"]
        lines += ["", f"Written with `{row['name']}` ({row['style']}): {row['requests']} requests, "]
        lines[-1] += f"{row['prompt_tokens']} prompt and {row['completion_tokens']} completion tokens, cost "
        lines[-1] += (
            f"{row['cost']}; {row['cut_at_max_tokens']} completions were cut, {row['blocked_by_server']} "
        )
        lines[-1] += "blocked by the server's own filter."
    if "paraphrases" in report:
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in report["paraphrases"].items())
        lines += ["", f"Paraphrases that fill short categories: {counts or 'none asked for'}."]
    if "halves" in report:
        parts = " and ".join(f"{n} for the {half}" for half, n in report["halves"].items())
        lines += ["", f"The training split is halved by cluster: {parts}."]
    if "labels" in report:
        lines += [
            "",
            "## Labels of two readers",
            "",
            "| compared | n | agreement | Cohen's kappa | 95 % interval |",
        ]
        lines += ["|---|---|---|---|---|"]
        for name, row in report["labels"].items():
            if isinstance(row, Mapping):
                low_high = " to ".join(map(str, row["interval"])) if row["interval"] else "undefined"
                cells = [row["n"], row["observed"], row["kappa"], low_high]
                lines.append(f"| {name.replace('_', ' ')} | {' | '.join(map(str, cells))} |")
    return lines
