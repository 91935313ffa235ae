"""``comparison.md``: the headline table first, then what can be told from it, then the details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drirl.compare.names import ALL, CATEGORIES, POOLED, TRAINING, UNTRAINED, code, escape
from drirl.compare.tables import Analysis, Difference, Row
from drirl.errors import DrirlError

__all__ = ["LAST", "SHOWN", "Column", "Look", "Notes", "headline_columns", "load_looks", "render"]

FOCUS = "dr_irl"
CONTROLS = ("grpo_irl", "dr_irl_constant")
"""What the focus method is set against in words: without hardness, and with its mean held constant."""

Column = tuple[str, str, str]
"""(title, benchmark, metric)."""

SHOWN: tuple[Column, ...] = (
    ("Refusal, disguised", "drirl_tiny_harmful", "refusal_rate[level=disguised]"),
    ("Refusal, paraphrased", "drirl_tiny_harmful", "refusal_rate[level=paraphrased]"),
    ("Refusal, direct", "drirl_tiny_harmful", "refusal_rate[level=direct]"),
    ("Refusal, harmful", "drirl_tiny_harmful", "refusal_rate"),
    ("False refusal, benign", "drirl_tiny_benign", "false_refusal_rate"),
    ("False refusal, disguised benign", "drirl_tiny_benign", "false_refusal_rate[level=disguised]"),
    ("False refusal, contrast", "drirl_tiny_contrast", "false_refusal_rate"),
    ("Helpfulness", "drirl_tiny_help", "accuracy"),
)
LAST: tuple[Column, ...] = (
    ("Degenerate", ALL, "degenerate_rate"),
    ("Tokens generated", TRAINING, "generated_tokens"),
    ("Updates", TRAINING, "updates"),
)


@dataclass(frozen=True)
class Look:
    """One time the test split was looked at."""

    date: str
    commit: str
    why: str


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


def load_looks(path: Path) -> tuple[Look, ...] | None:
    """Read how often the test split was looked at; None if the file does not exist.

    Raises:
        DrirlError: not a list of entries with date, commit and why.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DrirlError(f"{path}{line}: not valid YAML; expected a list of date, commit, why") from None
    looks = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        if not isinstance(entry, dict) or set(entry) != {"date", "commit", "why"}:
            raise DrirlError(f"{path}: entry {number}: expected the keys date, commit and why")
        looks.append(Look(str(entry["date"]), str(entry["commit"]), str(entry["why"])))
    return tuple(looks)


def headline_columns(analysis: Analysis) -> list[Column]:
    """Return the columns of the headline table that any policy has a value for."""
    found = {(row.benchmark, row.metric) for row in analysis.rows if row.value is not None}
    columns = [column for column in SHOWN if column[1:] in found]
    if any("level=" in column[2] and column[1] == "drirl_tiny_harmful" for column in columns):
        columns = [column for column in columns if column[0] != "Refusal, harmful"]
    named = {column[1] for column in SHOWN}
    for benchmark, metric in analysis.records.keys():
        if benchmark not in named and benchmark != ALL and metric not in POOLED:
            columns.append((f"{benchmark}, {metric.replace('_', ' ')}", benchmark, metric))
    return columns + [column for column in LAST if column[1:] in found]


def render(analysis: Analysis, notes: Notes) -> str:
    """Return the whole report as Markdown."""
    columns = headline_columns(analysis)
    rates = [column for column in columns if column[1] != TRAINING and analysis.is_rate(*column[1:])]
    parts = ["# Comparison", _notice(notes), _headline(analysis, columns, notes)]
    if notes.figures:
        parts.append("\n\n".join(f"![{Path(name).stem}]({name})" for name in notes.figures))
    parts += [
        _in_words(analysis, rates),
        _differences(analysis, rates, notes),
        _spread(analysis, rates),
        _by_category(analysis),
        _mean_reward(analysis),
        *(_rewards(model, report) for model, report in sorted(analysis.records.rewards.items())),
        _looks(notes),
        _reading(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notice(notes: Notes) -> str:
    if notes.meaningful:
        return ""
    return f"> **Wiring check, numbers are meaningless** (profile {code(notes.profile)})."


def _headline(analysis: Analysis, columns: Sequence[Column], notes: Notes) -> str:
    titles = [f"{title} {_arrow(analysis, benchmark, metric)}" for title, benchmark, metric in columns]
    lines = []
    for model in analysis.records.models:
        for method in analysis.records.methods:
            cells = [
                _cell(analysis.row(model, method, benchmark, metric), analysis.is_rate(benchmark, metric))
                for _, benchmark, metric in columns
            ]
            lines.append([escape(model), code(method), *cells])
    sizes = []
    for title, benchmark, metric in columns:
        rows = [row for row in analysis.rows if (row.benchmark, row.metric) == (benchmark, metric)]
        n = sorted({row.n for row in rows if row.n is not None})
        clusters = sorted({row.clusters for row in rows if row.clusters is not None})
        if n:
            sizes.append(f"{title} {_span(n)} ({_span(clusters)} intents)")
    caption = (
        f"Shares in percent with {100 * notes.confidence:g} % intervals over intents and training seeds; "
        f"↑ higher is better, ↓ lower is better. Profile {code(notes.profile)}, split "
        f"{code(notes.split)}; {_seeds(analysis)}. Prompts: {'; '.join(sizes)}. Tokens and updates: mean "
        "over seeds."
    )
    return f"{_table(['Model', 'Method', *titles], lines)}\n\n{caption}"


def _seeds(analysis: Analysis) -> str:
    trained: set[int] = set()
    fixed: set[int] = set()
    for row in analysis.rows:
        if row.seeds is not None and row.benchmark != TRAINING:
            (fixed if row.method in UNTRAINED else trained).add(row.seeds)
    text = f"{_span(sorted(trained))} training seeds" if trained else "no trained policy"
    if trained == {1}:
        text = "one training seed, so the intervals say nothing of how much seeds differ"
    if fixed:
        text += ", one fixed policy for `base`"
    return text


def _in_words(analysis: Analysis, rates: Sequence[Column]) -> str:
    if FOCUS not in analysis.records.methods:
        return ""
    lines = []
    for model in analysis.records.models:
        for control in CONTROLS:
            if control in analysis.records.methods:
                lines.append(f"- {_sentence(analysis, model, control, rates)}")
    if not lines:
        return ""
    text = (
        f"## Does the hardness coefficient matter?\n\n`{FOCUS}` against the same method without the "
        "coefficient (`grpo_irl`) and with its mean held constant (`dr_irl_constant`), on the same prompts, "
        "in points. One interval in twenty misses by chance alone.\n\n"
    )
    return text + "\n".join(lines)


def _sentence(analysis: Analysis, model: str, control: str, rates: Sequence[Column]) -> str:
    texts, told, missing = [], [], []
    for title, benchmark, metric in rates:
        difference = analysis.difference(model, FOCUS, control, benchmark, metric)
        estimate = difference.estimate if difference else None
        if difference is None or estimate is None or estimate.low is None:
            missing.append(title.lower())
            continue
        texts.append(f"{title.lower()} {_points(difference)}")
        if estimate.excludes_zero:
            better = (estimate.value > 0) == difference.higher_is_better
            told.append(f"{title.lower()} ({'better' if better else 'worse'})")
    start = f"{escape(model)}, {code(FOCUS)} minus {code(control)}: "
    if not texts:
        return start + "missing."
    if told:
        end = f"A difference is seen in {', '.join(told)}; the other intervals include zero."
        if len(told) == len(texts):
            end = f"A difference is seen in {', '.join(told)}."
    else:
        end = "Every interval includes zero: **no difference can be told at this size.**"
    if missing:
        end += f" Missing: {', '.join(missing)}."
    return f"{start}{'; '.join(texts)}. {end}"


def _differences(analysis: Analysis, rates: Sequence[Column], notes: Notes) -> str:
    if notes.reference not in analysis.records.methods:
        return (
            f"## Differences\n\nThe reference method {code(notes.reference)} is not among the methods, "
            "so there are none."
        )
    lines = []
    for model in analysis.records.models:
        for method in analysis.records.methods:
            if method == notes.reference:
                continue
            cells = []
            for _, benchmark, metric in rates:
                difference = analysis.difference(model, method, notes.reference, benchmark, metric)
                cells.append(_points(difference, bold=True))
            lines.append([escape(model), code(method), *cells])
    titles = [f"{title} {_arrow(analysis, benchmark, metric)}" for title, benchmark, metric in rates]
    return (
        f"## Differences from {code(notes.reference)}\n\nMethod minus reference on the same prompts, in "
        "points; bold where the interval excludes zero (not corrected for the number of comparisons).\n\n"
        + _table(["Model", "Method", *titles], lines)
    )


def _spread(analysis: Analysis, rates: Sequence[Column]) -> str:
    lines = []
    for model in analysis.records.models:
        for title, benchmark, metric in rates:
            rows = [analysis.row(model, method, benchmark, metric) for method in analysis.records.methods]
            known = [row for row in rows if row is not None and row.value is not None]
            trained = [row for row in known if row.method not in UNTRAINED]
            if len(known) < 2:
                continue
            cells = [escape(model), title, _points_between(known)]
            if len(trained) < 2:
                cells += ["", "", ""]
            else:
                low = min(trained, key=lambda row: row.value or 0.0)
                high = max(trained, key=lambda row: row.value or 0.0)
                gap = analysis.difference(model, high.method, low.method, benchmark, metric)
                text = "0.0" if high.method == low.method else _points(gap)
                cells += [code(low.method), code(high.method), text]
            lines.append(cells)
    if not lines:
        return ""
    return (
        "## Spread of the methods\n\nHighest minus lowest value, in points. The interval is that of the two "
        "trained methods that turned out lowest and highest; picked afterwards, they look further apart than "
        "they are.\n\n"
        + _table(
            ["Model", "Metric", "All methods", "Lowest trained", "Highest trained", "Trained methods"], lines
        )
    )


def _by_category(analysis: Analysis) -> str:
    parts = []
    for benchmark, metric in analysis.records.keys():
        names = [
            name
            for name in CATEGORIES
            if any(
                (r.benchmark, r.metric) == (benchmark, f"{metric}[category={name}]") for r in analysis.rows
            )
        ]
        if not names or metric in POOLED:
            continue
        lines, sizes = [], []
        for name in names:
            rows = [
                row
                for row in analysis.rows
                if (row.benchmark, row.metric) == (benchmark, f"{metric}[category={name}]")
            ]
            sizes.append(f"{name} {_span(sorted({row.n for row in rows if row.n is not None}))}")
        for model in analysis.records.models:
            for method in analysis.records.methods:
                cells = [
                    _cell(
                        analysis.row(model, method, benchmark, f"{metric}[category={name}]"),
                        analysis.is_rate(benchmark, metric),
                    )
                    for name in names
                ]
                lines.append([escape(model), code(method), *cells])
        arrow = _arrow(analysis, benchmark, metric)
        parts.append(
            f"## By category: {code(benchmark)}, {escape(metric.replace('_', ' '))} {arrow}\n\n"
            + _table(["Model", "Method", *(escape(name) for name in names)], lines)
            + f"\n\nPrompts: {escape('; '.join(sizes))}."
        )
    return "\n\n".join(parts)


def _mean_reward(analysis: Analysis) -> str:
    names = [benchmark for benchmark, metric in analysis.records.keys() if metric == "mean_reward"]
    if not names:
        return ""
    lines = [
        [
            escape(model),
            code(method),
            *(_cell(analysis.row(model, method, name, "mean_reward"), rate=False) for name in names),
        ]
        for model in analysis.records.models
        for method in analysis.records.methods
    ]
    return (
        "## Mean reward ↑\n\nScore of the completions under the category rewards of the same base model "
        "(standard deviations from the mean of validation demonstrations and samples). Methods trained on "
        "these rewards can exploit them, so this is no measure of safety.\n\n"
        + _table(["Model", "Method", *(code(name) for name in names)], lines)
    )


def _rewards(model: str, report: dict[str, Any]) -> str:
    """Show held-out pairwise accuracy of the last category rewards and of the static one."""
    iterations = report.get("iterations") or []
    parts = [f"## Reward accuracy: {escape(model)}"]
    split = report.get("split")
    parts.append(
        "Pairwise accuracy on held-out prompts: how often the demonstration scores above the reply named by "
        "the row, in percent with interval and pairs" + (f"; split `{escape(split)}`." if split else ".")
    )
    if iterations:
        last = iterations[-1]
        parts.append(f"Category rewards, iteration {len(iterations)} of {len(iterations)}:")
        parts.append(_accuracy_table(last))
        met = [
            f"{escape(name.replace('_', ' '))}: lowest {100 * cell['lowest']:.1f} in "
            f"{escape(cell['where'])}, bar {100 * cell['required']:g}, {'met' if cell['met'] else 'not met'}"
            for name, cell in last.get("acceptance", {}).items()
        ]
        if met:
            parts.append("; ".join(met) + ".")
    if "static" in report:
        parts.append("The one static reward:")
        parts.append(_accuracy_table(report["static"]))
    return "\n\n".join(parts)


def _accuracy_table(part: dict[str, Any]) -> str:
    groups = part.get("groups", {})
    names = list(dict.fromkeys(name for group in groups.values() for name in group["cells"]))
    lines = []
    for name in names:
        cells = []
        for group in groups.values():
            cell = group["cells"].get(name)
            if cell is None:
                cells.append("")
            elif cell["accuracy"] is None:
                cells.append("missing")
            else:
                cells.append(_interval(cell["accuracy"], cell["low"], cell["high"], 100) + f", n={cell['n']}")
        lines.append([escape(name.replace("_", " ")), *cells])
    titles = [
        escape(CATEGORIES[int(group)]) if group.isdigit() and int(group) < len(CATEGORIES) else escape(group)
        for group in groups
    ]
    return _table(["Demonstration against", *titles], lines)


def _looks(notes: Notes) -> str:
    text = "## How often the test split was looked at\n\n"
    if notes.looks is None:
        return text + "No record is kept (`docs/test_looks.yaml` is missing)."
    times = {0: "Not yet.", 1: "Once."}.get(len(notes.looks), f"{len(notes.looks)} times.")
    if not notes.looks:
        return text + times
    lines = [[escape(look.date), escape(look.commit), escape(look.why)] for look in notes.looks]
    return f"{text}{times}\n\n" + _table(["Date", "Commit", "Why"], lines)


def _reading(notes: Notes) -> str:
    return (
        "## Reading and tracing\n\n"
        f"Intervals: {notes.draws} bootstrap draws that redraw intents and the spread between seeds "
        "(`docs/statistics.md`). `missing` is a cell without records; it is never counted as 0. All rows, "
        "with published values where benchmark, metric, method and base model agree: `comparison.csv`. All "
        "paired differences: `differences.csv`. Per-prompt records behind a row: `drirl trace --model M "
        "--method X --benchmark B --metric Y` with the words of its line in `comparison.csv`."
    )


def _points_between(rows: Sequence[Row]) -> str:
    values = [row.value for row in rows if row.value is not None]
    return f"{100 * (max(values) - min(values)):.1f}"


def _points(difference: Difference | None, *, bold: bool = False) -> str:
    estimate = difference.estimate if difference else None
    if estimate is None:
        return "missing"
    text = _interval(estimate.value, estimate.low, estimate.high, 100, sign="+")
    return f"**{text}**" if bold and estimate.excludes_zero else text


def _cell(row: Row | None, rate: bool) -> str:
    if row is None or row.value is None:
        return "missing"
    if row.benchmark == TRAINING:
        return f"{row.value:,.0f}".replace(",", " ")
    if rate:
        return _interval(row.value, row.low, row.high, 100)
    return _interval(row.value, row.low, row.high, 1, digits=2)


def _interval(
    value: float, low: float | None, high: float | None, scale: float, *, digits: int = 1, sign: str = ""
) -> str:
    texts = []
    for number in (value, low, high):
        text = "" if number is None else f"{scale * number:{sign}.{digits}f}"
        if text and float(text) == 0:
            text = text.lstrip("+-")
        texts.append(text.replace("-", "−"))
    return texts[0] if low is None or high is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _arrow(analysis: Analysis, benchmark: str, metric: str) -> str:
    for row in analysis.rows:
        if (row.benchmark, row.metric) == (benchmark, metric):
            return "↑" if row.higher_is_better else "↓"
    return ""


def _span(values: Sequence[int]) -> str:
    if not values:
        return "0"
    return str(values[0]) if len(values) == 1 else f"{values[0]}–{values[-1]}"


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join(head + [f"| {' | '.join(line)} |" for line in lines])
