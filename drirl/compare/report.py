"""``comparison.md``: a short headline table, what can be told from it, then the details, folded away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drirl.compare.accuracy import reward_accuracy, reward_details
from drirl.compare.columns import Column, headline_columns, parts_columns, short_columns
from drirl.compare.gaps import cut_prompts, missing_scores
from drirl.compare.looks import Look, load_looks, looks_section
from drirl.compare.names import (
    ALL,
    CATEGORIES,
    MEANS,
    PARTS,
    POOLED,
    TRAINING,
    UNTRAINED,
    code,
    escape,
    judged_again,
)
from drirl.compare.significance import POWER
from drirl.compare.spread import mean_reward, spread
from drirl.compare.tables import Analysis
from drirl.compare.texts import (
    arrow,
    below,
    best,
    cell,
    details,
    interval,
    method_lines,
    points,
    signed,
    span,
    standing,
    table,
)

__all__ = [
    "Look",
    "Notes",
    "load_looks",
    "render",
]

FOCUS = "dr_irl"
CONTROLS = ("grpo_irl", "dr_irl_constant")
"""What the focus method is set against in words: without hardness, and with its mean held constant."""


@dataclass(frozen=True)
class Notes:
    """What the report says besides the numbers.

    Attributes:
        meaningful: false puts a notice on top that the numbers mean nothing.
        looks: entries of docs/test_looks.yaml; None if there is no such file.
        figures: file names of figures beside the report.
    """

    profile: str
    meaningful: bool
    split: str
    reference: str
    confidence: float
    draws: int
    looks: tuple[Look, ...] | None
    figures: tuple[str, ...] = ()


def render(analysis: Analysis, notes: Notes) -> str:
    """Return the whole report as Markdown."""
    columns = headline_columns(analysis)
    rates = [column for column in columns if column[1] != TRAINING and analysis.is_rate(*column[1:])]
    tasks = parts_columns(analysis)
    parts = ["# Comparison", _notice(notes), _headline(analysis, notes)]
    if notes.figures:
        parts.append("\n\n".join(f"![{Path(name).stem}]({name})" for name in notes.figures))
    parts += [
        _published(analysis),
        _differences(analysis, rates, notes),
        _in_words(analysis, rates, notes),
        _by_category(analysis),
        _by_level(analysis),
        reward_accuracy(analysis.records.rewards),
        _columns(analysis, columns, notes),
        looks_section(notes.looks),
        "## Details",
        details("All columns of the headline table", _values(analysis, columns)),
        details("Tasks whose mean is a column", _values(analysis, tasks)) if tasks else "",
        _difference_details(analysis, rates, notes),
        spread(analysis, rates),
        mean_reward(analysis),
        reward_details(analysis.records.rewards),
        _reading(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _level(notes: Notes) -> float:
    return 1 - notes.confidence


def _notice(notes: Notes) -> str:
    if notes.meaningful:
        return ""
    return f"> **Wiring check, numbers are meaningless** (profile {code(notes.profile)})."


def _headline(analysis: Analysis, notes: Notes) -> str:
    columns, level = short_columns(analysis), _level(notes)
    lines = []
    for model in analysis.records.models:
        tops = {column: best(analysis, model, *column[1:], level, notes.reference) for column in columns}
        for method, line in method_lines(analysis, model):
            for column in columns:
                benchmark, metric = column[1:]
                text = cell(
                    analysis.row(model, method, benchmark, metric),
                    analysis.is_rate(benchmark, metric),
                    short=True,
                )
                if tops[column] == method:
                    text = f"**{text}**"
                if method != notes.reference and notes.reference in analysis.records.methods:
                    gap = analysis.tested(model, method, notes.reference, benchmark, metric)
                    text = f"{text} {standing(gap, level)}".rstrip()
                line.append(text)
            lines.append(line)
    titles = [f"{title} {arrow(analysis, benchmark, metric)}" for title, benchmark, metric in columns]
    marks = (
        f"▲ better, ▼ worse than {code(notes.reference)} (p below {level:g} after Holm's correction)"
        if notes.reference in analysis.records.methods
        else f"no marks, for the reference {code(notes.reference)} is not among the methods"
    )
    caption = [
        f"- Shares in percent, {100 * notes.confidence:g} % intervals over intents and training seeds, their",
        "  ends rounded to whole percent. ↑ higher is better, ↓ lower is better.",
        f"- {marks}.",
        "- Bold: the best of its model, better than every other method and than the reference, both after",
        "  Holm's correction; without that, or where two share the best value, none is bold.",
        f"- Profile {code(notes.profile)}, split {code(notes.split)}; {_seeds(analysis)}. Tokens: mean over",
        "  seeds. Seconds and memory: `cost.md`. Prompts and judges: below.",
        *(f"- {line}" for line in [*missing_scores(analysis, columns), *cut_prompts(analysis)]),
    ]
    return f"{table(['Model', 'Method', *titles], lines)}\n\n" + "\n".join(caption)


def _seeds(analysis: Analysis) -> str:
    trained: set[int] = set()
    fixed: set[int] = set()
    for row in analysis.rows:
        if row.seeds is not None and row.benchmark != TRAINING:
            (fixed if row.method in UNTRAINED else trained).add(row.seeds)
    text = f"{span(sorted(trained))} training seeds" if trained else "no trained policy"
    if trained == {1}:
        text = "one training seed, so the intervals say nothing of how much seeds differ"
    if fixed:
        text += ", one fixed policy for `base`"
    return text


def _published(analysis: Analysis) -> str:
    rows = [row for row in analysis.rows if row.published is not None]
    title = "## Beside the paper\n\n"
    if not rows:
        return (
            title + "No published value has the benchmark, metric, method and base model of a cell here, so "
            "none is set beside ours\n(`published.csv` holds those that are known)."
        )
    order = {
        (model, method): (place, number, line[0])
        for place, model in enumerate(analysis.records.models)
        for number, (method, line) in enumerate(method_lines(analysis, model))
    }
    lines = []
    for row in sorted(rows, key=lambda row: (*order[row.model, row.method][:2], row.benchmark, row.metric)):
        gap = "missing" if row.deviation is None else interval(row.deviation, None, None, sign="+")
        lines.append(
            [
                order[row.model, row.method][2],
                code(row.method),
                code(row.benchmark),
                escape(row.metric.replace("_", " ")),
                interval(row.published or 0.0, None, None),
                cell(row, analysis.is_rate(row.benchmark, row.metric)),
                gap,
                "" if row.n is None else str(row.n),
            ]
        )
    titles = ["Model", "Method", "Benchmark", "Metric", "Published", "Ours", "Ours − published", "Prompts"]
    return title + table(titles, lines) + "\n\nIn percent; sources: `comparison.csv`."


def _differences(analysis: Analysis, rates: Sequence[Column], notes: Notes) -> str:
    if notes.reference not in analysis.records.methods:
        return (
            f"## Differences\n\nThe reference method {code(notes.reference)} is not among the methods, "
            "so there are none."
        )
    lines = []
    for model in analysis.records.models:
        for method, line in method_lines(analysis, model):
            if method == notes.reference:
                continue
            for _, benchmark, metric in rates:
                gap = analysis.tested(model, method, notes.reference, benchmark, metric)
                line.append(signed(gap, _level(notes)))
            chance = analysis.improvement(model, method, notes.reference)
            line.append(
                "missing" if chance is None else interval(chance.value, chance.low, chance.high, 1, digits=2)
            )
            lines.append(line)
        sizes = [_detectable(analysis, model, notes.reference, column) for column in rates]
        lines.append([escape(model), "*detectable*", *sizes, ""])
    titles = [f"{title} {arrow(analysis, benchmark, metric)}" for title, benchmark, metric in rates]
    metrics: dict[str, list[str]] = {}
    for benchmark, metric in analysis.records.keys():
        if benchmark in MEANS or benchmark == ALL or metric in POOLED or judged_again(metric):
            continue
        whole, name = PARTS.get(benchmark, benchmark), metric.replace("_", " ")
        metrics.setdefault(whole, []).append(name if whole == benchmark else f"{name} of {code(benchmark)}")
    tasks = [
        f"{code(benchmark)} {' and '.join(names)}{' (their mean)' if len(names) > 1 else ''}"
        for benchmark, names in metrics.items()
    ]
    caption = [
        "- Method minus reference on the same prompts, in points; in brackets p of the permutation test over",
        "  intents and seeds after Holm's correction over the methods of a model and column. Bold: p below",
        f"  {_level(notes):g}. Intervals: below; McNemar's test and effect sizes: `differences.csv`.",
        f"- *Detectable*: the smallest true differences found in {100 * POWER:g} % of repetitions (in fewer",
        "  where seeds vary), from the steadiest to the most varying trained method. Smaller ones may",
        "  be there unseen.",
        "- P(better): chance that a seed of the method beats a seed of the reference on one benchmark drawn",
        "  at random; ties count half, 0.5 is no difference. With three seeds its interval is narrower than",
        "  it should be. Benchmarks:",
        *(f"  {task}{',' if task != tasks[-1] else '.'}" for task in tasks),
    ]
    return (
        f"## Differences from {code(notes.reference)}\n\n"
        + table(["Model", "Method", *titles, "P(better) ↑"], lines)
        + "\n\n"
        + "\n".join(caption)
    )


def _detectable(analysis: Analysis, model: str, reference: str, column: Column) -> str:
    sizes = sorted(
        one.minimum_detectable
        for method, one in analysis.family(model, reference, *column[1:]).items()
        if one.minimum_detectable is not None and method not in UNTRAINED
    )
    if not sizes:
        return ""
    low, high = f"{100 * sizes[0]:.1f}", f"{100 * sizes[-1]:.1f}"
    return low if low == high else f"{low}–{high}"


def _in_words(analysis: Analysis, rates: Sequence[Column], notes: Notes) -> str:
    controls = [control for control in CONTROLS if control in analysis.records.methods]
    if FOCUS not in analysis.records.methods or not controls:
        return ""
    pairs = [(model, control) for model in analysis.records.models for control in controls]
    lines = []
    for title, benchmark, metric in rates:
        texts = []
        for model, control in pairs:
            gap = analysis.tested(model, FOCUS, control, benchmark, metric)
            text = points(gap)
            texts.append(f"**{text}**" if gap is not None and gap.significant(_level(notes)) else text)
        lines.append([f"{title} {arrow(analysis, benchmark, metric)}", *texts])
    titles = [f"{escape(model)}, minus {code(control)}" for model, control in pairs]
    words = [f"- {_sentence(analysis, model, control, rates, notes)}" for model, control in pairs]
    text = (
        f"## Does the hardness coefficient matter?\n\n{code(FOCUS)} against the same method without the "
        "coefficient (`grpo_irl`) and with its mean held constant\n(`dr_irl_constant`), in points with "
        "intervals. Bold: p below the level after Holm's correction.\n\n"
    )
    return text + table(["Metric", *titles], lines) + "\n\n" + "\n".join(words)


def _sentence(analysis: Analysis, model: str, control: str, rates: Sequence[Column], notes: Notes) -> str:
    told, missing, count = [], [], 0
    for title, benchmark, metric in rates:
        gap = analysis.tested(model, FOCUS, control, benchmark, metric)
        if gap is None or gap.p_holm is None:
            missing.append(title.lower())
            continue
        count += 1
        if gap.significant(_level(notes)):
            told.append(f"{title.lower()} ({'better' if gap.better else 'worse'})")
    start = f"{escape(model)}, {code(FOCUS)} minus {code(control)}: "
    if not count:
        return start + "missing."
    if not told:
        end = "**no difference can be told at this size.**"
    elif len(told) == count:
        end = f"A difference is seen in {', '.join(told)}."
    else:
        end = f"A difference is seen in {', '.join(told)}; in the others none can be told."
    return start + end + (f" Missing: {', '.join(missing)}." if missing else "")


def _by_category(analysis: Analysis) -> str:
    return _sliced(analysis, "category", CATEGORIES, "By category")


def _by_level(analysis: Analysis) -> str:
    return _sliced(analysis, "level", ("direct", "paraphrased", "disguised"), "By difficulty")


def _sliced(analysis: Analysis, by: str, values: Sequence[str], heading: str) -> str:
    parts = []
    known = {(row.benchmark, row.metric) for row in analysis.rows}
    for benchmark, metric in analysis.records.keys():
        names = [name for name in values if (benchmark, f"{metric}[{by}={name}]") in known]
        if not names or metric in POOLED:
            continue
        lines, sizes = [], []
        for name in names:
            rows = [
                r for r in analysis.rows if (r.benchmark, r.metric) == (benchmark, f"{metric}[{by}={name}]")
            ]
            sizes.append(f"{name} {span(sorted({row.n for row in rows if row.n is not None}))}")
        for model in analysis.records.models:
            for method, line in method_lines(analysis, model):
                for name in names:
                    row = analysis.row(model, method, benchmark, f"{metric}[{by}={name}]")
                    line.append(cell(row, analysis.is_rate(benchmark, metric), short=True))
                lines.append(line)
        parts.append(
            f"## {heading}: {code(benchmark)}, {escape(metric.replace('_', ' '))} "
            f"{arrow(analysis, benchmark, metric)}\n\n"
            + table(["Model", "Method", *(escape(name) for name in names)], lines)
            + f"\n\nPrompts: {escape('; '.join(sizes))}."
            + below(missing_scores(analysis, [(n, benchmark, f"{metric}[{by}={n}]") for n in names]))
        )
    return "\n\n".join(parts)


def _columns(analysis: Analysis, columns: Sequence[Column], notes: Notes) -> str:
    lines = []
    for title, benchmark, metric in columns:
        rows = [row for row in analysis.rows if (row.benchmark, row.metric) == (benchmark, metric)]
        known = [row for row in rows if row.n is not None]
        if benchmark != TRAINING:
            lines.append(
                [
                    title,
                    f"{code(benchmark)} {escape(metric)}",
                    span(sorted({row.n or 0 for row in known})),
                    span(sorted({row.clusters or 0 for row in known})),
                    span(sorted({row.seeds or 0 for row in known if row.method not in UNTRAINED})),
                    ", ".join(code(judge) for judge in sorted({row.judge for row in known if row.judge})),
                ]
            )
    templates = []
    for model in analysis.records.models:
        hashes = sorted({row.template_hash for row in analysis.rows if row.model == model} - {""})
        if hashes:
            templates.append(f"{escape(model)} {', '.join(code(name) for name in hashes)}")
    text = "## What the columns are\n\n" + table(
        ["Column", "Benchmark and metric", "Prompts", "Intents", "Seeds", "Judge"], lines
    )
    return text + (f"\n\nChat template: {'; '.join(templates)}." if templates else "")


def _values(analysis: Analysis, columns: Sequence[Column]) -> str:
    lines = []
    for model in analysis.records.models:
        for method, line in method_lines(analysis, model):
            for _, benchmark, metric in columns:
                row = analysis.row(model, method, benchmark, metric)
                line.append(cell(row, analysis.is_rate(benchmark, metric)))
            lines.append(line)
    titles = [f"{title} {arrow(analysis, benchmark, metric)}" for title, benchmark, metric in columns]
    return table(["Model", "Method", *titles], lines) + below(missing_scores(analysis, columns))


def _difference_details(analysis: Analysis, rates: Sequence[Column], notes: Notes) -> str:
    if notes.reference not in analysis.records.methods:
        return ""
    lines = []
    for model in analysis.records.models:
        for method, line in method_lines(analysis, model):
            if method != notes.reference:
                for _, benchmark, metric in rates:
                    line.append(
                        points(analysis.difference(model, method, notes.reference, benchmark, metric))
                    )
                lines.append(line)
    titles = [f"{title} {arrow(analysis, benchmark, metric)}" for title, benchmark, metric in rates]
    return details(
        "Differences with intervals (not corrected for their number)",
        table(["Model", "Method", *titles], lines),
    )


def _reading(notes: Notes) -> str:
    return (
        "## Reading and tracing\n\n"
        f"- Intervals and tests: {notes.draws} draws that redraw intents and the spread between seeds\n"
        "  (`docs/statistics.md`). With three seeds, equal methods are called different in at most 5 % of\n"
        "  repetitions, in 4 to 6 % where the seeds of only one of them vary strongly; intervals hold the\n"
        "  true value in 92 to 100 %.\n"
        "- `missing` is a cell without records; it is never counted as 0.\n"
        "- All rows, with published values where benchmark, metric, method and base model agree:\n"
        "  `comparison.csv`. All paired differences: `differences.csv`.\n"
        "- Records behind a row: `drirl trace --model M --method X --benchmark B --metric Y` with the words\n"
        "  of its line in `comparison.csv`."
    )
