"""Intervals that count intents and training seeds, not prompts (docs/statistics.md).

A score is a mean over prompts and over training seeds. Two things could have come out otherwise: which
intents the prompts were drawn from, and which seeds the policies were trained with. The bootstrap redraws
both. Clusters (intents) are redrawn with replacement, all prompts of one together. Seeds are too few for
that: drawing 3 out of 3 shows at most two thirds of their variance, and no idea of how unsure that variance
is. Instead each draw first draws how large the variance between seeds may be, given K of them (a scaled
inverse chi-square with K-1 degrees of freedom), takes off what redrawing prompts explains, and then draws
the mean of K seeds. With three seeds this is as wide as Student's t with two degrees of freedom.

Whether two methods differ is decided by a permutation test: under the null the difference of an intent is as
likely to point the other way, so its sign is flipped. Flipping intents alone takes a lucky seed for a better
method, so the same seed part is added to the null.

Dimension letters: I prompts, K seeds, C clusters, B draws, R seed draws per cluster draw.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bootstrap", "Estimate", "Measured", "agresti_min", "wilson"]

Array = NDArray[np.float64]
Measured = tuple[Array, Array, Sequence[str], bool]
"""One metric of two policies: (I, K1) and (I, K2) scores, (I,) clusters, whether higher is better."""

_SEED_DRAWS = 8
_SKEW = 0.6
"""Widening of the seed part of a difference if one method does all the varying, found by simulation."""
_TIE = 1e-6
"""Differences closer than this are equal; the float32 of the flipped signs is about 1e-7 per unit."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``low`` and ``high`` are None where no interval can be given.

    Attributes:
        n: prompts with at least one score.
        clusters: distinct intents among them.
        seeds: training seeds averaged over.
        margin: half the width of the interval before it was cut to what is possible.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    seeds: int
    margin: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share seen in ``n`` independent trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def agresti_min(gaps: Array, confidence: float) -> tuple[float, float]:
    """Return the interval of the mean of paired ``gaps`` (I,), each in -1..1, of two rates.

    Half a pair is added to each of the four cells of the paired table, that is, one gap of +1 and one of
    -1 at half weight and two without a gap, so that no difference in few pairs is not taken for proof.
    Source: Agresti and Min (2005), simple improved intervals for paired proportions.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    total = len(gaps) + 2.0
    centre = float(gaps.sum()) / total
    squares = float((gaps**2).sum()) + 1.0
    half = z * math.sqrt(max(0.0, squares / total - centre**2) / total)
    return max(-1.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class _Means:
    """Per-seed means: as seen, (K,), and in every redraw of the clusters, (B, K)."""

    seen: Array
    drawn: Array

    @property
    def between_seeds(self) -> float:
        """Variance of the per-seed means, K-1 in the denominator."""
        return float(self.seen.var(ddof=1)) if len(self.seen) > 1 else 0.0

    def explained(self, clusters: int) -> float:
        """The part of ``between_seeds`` that comes from which prompts were drawn."""
        count = len(self.seen)
        if count < 2:
            return 0.0
        contrast = self.drawn - self.drawn.mean(1, keepdims=True)  # (B, K)
        return float(contrast.var(0).sum() / (count - 1) * clusters / (clusters - 1))


@dataclass(frozen=True)
class _Pair:
    """Two policies on the prompts both have; ``by_cluster`` (C,) is what each adds to the difference."""

    size: Estimate
    values: Array
    reference: Array
    names: tuple[str, ...]
    means: list[_Means]
    by_cluster: Array
    parts: tuple[str, ...] = ()


@dataclass
class Bootstrap:
    """Seeded bootstrap; the same clusters get the same redraws, so cells are compared on equal terms.

    Attributes:
        seed: seed of every draw.
        draws: B.
        confidence: of the intervals, 0..1.
    """

    seed: int = 0
    draws: int = 2000
    confidence: float = 0.95
    _weights: dict[tuple[str, ...], Array] = field(default_factory=dict, repr=False, compare=False)
    _signs: dict[tuple[str, ...], NDArray[np.float32]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def interval(
        self,
        values: Array,
        clusters: Sequence[str],
        *,
        key: str,
        rate: bool = True,
        parts: Sequence[str] = (),
    ) -> Estimate:
        """Return the mean of ``values`` with its interval.

        Args:
            values: (I, K) score of each prompt and seed; NaN is missing.
            clusters: (I,) cluster of each prompt.
            key: names the policy; different keys draw different seeds.
            parts: (I,) the part of a benchmark that each prompt belongs to, where parts count the same
                whatever their sizes; empty: every prompt counts the same.
            rate: the scores lie in 0..1, so the interval does, and it is never narrower than Wilson's for
                the effective number of prompts (a bootstrap of 100 % alone would claim certainty).
        Raises:
            ValueError: no score at all, or a seed without any.
        """
        values, clusters, parts = _present(values, clusters, parts)
        names, tables = _tables(values, clusters, parts)
        means = self._means(names, tables)
        value = float(means.seen.mean())
        size = Estimate(value, None, None, len(values), len(names), values.shape[1])
        if len(names) < 2:
            return size
        spread = self._cluster_part([means], names) + self._seed_part([means], len(names), [key])  # (R, B)
        low, high = self._percentiles(value + spread)
        if rate:
            floor = self._wilson(means, value, len(values), len(names))
            low, high = min(low, floor[0]), max(high, floor[1])
        margin = (high - low) / 2
        if rate:
            low, high = max(0.0, low), min(1.0, high)
        return replace(size, low=low, high=high, margin=margin)

    def difference(
        self,
        values: Array,
        reference: Array,
        clusters: Sequence[str],
        *,
        keys: tuple[str, str],
        rate: bool = True,
    ) -> Estimate:
        """Return mean(values) - mean(reference) on the same prompts with its interval.

        Clusters are redrawn jointly (paired). The seeds of two methods are separate trainings, also where
        the numbers agree, so their variances add. The sum has Welch's degrees of freedom, between the
        smaller of K1-1 and K2-1 and their sum, and is widened where one method does most of the varying.
        A policy with one seed adds no variance.

        Args:
            values: (I, K1) scores of one policy.
            reference: (I, K2) scores of the other on the same I prompts.
            keys: names of the two policies.
            rate: the scores lie in 0..1; the interval is then never narrower than Agresti and Min's.
        Raises:
            ValueError: no common prompt, or a seed without any score.
        """
        return self.tested(values, reference, clusters, keys=keys, rate=rate, test=False)[0]

    def permutation(
        self, values: Array, reference: Array, clusters: Sequence[str], *, keys: tuple[str, str]
    ) -> float | None:
        """Return the two-sided p-value of mean(values) - mean(reference) on the same prompts.

        The sign of the summed difference of each cluster is flipped at random, ``draws`` times, and the
        deviation that seeds alone may cause is added (none for policies with one seed: then this is the
        plain paired permutation test). p = (1 + draws at least as far from zero) / (1 + draws); a draw as
        far as the difference seen counts as farther. Arguments as for :meth:`difference`.

        Returns:
            p in 0..1; None with fewer than two clusters, from which nothing can be told.
        """
        return self.tested(values, reference, clusters, keys=keys)[1]

    def tested(
        self,
        values: Array,
        reference: Array,
        clusters: Sequence[str],
        *,
        keys: tuple[str, str],
        rate: bool = True,
        test: bool = True,
        parts: Sequence[str] = (),
    ) -> tuple[Estimate, float | None]:
        """Return :meth:`difference` and :meth:`permutation`, whose parts they share, at once.

        ``parts``: as for :meth:`interval`; weights are those of the prompts both policies have.
        """
        pair = self._pair(values, reference, clusters, parts)
        size = pair.size
        if len(pair.names) < 2:
            return size, None
        seed_part = self._seed_part(pair.means, len(pair.names), keys)  # (R, B)
        low, high = self._percentiles(size.value + self._cluster_part(pair.means, pair.names) + seed_part)
        if rate:
            gap = np.nanmean(pair.values, 1) - np.nanmean(pair.reference, 1)  # (I,)
            if pair.parts:  # as many as there are, each by the weight of its part
                _, index = np.unique(np.asarray(pair.parts, dtype=str), return_inverse=True)
                sizes = np.bincount(index)
                gap = gap * len(gap) / (len(sizes) * sizes[index])
            floor = agresti_min(gap, self.confidence)
            low, high = min(low, floor[0]), max(high, floor[1])
        margin = (high - low) / 2
        if rate:
            low, high = max(-1.0, low), min(1.0, high)
        estimate = replace(size, low=low, high=high, margin=margin)
        if not test:
            return estimate, None
        moved = np.flatnonzero(np.abs(pair.by_cluster) > _TIE)
        moves = pair.by_cluster[moved].astype(np.float32)
        null = (self._signs_of(pair.names)[:, moved] @ moves).astype(float) + seed_part  # (R, B)
        far = int((np.abs(null) >= abs(size.value) - _TIE).sum())
        return estimate, (1 + far) / (1 + null.size)

    def improvement(self, tasks: Sequence[Sequence[Measured]], *, keys: tuple[str, str]) -> Estimate | None:
        """Return how often a run of one method beats a run of the other on a task drawn at random.

        Every seed of one is set against every seed of the other on each task; equal means count half. A task
        with several metrics counts with their mean. The interval redraws the clusters of each task, and the
        seeds with replacement, the same in all tasks, for one policy is scored on all of them. With three
        seeds it is narrower than it should be.

        Args:
            tasks: the metrics of each task, at least one.
            keys: names of the two policies.
        Returns:
            ``n`` is the number of tasks; None if there are none.
        Source: probability of improvement, Agarwal et al. (2021), arXiv:2108.13264.
        """
        seen, drawn, seeds = [], [], 0
        chosen: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for task in tasks:
            own_seen, own_drawn = [], []
            for values, reference, clusters, higher in task:
                pair = self._pair(values, reference, clusters)
                first, second = pair.means
                sign = 1.0 if higher else -1.0
                own_seen.append(float(_wins(sign * first.seen[None], sign * second.seen[None])[0]))
                sizes = (len(first.seen), len(second.seen))
                if sizes not in chosen:
                    generator = np.random.default_rng(
                        [self.seed, *sizes, zlib.crc32("\n".join(keys).encode())]
                    )
                    one = generator.integers(0, sizes[0], (self.draws, sizes[0]))
                    chosen[sizes] = one, generator.integers(0, sizes[1], (self.draws, sizes[1]))
                mine, theirs = chosen[sizes]
                own_drawn.append(
                    _wins(
                        sign * np.take_along_axis(first.drawn, mine, 1),
                        sign * np.take_along_axis(second.drawn, theirs, 1),
                    )
                )
                seeds = max(seeds, min(sizes))
            seen.append(float(np.mean(own_seen)))
            drawn.append(np.mean(own_drawn, axis=0))  # (B,)
        if not seen:
            return None
        low, high = self._percentiles(np.mean(drawn, axis=0))
        return Estimate(float(np.mean(seen)), low, high, len(seen), 0, seeds)

    def _pair(
        self, values: Array, reference: Array, clusters: Sequence[str], parts: Sequence[str] = ()
    ) -> _Pair:
        """Keep the prompts both have; raise ValueError if none is left or a seed has no score there."""
        both = np.asarray(~np.isnan(values).all(1) & ~np.isnan(reference).all(1))
        kept = [cluster for cluster, keep in zip(clusters, both, strict=True) if keep]
        of = [part for part, keep in zip(parts, both, strict=bool(parts)) if keep]
        values, reference = values[both], reference[both]
        names, first = _tables(values, kept, of)
        _, second = _tables(reference, kept, of)
        means = [self._means(names, tables) for tables in (first, second)]
        value = float(means[0].seen.mean() - means[1].seen.mean())
        by_cluster = np.mean(
            [_shares(*both_tables) for both_tables in zip(first, second, strict=True)], axis=0
        )
        seeds = min(values.shape[1], reference.shape[1])
        size = Estimate(value, None, None, len(values), len(names), seeds)
        return _Pair(size, values, reference, names, means, np.asarray(by_cluster), tuple(of))

    def _signs_of(self, names: tuple[str, ...]) -> NDArray[np.float32]:
        """Return +1 or -1 for each draw and cluster, (B, C)."""
        if names not in self._signs:
            generator = np.random.default_rng([self.seed, zlib.crc32("\n".join(names).encode()), 1])
            signs = generator.integers(0, 2, (self.draws, len(names)), dtype=np.int8)
            self._signs[names] = 2 * signs.astype(np.float32) - 1
        return self._signs[names]

    def _draws_of(self, names: tuple[str, ...]) -> Array:
        """Return how often each cluster is drawn, (B, C)."""
        if names not in self._weights:
            generator = np.random.default_rng([self.seed, zlib.crc32("\n".join(names).encode())])
            share = np.full(len(names), 1 / len(names))
            self._weights[names] = generator.multinomial(len(names), share, size=self.draws).astype(float)
        return self._weights[names]

    def _means(self, names: tuple[str, ...], tables: Sequence[tuple[Array, Array]]) -> _Means:
        """Return the means from the sums and counts of each part: the plain mean of the parts' means."""
        draws = self._draws_of(names)
        parts = []
        for sums, counts in tables:
            seen = sums.sum(0) / counts.sum(0)  # (K,)
            drawn_counts = draws @ counts  # (B, K)
            with np.errstate(invalid="ignore", divide="ignore"):
                parts.append((seen, np.where(drawn_counts > 0, (draws @ sums) / drawn_counts, seen)))
        if len(parts) == 1:
            return _Means(*parts[0])
        return _Means(np.mean([seen for seen, _ in parts], 0), np.mean([drawn for _, drawn in parts], 0))

    def _cluster_part(self, means: Sequence[_Means], names: tuple[str, ...]) -> Array:
        """Return deviations of the mean under redrawn clusters, (1, B), widened for C being finite.

        The factor sqrt(C / chi-square(C-1)) turns the bootstrap's variance, short by (C-1)/C, into that
        of Student's t.
        """
        drawn, seen = means[0].drawn.mean(1), means[0].seen.mean()
        if len(means) > 1:
            drawn, seen = drawn - means[1].drawn.mean(1), seen - means[1].seen.mean()
        generator = np.random.default_rng([self.seed, len(names), zlib.crc32(b"clusters")])
        factor = np.sqrt(len(names) / generator.chisquare(len(names) - 1, self.draws))
        return np.asarray((drawn - seen) * factor)[None]

    def _seed_part(self, means: Sequence[_Means], clusters: int, keys: Sequence[str]) -> Array:
        """Return deviations due to the seeds of one policy or of a difference of two, (R, B)."""
        trained = [one for one in means if len(one.seen) > 1]
        squares = [one.between_seeds / len(one.seen) for one in trained]  # variances of the means
        total = sum(squares)
        if total == 0:
            return np.zeros((1, self.draws))
        freedom = total**2 / sum(
            square**2 / (len(one.seen) - 1) for square, one in zip(squares, trained, strict=True)
        )
        explained = sum(one.explained(clusters) / len(one.seen) for one in trained)
        generator = np.random.default_rng([self.seed, zlib.crc32("\n".join(keys).encode())])
        normal = generator.standard_normal((_SEED_DRAWS, self.draws))
        chi_square = generator.chisquare(freedom, (_SEED_DRAWS, self.draws))
        variance = (total * freedom / chi_square - explained).clip(min=0)
        factor = _skew_factor(squares) if len(means) > 1 else 1.0
        return np.asarray(factor * normal * np.sqrt(variance))

    def _wilson(self, means: _Means, value: float, n: int, clusters: int) -> tuple[float, float]:
        """Return Wilson's interval for as many independent prompts as the clustered ones are worth."""
        variance = float(means.drawn.mean(1).var()) * clusters / (clusters - 1)
        effective = value * (1 - value) / variance if variance > 0 else float(n)
        return wilson(value, min(float(n), max(effective, 1.0)), self.confidence)

    def _percentiles(self, sample: Array) -> tuple[float, float]:
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(sample, [tail, 1 - tail])
        return float(low), float(high)


def _skew_factor(squares: Sequence[float]) -> float:
    """Return by how much the seed part of a difference is widened: 1 to 1 + ``_SKEW``.

    Where both methods vary alike, skew cancels in the difference. Where one does all the varying it stays,
    and three rates near an edge do not show it: Student's t is then too short (docs/statistics.md).

    Args:
        squares: variance of the mean over seeds of each policy with more than one seed.
    """
    return 1.0 + _SKEW * (2 * max(squares) / sum(squares) - 1) ** 2


def _wins(first: Array, second: Array) -> Array:
    """Return the share of pairs of seeds that the first wins, ties half, (B, K1) and (B, K2) -> (B,)."""
    gap = first[:, :, None] - second[:, None, :]  # (B, K1, K2)
    return np.asarray(((gap > _TIE) + 0.5 * (np.abs(gap) <= _TIE)).mean((1, 2)))


def _present(
    values: Array, clusters: Sequence[str], parts: Sequence[str] = ()
) -> tuple[Array, list[str], list[str]]:
    keep = np.asarray(~np.isnan(values).all(1))
    kept = [cluster for cluster, stays in zip(clusters, keep, strict=True) if stays]
    return values[keep], kept, [part for part, stays in zip(parts, keep, strict=bool(parts)) if stays]


def _tables(
    values: Array, clusters: Sequence[str], parts: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[tuple[Array, Array]]]:
    """Return cluster names, and sums and counts of the scores in each, (C, K) both, once for every part."""
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    tables = []
    labels = np.asarray(list(parts) or [""] * len(values), dtype=str)
    for part in sorted(set(labels.tolist())) or [""]:
        rows = labels == part
        own = values[rows]
        if own.size == 0 or np.isnan(own).all(0).any():
            raise ValueError("no score at all, or a seed without any")
        sums = np.zeros((len(names), values.shape[1]))
        counts = np.zeros_like(sums)
        np.add.at(sums, index[rows], np.nan_to_num(own))
        np.add.at(counts, index[rows], (~np.isnan(own)).astype(float))
        tables.append((sums, counts))
    return tuple(str(name) for name in names), tables


def _shares(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """Return what each cluster adds to the difference of two means, (C,).

    About their common mean, so that a cluster of which one method lacks a score does not count as lost.
    """
    seen = [float((sums.sum(0) / counts.sum(0)).mean()) for sums, counts in (first, second)]
    middle = sum(seen) / 2
    one, two = (((sums - middle * counts) / counts.sum(0)).mean(1) for sums, counts in (first, second))
    return np.asarray(one - two)
