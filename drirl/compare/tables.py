"""Rows of ``comparison.csv`` and of the paired differences; every row leads back to per-prompt records."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drirl.compare.collect import Records
from drirl.compare.names import ALL, MEANS, PARTS, POOLED, TRAINING, judged_again
from drirl.compare.published import Published
from drirl.compare.scores import Scores, slices
from drirl.compare.significance import cohens_h, detectable, holm, mcnemar, standardised
from drirl.compare.stats import Bootstrap, Estimate, Measured
from drirl.records import atomic_write

__all__ = ["COLUMNS", "DIFFERENCE_COLUMNS", "Analysis", "Difference", "Row", "number", "small", "write_csv"]

COLUMNS = (
    "model",
    "method",
    "benchmark",
    "metric",
    "higher_is_better",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "seeds",
    "published",
    "published_source",
    "deviation",
    "judge",
    "template_hash",
)
"""The first twelve are a contract; further ones come after them."""

DIFFERENCE_COLUMNS = (
    "model",
    "method",
    "reference",
    "benchmark",
    "metric",
    "higher_is_better",
    "difference",
    "ci_low",
    "ci_high",
    "n",
    "intents",
    "seeds",
    "p_permutation",
    "p_holm",
    "p_mcnemar",
    "effect_size",
    "minimum_detectable",
)

COUNTS = ("updates", "generated_tokens", "trained_tokens")


@dataclass(frozen=True)
class Row:
    """One cell of the comparison; ``value`` is None where it is missing.

    Attributes:
        n: prompts with at least one score.
        scores: scores there could be: prompts that any policy was asked in this column, in every seed.
        absent: how many of them are missing.
    """

    model: str
    method: str
    benchmark: str
    metric: str
    higher_is_better: bool
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    seeds: int | None
    clusters: int | None = None
    published: float | None = None
    published_source: str = ""
    judge: str = ""
    template_hash: str = ""
    scores: int = 0
    absent: int = 0

    @property
    def deviation(self) -> float | None:
        """Ours minus the published value; None where there is no published value of the same cell."""
        return None if self.value is None or self.published is None else self.value - self.published

    def cells(self) -> list[str]:
        """Return the texts of one line of comparison.csv."""
        return [
            self.model,
            self.method,
            self.benchmark,
            self.metric,
            "true" if self.higher_is_better else "false",
            number(self.value),
            number(self.low),
            number(self.high),
            "" if self.n is None else str(self.n),
            "" if self.seeds is None else str(self.seeds),
            number(self.published),
            self.published_source,
            number(self.deviation),
            self.judge,
            self.template_hash,
        ]


@dataclass(frozen=True)
class Difference:
    """One method minus the reference on the same prompts; ``estimate`` is None where a cell is missing.

    Attributes:
        p_permutation: of the deciding test (:meth:`Bootstrap.permutation`).
        p_holm: the same after Holm's correction over the methods set against this reference on this model,
            benchmark and metric.
        p_mcnemar: of McNemar's exact test; None for scores other than 0 and 1.
        effect_size: Cohen's h of two shares, else the standardised mean of the paired differences.
        minimum_detectable: smallest true difference found with 80 % power at this size.

    The last five are filled in by :meth:`Analysis.tested` and :meth:`Analysis.differences`.
    """

    model: str
    method: str
    reference: str
    benchmark: str
    metric: str
    higher_is_better: bool
    estimate: Estimate | None
    p_permutation: float | None = None
    p_holm: float | None = None
    p_mcnemar: float | None = None
    effect_size: float | None = None
    minimum_detectable: float | None = None

    def significant(self, level: float) -> bool:
        """Return whether the corrected p-value is below ``level`` (for example 0.05)."""
        return self.p_holm is not None and self.p_holm < level

    @property
    def better(self) -> bool:
        """Whether the value, as seen, is better than that of the reference."""
        return self.estimate is not None and (
            self.estimate.value > 0 if self.higher_is_better else self.estimate.value < 0
        )

    def cells(self) -> list[str]:
        """Return the texts of one line of differences.csv."""
        estimate = self.estimate
        return [
            self.model,
            self.method,
            self.reference,
            self.benchmark,
            self.metric,
            "true" if self.higher_is_better else "false",
            number(estimate.value if estimate else None),
            number(estimate.low if estimate else None),
            number(estimate.high if estimate else None),
            str(estimate.n) if estimate else "",
            str(estimate.clusters) if estimate else "",
            str(estimate.seeds) if estimate else "",
            number(self.p_permutation),
            number(self.p_holm),
            small(self.p_mcnemar),
            number(self.effect_size),
            number(self.minimum_detectable),
        ]


class Analysis:
    """Rows and differences of a set of records, each computed once.

    Args:
        records: what was collected.
        bootstrap: draws the intervals.
        published: look-up of published values.
    """

    def __init__(self, records: Records, bootstrap: Bootstrap, published: Published) -> None:
        self.records = records
        self.bootstrap = bootstrap
        self.published = published
        self._rates = self._find_rates()
        self._rows: dict[tuple[str, str, str, str], Row] = {}
        self._differences: dict[tuple[str, str, str, str, str], Difference] = {}
        self._found: dict[tuple[str, str, str, str], Scores | None] = {}
        self._asked: dict[tuple[str, str], int] = {}
        self._tested: dict[tuple[str, str, str, str], dict[str, Difference]] = {}
        for row in self._build():
            self._rows[row.model, row.method, row.benchmark, row.metric] = row

    @property
    def rows(self) -> list[Row]:
        """All rows, by model, method, benchmark and metric in the order of the tables."""
        return list(self._rows.values())

    def row(self, model: str, method: str, benchmark: str, metric: str) -> Row | None:
        """Return one row; None if no policy has this metric."""
        return self._rows.get((model, method, benchmark, metric))

    def is_rate(self, benchmark: str, metric: str) -> bool:
        """Return whether all scores of this metric lie in 0..1, so that its intervals do."""
        return self._rates.get((benchmark, metric.partition("[")[0]), False)

    def difference(
        self, model: str, method: str, reference: str, benchmark: str, metric: str
    ) -> Difference | None:
        """Return method minus reference; None if no policy has this metric."""
        key = (model, method, reference, benchmark, metric)
        if key not in self._differences:
            row = self.row(model, method, benchmark, metric)
            if row is None:
                return None
            estimate = self._difference(model, method, reference, benchmark, metric)
            self._differences[key] = Difference(*key, row.higher_is_better, estimate)
        return self._differences[key]

    def tested(
        self, model: str, method: str, reference: str, benchmark: str, metric: str
    ) -> Difference | None:
        """Return method minus reference with p-values, effect size and minimum detectable difference."""
        return self.family(model, reference, benchmark, metric).get(method)

    def family(self, model: str, reference: str, benchmark: str, metric: str) -> dict[str, Difference]:
        """Return the tested differences of all methods from ``reference``, corrected together, by method."""
        key = (model, reference, benchmark, metric)
        if key not in self._tested:
            found = {}
            for method in self.records.methods:
                if method != reference and benchmark != TRAINING:
                    one = self._test(model, method, reference, benchmark, metric)
                    if one is not None:
                        found[method] = one
                        self._differences[model, method, reference, benchmark, metric] = one
            p_values = {
                method: one.p_permutation for method, one in found.items() if one.p_permutation is not None
            }
            for method, p_value in holm(p_values).items():
                found[method] = replace(found[method], p_holm=p_value)
            self._tested[key] = found
        return self._tested[key]

    def differences(self, reference: str) -> list[Difference]:
        """Return every method minus ``reference`` on every metric of completions, tested."""
        found = []
        for row in self.rows:
            if row.method != reference and row.benchmark != TRAINING:
                difference = self.tested(row.model, row.method, reference, row.benchmark, row.metric)
                if difference is not None:
                    found.append(difference)
        return found

    def improvement(self, model: str, method: str, reference: str) -> Estimate | None:
        """Return the probability that ``method`` improves on ``reference`` on a benchmark drawn at random.

        Benchmarks count once each, by their own metric (by the mean over their wins where there are several
        metrics or, in AdvGLUE and HHH, tasks): no slices, nothing pooled over benchmarks, no second judge.
        Those that either method lacks are left out; ``n`` says how many are in. None if there is none.
        """
        tasks: dict[str, list[Measured]] = {}
        for benchmark, metric in self.records.keys():
            if benchmark == ALL or benchmark in MEANS or metric in POOLED or judged_again(metric):
                continue
            pair = self._pair(model, method, reference, benchmark, metric)
            row = self.row(model, method, benchmark, metric)
            if pair is not None and row is not None:
                one = (*pair[:3], row.higher_is_better)
                tasks.setdefault(PARTS.get(benchmark, benchmark), []).append(one)
        return self.bootstrap.improvement(
            list(tasks.values()), keys=(f"{model}/{method}", f"{model}/{reference}")
        )

    def _test(
        self, model: str, method: str, reference: str, benchmark: str, metric: str
    ) -> Difference | None:
        row = self.row(model, method, benchmark, metric)
        if row is None:
            return None
        plain = Difference(model, method, reference, benchmark, metric, row.higher_is_better, None)
        pair = self._pair(model, method, reference, benchmark, metric)
        if pair is None:
            return plain
        values, others, clusters, parts = pair
        rate = self.is_rate(benchmark, metric)
        keys = (f"{model}/{method}", f"{model}/{reference}")
        estimate, p_value = self.bootstrap.tested(values, others, clusters, keys=keys, rate=rate, parts=parts)
        if parts:
            own = self.bootstrap.interval(others, clusters, key=keys[1], rate=rate, parts=parts)
            effect: float | None = cohens_h(own.value + estimate.value, own.value) if rate else None
        elif rate:
            start = float(np.nanmean(others, 0).mean())
            effect = cohens_h(start + estimate.value, start)
        else:
            effect = standardised(values, others)
        margin = estimate.margin
        return replace(
            plain,
            estimate=estimate,
            p_permutation=p_value,
            p_mcnemar=None if parts else mcnemar(values, others),  # it is about prompts, not parts
            effect_size=effect,
            minimum_detectable=None if margin is None else detectable(margin, self.bootstrap.confidence),
        )

    def _difference(
        self, model: str, method: str, reference: str, benchmark: str, metric: str
    ) -> Estimate | None:
        pair = self._pair(model, method, reference, benchmark, metric)
        if pair is None:
            return None
        values, others, clusters, parts = pair
        keys = (f"{model}/{method}", f"{model}/{reference}")
        rate = self.is_rate(benchmark, metric)
        return self.bootstrap.tested(values, others, clusters, keys=keys, rate=rate, test=False, parts=parts)[
            0
        ]

    def _pair(
        self, model: str, method: str, reference: str, benchmark: str, metric: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], list[str]] | None:
        """Return both policies' scores, (I, K1) and (I, K2), on the prompts both have, clusters and parts.

        None if a seed has no score there, or a part that counts by itself has no such prompt.
        """
        first = self._scores(model, method, benchmark, metric)
        second = self._scores(model, reference, benchmark, metric)
        if first is None or second is None:
            return None
        place = {item.item_id: index for index, item in enumerate(second.items)}
        pairs = [
            (index, place[item.item_id]) for index, item in enumerate(first.items) if item.item_id in place
        ]
        values = first.values[[mine for mine, _ in pairs]]
        others = second.values[[theirs for _, theirs in pairs]]
        both = np.asarray(~np.isnan(values).all(1) & ~np.isnan(others).all(1))
        values, others = values[both], others[both]
        if not both.any() or np.isnan(values).all(0).any() or np.isnan(others).all(0).any():
            return None
        chosen = [mine for (mine, _), kept in zip(pairs, both, strict=True) if kept]
        parts = [first.parts[mine] for mine in chosen] if first.parts else []
        if set(parts) != set(first.parts):
            return None
        return values, others, [first.items[mine].cluster for mine in chosen], parts

    def _scores(self, model: str, method: str, benchmark: str, metric: str) -> Scores | None:
        key = (model, method, benchmark, metric)
        if key not in self._found:
            self._found[key] = self.records.get(*key)
        return self._found[key]

    def _find_rates(self) -> dict[tuple[str, str], bool]:
        rates: dict[tuple[str, str], bool] = {}
        for cell in self.records.cells.values():
            for key, scores in cell.items():
                seen = scores.values[~np.isnan(scores.values)]
                inside = bool(((seen >= 0) & (seen <= 1)).all())
                rates[key] = rates.get(key, True) and inside
        return rates

    def _build(self) -> Iterable[Row]:
        layout: dict[tuple[str, str], bool] = {}
        for key in self.records.keys():
            for policy, cell in self.records.cells.items():
                if key in cell:
                    whole = cell[key]
                    for scores in [whole, *slices(whole)]:
                        self._found[(*policy, scores.benchmark, scores.metric)] = scores
                        layout.setdefault((scores.benchmark, scores.metric), scores.higher_is_better)
        counted = [name for name in COUNTS if any(name in found for found in self.records.counts.values())]
        for model in self.records.models:
            for method in self.records.methods:
                for (benchmark, metric), higher in layout.items():
                    yield self._row(model, method, benchmark, metric, higher)
                for name in counted:
                    values = self.records.counts.get((model, method), {}).get(name)
                    mean = sum(values) / len(values) if values else None
                    seeds = len(values) if values else None
                    yield Row(model, method, TRAINING, name, False, mean, None, None, None, seeds)

    def _row(self, model: str, method: str, benchmark: str, metric: str, higher: bool) -> Row:
        scores = self._scores(model, method, benchmark, metric)
        estimate = self._estimate(scores) if scores is not None else None
        published = self.published.find(model, method, benchmark, metric)
        wanted = self._prompts(benchmark, metric) * len(scores.seeds) if scores else 0
        return Row(
            model,
            method,
            benchmark,
            metric,
            higher,
            estimate.value if estimate else None,
            estimate.low if estimate else None,
            estimate.high if estimate else None,
            estimate.n if estimate else None,
            estimate.seeds if estimate else None,
            estimate.clusters if estimate else None,
            published.value if published else None,
            published.source if published else "",
            scores.judge if scores else "",
            scores.template_hash if scores else "",
            wanted,
            wanted - int((~np.isnan(scores.values)).sum()) if scores else 0,
        )

    def _prompts(self, benchmark: str, metric: str) -> int:
        """Return how many prompts any policy has a record of."""
        key = (benchmark, metric)
        if key not in self._asked:
            found = [self._scores(*policy, benchmark, metric) for policy in self.records.cells]
            self._asked[key] = len({item.item_id for one in found if one for item in one.items})
        return self._asked[key]

    def _estimate(self, scores: Scores) -> Estimate | None:
        if np.isnan(scores.values).all(0).any():
            return None
        return self.bootstrap.interval(
            scores.values,
            scores.clusters,
            key=f"{scores.model}/{scores.method}",
            rate=self.is_rate(scores.benchmark, scores.metric),
            parts=scores.parts,
        )


def number(value: float | None) -> str:
    """Write a number with up to six decimals, without trailing zeros; None is an empty text."""
    if value is None:
        return ""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def small(value: float | None) -> str:
    """Write a number that may be very small, such as a p-value, with three significant digits."""
    return "" if value is None else f"{value:.3g}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically, with a header and Unix line ends."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
