"""Stage ``compare``: tables, figures and a page in ``reports/`` from records alone; needs no model or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl.compare.collect import collect
from drirl.compare.columns import headline_columns
from drirl.compare.cost import read_costs, write_costs
from drirl.compare.curves import Curves, read_curves, write_curves
from drirl.compare.published import load_published
from drirl.compare.report import Notes, load_looks, render
from drirl.compare.stats import Bootstrap
from drirl.compare.tables import COLUMNS, DIFFERENCE_COLUMNS, Analysis, write_csv
from drirl.config import Params, project_root
from drirl.errors import DrirlError, nearest
from drirl.records import atomic_write, write_json

if TYPE_CHECKING:
    from drirl.compare.page.render import Figure

__all__ = ["DEFAULT_FORMATS", "FORMATS", "TEXTS", "run"]

FORMATS = ("csv", "md", "html", "latex")
DEFAULT_FORMATS = ("csv", "md", "html")
TEXTS = ("bundled", "all", "none")
"""Whose prompts and completions the page holds."""


def run(
    params: Params,
    *,
    reference: str | None = None,
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
    judges: Sequence[str] | None = None,
    output: Path | None = None,
    formats: Sequence[str] | None = None,
    allow_uneven: bool | None = None,
    texts: str = "bundled",
) -> None:
    """Read the records and write the reports.

    Always: metrics.json. ``csv``: comparison.csv, differences.csv, training.csv, alpha.csv. ``md``:
    comparison.md. ``html``: index.html. Both with the figures, each with its csv. ``latex``: comparison.tex.
    cost.csv, cost.md and cost_gain.png are written if costs were measured; they differ between runs and
    belong to no hash.

    Args:
        reference: method the others are compared with; default ``compare.reference``.
        models, methods, benchmarks: use these only; default all of params.yaml, all that were recorded.
        judges: folders of ``out/judge`` whose scores become columns too; default none.
        output: folder to write to; default ``compare.reports``.
        formats: any of :data:`FORMATS`; default :data:`DEFAULT_FORMATS`.
        allow_uneven: default ``compare.allow_uneven``.
        texts: prompts and completions in index.html: of the bundled sets, all, or none.
    Raises:
        DrirlError: unknown name, nothing recorded, malformed or uneven records.
    """
    settings, wanted = params.compare, list(formats or DEFAULT_FORMATS)
    for name in wanted:
        _known("--format", name, FORMATS)
    _known("--texts", texts, TEXTS)
    models = _choose("--models", models, params.run.models)
    methods = _choose("--methods", methods, params.run.methods)
    if reference is not None:
        _known("--reference", reference, methods)
    notes = Notes(
        profile=params.run.profile,
        meaningful=params.run.meaningful,
        split=params.evaluate.split,
        reference=reference or settings.reference,
        confidence=settings.confidence,
        draws=settings.bootstrap,
        looks=load_looks(settings.test_looks),
    )
    records = collect(
        params.run.out,
        models,
        methods,
        params.run.seeds,
        benchmarks=benchmarks,
        judges=judges or (),
        allow_uneven=settings.allow_uneven if allow_uneven is None else allow_uneven,
    )
    published = load_published(
        settings.published, {name: spec.path or "" for name, spec in params.base.models.items()}
    )
    analysis = Analysis(
        records,
        Bootstrap(seed=params.run.seed, draws=settings.bootstrap, confidence=settings.confidence),
        published,
    )
    reports = Path(output or settings.reports)
    if "csv" in wanted:
        write_csv(reports / "comparison.csv", COLUMNS, (row.cells() for row in analysis.rows))
        differences = analysis.differences(notes.reference) if notes.reference in methods else []
        write_csv(
            reports / "differences.csv",
            DIFFERENCE_COLUMNS,
            (difference.cells() for difference in differences),
        )
    curves = read_curves(params.run.out, models, methods)
    if {"csv", "md", "html"} & set(wanted):
        write_curves(curves, reports)
    if {"md", "html"} & set(wanted):
        figures = _draw(analysis, curves, reports, _notice(notes))
        notes = replace(notes, figures=tuple(figure.path.name for figure in figures))
        report = render(analysis, notes)
        if "md" in wanted:
            _write(reports / "comparison.md", report)
        if "html" in wanted:
            _write_page(params, analysis, notes, report, figures, reports, texts)
    if "latex" in wanted:
        from drirl.compare.latex import render_latex

        _write(reports / "comparison.tex", render_latex(analysis, notes))
    write_json(reports / "metrics.json", _metrics(analysis))
    if write_costs(params.run.out, reports):
        from drirl.compare.panels import draw_cost_gain

        draw_cost_gain(analysis, read_costs(params.run.out), reports, notice=_notice(notes))


def _notice(notes: Notes) -> str:
    return "" if notes.meaningful else "; wiring check, numbers are meaningless"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _draw(analysis: Analysis, curves: Curves, reports: Path, notice: str) -> list[Figure]:
    """Draw the figures that depend on records alone; return those with data, in the order of the page."""
    from drirl.compare import figures, panels
    from drirl.compare.page.render import Figure

    drawn = (
        (
            figures.draw_tradeoff(analysis, reports, notice=notice),
            "Refusal of harmful prompts against helpfulness and false refusal, one point per policy.",
        ),
        (
            panels.draw_levels(analysis, reports, notice=notice),
            "Refusal of harmful and false refusal of benign prompts by difficulty level.",
        ),
        (
            panels.draw_overrefusal(analysis, reports, notice=notice),
            "Over-refusal: false refusal of harmless prompts on every benchmark that measures it.",
        ),
        (
            figures.draw_categories(analysis, reports, notice=notice),
            "Refusal of harmful prompts by harm category.",
        ),
        (
            panels.draw_gain(analysis, reports, notice=notice),
            "Gain in refusal over the base policy against the tokens a method generates and trains on.",
        ),
        (
            panels.draw_alpha(curves.alpha, reports, notice=notice),
            "Hardness coefficient alpha of each category over the updates.",
        ),
        (
            panels.draw_rewards(analysis.records.rewards, reports, notice=notice),
            "Held-out pairwise accuracy of the rewards per category and of the one static reward.",
        ),
    )
    return [Figure(files[0], text) for files, text in drawn if _shows_something(files[0])]


def _shows_something(figure: Path) -> bool:
    """Return whether the csv file beside a figure has a line below its header."""
    return len(figure.with_suffix(".csv").read_text(encoding="utf-8").splitlines()) > 1


def _write_page(
    params: Params,
    analysis: Analysis,
    notes: Notes,
    report: str,
    figures: Sequence[Figure],
    reports: Path,
    texts: str,
) -> None:
    from drirl.compare.page.cards import cards
    from drirl.compare.page.records import archive
    from drirl.compare.page.render import write_page

    write_page(
        reports / "index.html",
        analysis,
        notes,
        report=report,
        archive=archive(params.run.out, analysis.records, sources=params.data.sources, texts=texts),
        figures=figures,
        cards=cards(params, analysis.records.methods, project_root() / "baselines"),
    )


def _metrics(analysis: Analysis) -> dict[str, Any]:
    """Return the headline values by model, method and column, for ``dvc metrics``."""
    values: dict[str, Any] = {}
    for model in analysis.records.models:
        for method in analysis.records.methods:
            for title, benchmark, metric in headline_columns(analysis):
                row = analysis.row(model, method, benchmark, metric)
                if row is not None and row.value is not None:
                    name = title.lower().replace(",", "").replace(" ", "_")
                    values.setdefault(model, {}).setdefault(method, {})[name] = round(row.value, 4)
    return values


def _choose(option: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    if names is None:
        return list(known)
    for name in names:
        _known(option, name, known)
    return [name for name in known if name in names]


def _known(option: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise DrirlError(f"{option}: unknown name '{name}'; {nearest(name, known)}")
