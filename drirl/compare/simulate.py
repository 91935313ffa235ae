"""How often the intervals cover the truth, on made-up policies whose true rate is known.

A prompt's score in one seed is 1 where a sum of four normal effects exceeds a threshold: training seed,
intent, prompt, and the two together. The true rate is then a normal probability. Run
``python -m drirl.compare.simulate`` to print the table of docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from drirl.compare.stats import Bootstrap

__all__ = ["SCENARIOS", "Coverage", "Scenario", "coverage", "difference_coverage", "draw"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """A world to draw scores from; the four sizes are standard deviations of the effects."""

    name: str
    rate: float
    seed_sd: float
    intent_sd: float
    prompt_sd: float
    noise_sd: float

    @property
    def threshold(self) -> float:
        """The offset at which the mean over everything is ``rate``."""
        total = math.sqrt(self.seed_sd**2 + self.intent_sd**2 + self.prompt_sd**2 + self.noise_sd**2)
        return NormalDist().inv_cdf(self.rate) * total


@dataclass(frozen=True)
class Coverage:
    """Share of intervals that held the truth, of those that excluded zero, and their mean width."""

    covered: float
    excludes_zero: float
    width: float


def _scenarios() -> Iterator[Scenario]:
    worlds = {
        "mixed": (0.7, 1.0, 0.5),
        "intents decide": (1.2, 0.5, 0.3),
        "noise decides": (0.3, 0.3, 1.0),
    }
    for rate in (0.5, 0.85, 0.97, 0.99):
        for seed_sd in (0.0, 0.15, 0.4):
            for name, sizes in worlds.items():
                yield Scenario(name, rate, seed_sd, *sizes)


SCENARIOS = tuple(_scenarios())


def draw(
    scenario: Scenario,
    generator: np.random.Generator,
    *,
    prompts: int,
    intents: int,
    seeds: int,
    methods: int = 1,
) -> tuple[list[Array], list[str]]:
    """Draw scores (prompts, seeds) of each method on the same prompts, and the intents of the prompts."""
    index = np.sort(np.concatenate([np.arange(intents), generator.integers(0, intents, prompts - intents)]))
    shared = scenario.intent_sd * generator.standard_normal(intents)[
        index
    ] + scenario.prompt_sd * generator.standard_normal(prompts)
    scores = []
    for _ in range(methods):
        latent = (
            scenario.threshold
            + shared[:, None]
            + scenario.seed_sd * generator.standard_normal((1, seeds))
            + scenario.noise_sd * generator.standard_normal((prompts, seeds))
        )
        scores.append((latent > 0).astype(float))
    return scores, [f"intent{number:04d}" for number in index]


def coverage(
    scenario: Scenario,
    *,
    repeats: int,
    prompts: int = 200,
    intents: int = 60,
    seeds: int = 3,
    draws: int = 1000,
) -> Coverage:
    """Return how often the interval of one method's rate holds the true rate."""
    bootstrap = Bootstrap(seed=0, draws=draws)
    generator = np.random.default_rng(1)
    hits, width = 0, 0.0
    for number in range(repeats):
        (scores,), clusters = draw(scenario, generator, prompts=prompts, intents=intents, seeds=seeds)
        estimate = bootstrap.interval(scores, clusters, key=str(number))
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= scenario.rate <= estimate.high
        width += estimate.high - estimate.low
    return Coverage(hits / repeats, 0.0, width / repeats)


def difference_coverage(
    scenario: Scenario,
    *,
    repeats: int,
    prompts: int = 200,
    intents: int = 60,
    seeds: int = 3,
    draws: int = 1000,
) -> Coverage:
    """Return how often the paired interval of two equal methods holds zero, and misses it."""
    bootstrap = Bootstrap(seed=0, draws=draws)
    generator = np.random.default_rng(2)
    false_positives, width = 0, 0.0
    for number in range(repeats):
        (first, second), clusters = draw(
            scenario, generator, prompts=prompts, intents=intents, seeds=seeds, methods=2
        )
        estimate = bootstrap.difference(first, second, clusters, keys=(f"a{number}", f"b{number}"))
        assert estimate.low is not None
        assert estimate.high is not None
        false_positives += estimate.excludes_zero
        width += estimate.high - estimate.low
    return Coverage(1 - false_positives / repeats, false_positives / repeats, width / repeats)


def main(repeats: int = 400) -> None:
    """Print coverage of both intervals in every scenario as a Markdown table."""
    print("| true rate | seed effect | what decides | covered | width | false differences |")
    print("|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        one = coverage(scenario, repeats=repeats)
        two = difference_coverage(scenario, repeats=repeats)
        print(
            f"| {scenario.rate:.2f} | {scenario.seed_sd} | {scenario.name} | {100 * one.covered:.1f} % "
            f"| {100 * one.width:.1f} | {100 * two.excludes_zero:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
