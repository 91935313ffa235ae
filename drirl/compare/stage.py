"""Stage ``compare``: tables and figures in ``reports/`` from records alone; needs no model and no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drirl.compare.collect import collect
from drirl.compare.cost import write_costs
from drirl.compare.curves import write_curves
from drirl.compare.published import load_published
from drirl.compare.report import Notes, headline_columns, load_looks, render
from drirl.compare.stats import Bootstrap
from drirl.compare.tables import COLUMNS, DIFFERENCE_COLUMNS, Analysis, write_csv
from drirl.config import Params
from drirl.errors import DrirlError, nearest
from drirl.records import atomic_write, write_json

__all__ = ["FORMATS", "run"]

FORMATS = ("csv", "md")


def run(
    params: Params,
    *,
    reference: str | None = None,
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
    output: Path | None = None,
    formats: Sequence[str] | None = None,
    allow_uneven: bool | None = None,
) -> None:
    """Read the records and write the reports.

    Always: metrics.json. ``csv``: comparison.csv, differences.csv, training.csv, alpha.csv. ``md``:
    comparison.md with tradeoff.png and categories.png, each with its csv. cost.csv and cost.md are written
    if costs were measured; they differ between runs and belong to no hash.

    Args:
        reference: method the others are compared with; default ``compare.reference``.
        models, methods, benchmarks: use these only; default all of params.yaml, all that were recorded.
        output: folder to write to; default ``compare.reports``.
        formats: any of csv and md; default both.
        allow_uneven: default ``compare.allow_uneven``.
    Raises:
        DrirlError: unknown name, nothing recorded, malformed or uneven records.
    """
    settings, wanted = params.compare, list(formats or FORMATS)
    for name in wanted:
        _known("--format", name, FORMATS)
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
        write_curves(params.run.out, reports, models, methods)
    if "md" in wanted:
        _write_report(analysis, notes, reports)
    write_json(reports / "metrics.json", _metrics(analysis))
    write_costs(params.run.out, reports)


def _write_report(analysis: Analysis, notes: Notes, reports: Path) -> None:
    from dataclasses import replace

    from drirl.compare.figures import draw_categories, draw_tradeoff

    notice = "" if notes.meaningful else "; wiring check, numbers are meaningless"
    files = [
        *draw_tradeoff(analysis, reports, notice=notice),
        *draw_categories(analysis, reports, notice=notice),
    ]
    notes = replace(notes, figures=tuple(path.name for path in files if path.suffix == ".png"))
    with atomic_write(reports / "comparison.md") as temporary:
        temporary.write_text(render(analysis, notes), encoding="utf-8")


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
