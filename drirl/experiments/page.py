"""One page per experiment: question, answer, what was run, tables with intervals, figure, limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drirl.compare.names import code, escape
from drirl.compare.stats import Bootstrap, Estimate
from drirl.compare.tables import COLUMNS, Analysis, number, write_csv
from drirl.experiments.answer import Verdict, judge, overall
from drirl.experiments.gather import Gathered, gather
from drirl.experiments.measures import find
from drirl.experiments.plan import Contrast, Plan
from drirl.records import RunRecord, atomic_write, read_jsonl

__all__ = ["Fact", "Section", "conclude", "folder_of", "markdown_table", "write_page"]

MISSING = "missing"


FACTS = ("part", "name", "measure", "value", "ci_low", "ci_high", "n")
"""Columns of the csv of a page without arms; an empty value is missing, empty limits: no interval."""


@dataclass(frozen=True)
class Fact:
    """One number of a page: ``name`` in ``part`` has the ``value`` of ``measure``."""

    part: str
    name: str
    measure: str
    value: float | str | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def cells(self) -> list[str]:
        """Return the cells of :data:`FACTS`."""
        value = self.value if isinstance(self.value, str) else number(self.value)
        count = "" if self.n is None else str(self.n)
        return [self.part, self.name, self.measure, value, number(self.low), number(self.high), count]


@dataclass
class Section:
    """What an extra section adds: Markdown, an answer where it has one, and its numbers.

    Attributes:
        facts: the page's csv where it compares no arms, otherwise a second csv beside it.
    """

    text: str
    answers: dict[str, str] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """A contrast on one model, with what it says; ``seeds``: how many either arm has."""

    contrast: Contrast
    model: str
    title: str
    estimate: Estimate | None
    higher_is_better: bool
    verdict: Verdict
    seeds: tuple[int, int] = (0, 0)


def folder_of(name: str) -> str:
    """Return the folder under the reports that a page belongs to."""
    return "questions" if name.startswith("q") else "tables"


def write_page(plan: Plan, name: str, reports: Path | None = None) -> list[Path]:
    """Write ``<reports>/{tables,questions}/<name>.md`` with its csv and figure; return the files.

    Raises:
        DrirlError: unknown experiment, malformed records.
    """
    experiment = plan.experiment(name)
    target = Path(reports or plan.params.compare.reports) / folder_of(name)
    reason = plan.unavailable(experiment)
    found = gather(plan, name) if not experiment.needs else None
    rows: list[list[str]] = []
    columns: Sequence[str] = COLUMNS
    parts = [f"# {_label(name)}: {experiment.title}", _notice(plan), f"**Question.** {experiment.question}"]
    files = [target / f"{name}.md", target / f"{name}.csv"]
    if experiment.needs or found is None:
        parts.append(f"**Answer.** Not available: needs {experiment.needs}.")
    else:
        from drirl.experiments.extras import build

        extras = [build(extra, found, target) for extra in experiment.extra]
        judged = conclude(found)
        answers = [_answer(found, judged, reason)] if experiment.contrasts or not extras else []
        answers += [f"- {text}" for section in extras for text in section.answers.values()]
        parts.append("**Answer.** " + "\n".join(text for text in answers if text).removeprefix("- "))
        parts += [_what_was_run(found), _measures(found), _contrasts(judged, found)]
        if found.analysis is not None and experiment.arms:
            rows = _rows(found)
            figure = _figure(found, target / f"{name}.png")
            if figure is not None:
                files.append(figure)
                parts.insert(4, f"![{name}]({figure.name})")
        parts += [section.text for section in extras]
        facts = [fact.cells() for section in extras for fact in section.facts]
        if facts and not rows:
            columns, rows = FACTS, facts
        elif facts:
            files.append(target / f"{name}_more.csv")
            write_csv(files[-1], FACTS, facts)
    parts.append(_limits(plan, name, found, [f.name for f in files if f.suffix == ".csv"]))
    write_csv(target / f"{name}.csv", columns, rows)
    with atomic_write(target / f"{name}.md") as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return files


def conclude(found: Gathered) -> list[Judged]:
    """Judge every contrast on every model; differences sought in several contrasts share one error rate.

    The rule ``any`` looks for one difference among many: the intervals are widened (Bonferroni), so that
    all of them together miss in one case of twenty.
    """
    level = 1 - (1 - found.bootstrap.confidence) / (_shared(found) or 1)
    return [_judge(found, c, model, level) for model in found.models for c in found.experiment.contrasts]


def _shared(found: Gathered) -> int:
    """Return how many contrasts share one error rate; 0 if each has its own."""
    count = len(found.experiment.contrasts)
    return count if count > 1 and found.experiment.rule == "any" else 0


def _judge(found: Gathered, contrast: Contrast, model: str, confidence: float) -> Judged:
    analysis = found.analysis
    place = find(analysis, contrast.metric) if analysis is not None else None
    if analysis is None or place is None:
        return Judged(contrast, model, contrast.metric, None, True, Verdict("missing"))
    title, benchmark, metric = place
    row = analysis.row(model, contrast.of, benchmark, metric)
    higher = row.higher_is_better if row is not None else True
    estimate = paired(analysis, contrast, model, benchmark, metric, confidence)
    verdict = judge(
        estimate,
        contrast.expect,
        higher_is_better=higher,
        margin=found.experiment.margin,
        confidence=confidence,
    )
    counts = _seeds(found)
    seeds = counts.get((model, contrast.of), 0), counts.get((model, contrast.against), 0)
    return Judged(contrast, model, title, estimate, higher, verdict, seeds)


def _seeds(found: Gathered) -> dict[tuple[str, str], int]:
    """Return how many seeds have records, by (model, label); an untrained policy has one."""
    cells = found.analysis.records.cells if found.analysis is not None else {}
    return {
        place: max((len(scores.seeds) for scores in cell.values()), default=0)
        for place, cell in cells.items()
    }


def paired(
    analysis: Analysis, contrast: Contrast, model: str, benchmark: str, metric: str, confidence: float
) -> Estimate | None:
    """Return the paired difference of a contrast at a confidence level, None where a side is missing."""
    if math.isclose(confidence, analysis.bootstrap.confidence):
        found = analysis.difference(model, contrast.of, contrast.against, benchmark, metric)
        return found.estimate if found is not None else None
    kept = analysis.bootstrap
    analysis.bootstrap = Bootstrap(kept.seed, kept.draws, confidence)
    try:
        return analysis._difference(model, contrast.of, contrast.against, benchmark, metric)
    finally:
        analysis.bootstrap = kept


def _answer(found: Gathered, judged: Sequence[Judged], reason: str) -> str:
    if found.analysis is None:
        return f"Not run: {reason or 'no arm of it has records yet'}."
    texts = []
    for model in found.models:
        own = [j for j in judged if j.model == model]
        outcome = overall([j.verdict for j in own], found.experiment.rule)
        words = {
            "yes": found.experiment.if_yes,
            "no": found.experiment.if_no,
            "unclear": "cannot tell at this n",
            "missing": "not known, arms are missing",
        }[outcome]
        if outcome == "no" and any(j.verdict.opposite for j in own) and found.experiment.rule == "all":
            words += " (at least one difference points the other way)"
        if outcome == "unclear":
            words += f": {_needed(own)}"
        texts.append(f"{escape(model)}: **{words}**.")
    return " ".join(texts)


def _needed(judged: Sequence[Judged]) -> str:
    unclear = [j for j in judged if j.verdict.factor is not None and j.estimate is not None]
    worst = max(unclear, key=lambda j: j.verdict.factor or 0.0)
    return _take(worst)


def _take(judged: Judged) -> str:
    estimate, factor = judged.estimate, judged.verdict.factor
    assert estimate is not None
    assert factor is not None
    return (
        f"it would take about {math.ceil(factor * estimate.clusters)} intents and "
        f"{math.ceil(factor * max(judged.seeds))} seeds ({factor:.1f} times as many) to tell "
        f"{100 * (judged.verdict.difference or 0):.1f} points"
    )


def _what_was_run(found: Gathered) -> str:
    if not found.experiment.arms:
        return ""
    lines = []
    seeds = _seeds(found)
    for label, name in found.experiment.arms.items():
        arm = found.arms.get(label)
        declared = found.plan.arms.get(name)
        what = declared.why if declared is not None else "headline cell" if arm and arm.headline else ""
        changes = ", ".join(f"{k} = {v}" for k, v in declared.set.items()) if declared is not None else ""
        counts = [f"{seeds[model, label]}" if (model, label) in seeds else MISSING for model in found.models]
        lines.append([escape(label), code(name), escape(what), escape(changes), ", ".join(counts)])
    heads = ["Arm", "Name", "What it is", "Changed settings", f"Seeds ({', '.join(found.models)})"]
    text = "## What was run\n\n" + markdown_table(heads, lines)
    gaps = [
        f"{escape(label)} on {escape(model)}: {escape(why)}" for (model, label), why in found.missing.items()
    ]
    return text + ("\n\nMissing: " + "; ".join(gaps) + "." if gaps else "")


def _measures(found: Gathered) -> str:
    analysis = found.analysis
    if analysis is None or not found.experiment.arms:
        return ""
    places = [place for name in found.experiment.metrics if (place := find(analysis, name)) is not None]
    places = list(dict.fromkeys(places))
    lines, sizes = [], {}
    for model in found.models:
        for label in found.experiment.arms:
            cells = []
            for title, benchmark, metric in places:
                row = analysis.row(model, label, benchmark, metric)
                if row is None or row.value is None:
                    cells.append(MISSING)
                    continue
                sizes[title] = f"{title} {row.n} prompts of {row.clusters} intents"
                bounds = (
                    ""
                    if row.low is None or row.high is None
                    else f" ({_percent(row.low)}–{_percent(row.high)})"
                )
                cells.append(_percent(row.value) + bounds)
            lines.append([escape(model), escape(label), *cells])
    heads = ["Model", "Arm"]
    for title, benchmark, metric in places:
        up = next(r.higher_is_better for r in analysis.rows if (r.benchmark, r.metric) == (benchmark, metric))
        heads.append(f"{escape(title)} {'↑' if up else '↓'}")
    level = f"{100 * found.bootstrap.confidence:g}"
    return (
        "## Scores\n\n"
        + markdown_table(heads, lines)
        + f"\n\nShares in percent with {level} % intervals over intents and seeds; ↑ higher is better. n: "
        + "; ".join(sizes.values())
        + "."
    )


def _contrasts(judged: Sequence[Judged], found: Gathered) -> str:
    if not judged:
        return ""
    words = {
        "higher": "higher",
        "lower": "lower",
        "differs": "differs",
        "not_worse": f"not worse by {100 * found.experiment.margin:g} points",
    }
    lines = []
    for j in judged:
        estimate, outcome = j.estimate, str(j.verdict.outcome)
        if estimate is None or estimate.low is None or estimate.high is None:
            shown, n = MISSING, ""
        else:
            shown = f"{_points(estimate.value)} ({_points(estimate.low)} to {_points(estimate.high)})"
            seeds = " and ".join(str(count) for count in dict.fromkeys(j.seeds))
            n = f"{estimate.n} / {estimate.clusters} / {seeds}"
            if outcome == "unclear":
                outcome = f"cannot tell; {_take(j)}"
            elif j.verdict.opposite:
                outcome = "no, the other way"
        pair = f"{j.contrast.of} − {j.contrast.against}"
        lines.append(
            [escape(j.model), escape(pair), escape(j.title), words[j.contrast.expect], shown, n, outcome]
        )
    heads = ["Model", "Difference", "Measure", "Expected", "Points", "Prompts / intents / seeds", "Found"]
    count = _shared(found)
    note = (
        f"\n\nThe intervals share one error rate over the {count} differences (Bonferroni)." if count else ""
    )
    return "## What decides\n\n" + markdown_table(heads, lines) + note


def _rows(found: Gathered) -> list[list[str]]:
    """Return the rows of the csv: the measures of the page; missing cells have empty values."""
    assert found.analysis is not None
    wanted = {place[1:] for name in found.experiment.metrics if (place := find(found.analysis, name))}
    return [row.cells() for row in found.analysis.rows if (row.benchmark, row.metric) in wanted]


def _figure(found: Gathered, path: Path) -> Path | None:
    from drirl.experiments.figures import draw_intervals

    assert found.analysis is not None
    places = [p for name in found.experiment.metrics if (p := find(found.analysis, name)) is not None]
    panels = []
    for title, benchmark, metric in list(dict.fromkeys(places))[:4]:
        rows = {
            model: [
                (label, found.analysis.row(model, label, benchmark, metric))
                for label in found.experiment.arms
            ]
            for model in found.models
        }
        panels.append((title, rows))
    if not panels:
        return None
    notice = found.notice
    return draw_intervals(path, panels, list(found.experiment.arms), notice)


def _limits(plan: Plan, name: str, found: Gathered | None, numbers: Sequence[str]) -> str:
    limits = list(plan.experiment(name).limits)
    if found is not None and plan.experiment(name).arms:
        limits.append(
            f"{_seeds_said(found)}; rewards and data are of one seed; profile "
            f"{plan.params.run.profile}, split {plan.params.evaluate.split}."
        )
    lines = "\n".join(f"- {limit}" for limit in limits)
    made = f"Made by `dvc repro experiments/dvc.yaml:{name}` from records alone; numbers: " + (
        ", ".join(code(file) for file in numbers) + "."
    )
    bases = _bases(plan, found) if found is not None else []
    if bases:
        made += f" Base policies, by a hash of their files: {', '.join(bases)}."
    return (f"## Limits\n\n{lines}\n\n" if lines else "") + made


def _seeds_said(found: Gathered) -> str:
    """Say how many training seeds the arms have, the arms with fewer by name."""
    full = len(found.plan.params.run.seeds)
    fewer: dict[int, list[str]] = {}
    for (_, label), count in sorted(_seeds(found).items()):
        if count < full and label not in fewer.setdefault(count, []):
            fewer[count].append(label)
    rest = "".join(f"; {count} of {', '.join(labels)}" for count, labels in sorted(fewer.items()))
    return f"{full} training seeds per arm{rest}"


def _bases(plan: Plan, found: Gathered) -> list[str]:
    """Name the base policies behind a page that has cells of the headline, where they were scored."""
    if not any(arm.headline for arm in found.arms.values()):
        return []
    scored = plan.params.run.out / "evaluate"
    paths = {model: scored / model / "base" / "runs.jsonl" for model in found.models}
    return [
        f"{escape(model)} {code(read_jsonl(path, RunRecord)[0].policy_hash)}"
        for model, path in paths.items()
        if path.is_file()
    ]


def _notice(plan: Plan) -> str:
    if plan.params.run.meaningful:
        return ""
    return f"> **Wiring check, numbers are meaningless** (profile {code(plan.params.run.profile)})."


def _label(name: str) -> str:
    kinds = {"table": "Table", "fig": "Figure", "q": "Question"}
    for prefix, word in kinds.items():
        rest = name.removeprefix(prefix)
        if rest != name and rest[:1].isdigit():
            return f"{word} {rest.lstrip('0')}"
    return name


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; cells are inert already."""
    head = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join(head + [f"| {' | '.join(line)} |" for line in lines])
