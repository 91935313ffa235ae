"""How often intervals hold the truth and tests err, on made-up policies whose true rate is known.

A prompt's score in one seed is 1 where a sum of four normal effects exceeds a threshold: training seed,
intent, prompt, and the two together. The true rate is then a normal probability. Prompts, intents and seeds
are as many as the headline table has. ``python -m drirl.compare.simulate`` prints the tables of
docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from drirl.compare.significance import detectable, mcnemar
from drirl.compare.stats import Bootstrap

__all__ = ["SEED_SDS", "SIZES", "WORLDS", "Found", "Scenario", "Size", "draw", "simulate"]

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
class Size:
    """Prompts and intents of one column of the headline table."""

    name: str
    prompts: int
    intents: int


@dataclass(frozen=True)
class Found:
    """Shares of the repetitions in one scenario, and means.

    Attributes:
        covered: the interval of one method holds its true rate.
        difference_covered: the paired interval of two methods holds their true difference.
        decided: the deciding test says the two methods differ, p below 1 - confidence.
        flipped: the same without the seed part: signs of intents flipped only.
        mcnemar: the same with McNemar's exact test.
        width: mean width of the interval of one method.
        detectable: mean of the smallest difference stated to be detectable.
    """

    covered: float
    difference_covered: float
    decided: float
    flipped: float
    mcnemar: float
    width: float
    detectable: float


SIZES = (
    Size("refusal, one level", 278, 139),
    Size("false refusal, benign", 360, 145),
    Size("false refusal, contrast", 240, 44),
    Size("helpfulness", 152, 94),
    Size("one category", 120, 20),
)
"""The sizes of the default profile; the three difficulty levels have 262 to 278 prompts."""

WORLDS = {"mixed": (0.7, 1.0, 0.5), "intents decide": (1.2, 0.5, 0.3), "noise decides": (0.3, 0.3, 1.0)}
"""Standard deviations of the effects of intent, prompt, and prompt with seed."""

SEED_SDS = (0.0, 0.15, 0.4)


def draw(
    scenario: Scenario,
    generator: np.random.Generator,
    *,
    prompts: int,
    intents: int,
    seeds: int,
    methods: Sequence[Scenario] | None = None,
) -> tuple[list[Array], list[str]]:
    """Draw scores (prompts, seeds) of each method on the same prompts, and the intents of the prompts.

    Intent and prompt effects are those of ``scenario``; ``methods`` (default: it alone) give the rate and the
    seed effect of each.
    """
    index = np.sort(np.concatenate([np.arange(intents), generator.integers(0, intents, prompts - intents)]))
    shared = scenario.intent_sd * generator.standard_normal(intents)[
        index
    ] + scenario.prompt_sd * generator.standard_normal(prompts)
    scores = []
    for method in methods or (scenario,):
        latent = (
            method.threshold
            + shared[:, None]
            + method.seed_sd * generator.standard_normal((1, seeds))
            + method.noise_sd * generator.standard_normal((prompts, seeds))
        )
        scores.append((latent > 0).astype(float))
    return scores, [f"intent{number:04d}" for number in index]


def simulate(
    first: Scenario,
    second: Scenario | None = None,
    *,
    repeats: int,
    size: Size = SIZES[0],
    seeds: int = 3,
    draws: int = 1000,
    confidence: float = 0.95,
) -> Found:
    """Draw two methods ``repeats`` times and count what intervals and tests say; default: equal methods."""
    second = second or first
    bootstrap = Bootstrap(seed=0, draws=draws, confidence=confidence)
    generator = np.random.default_rng([1, size.prompts, size.intents])
    counts = np.zeros(7)
    for number in range(repeats):
        (one, two), clusters = draw(
            first,
            generator,
            prompts=size.prompts,
            intents=size.intents,
            seeds=seeds,
            methods=(first, second),
        )
        keys = (f"a{number}", f"b{number}")
        alone = bootstrap.interval(one, clusters, key=keys[0])
        gap = bootstrap.difference(one, two, clusters, keys=keys)
        assert alone.low is not None
        assert alone.high is not None
        assert gap.low is not None
        assert gap.high is not None
        assert gap.margin is not None
        decided = bootstrap.permutation(one, two, clusters, keys=keys)
        flipped = bootstrap.permutation(one.mean(1)[:, None], two.mean(1)[:, None], clusters, keys=keys)
        exact = mcnemar(one, two)
        assert decided is not None
        assert flipped is not None
        assert exact is not None
        counts += (
            alone.low <= first.rate <= alone.high,
            gap.low <= first.rate - second.rate <= gap.high,
            decided <= 1 - confidence,
            flipped <= 1 - confidence,
            exact <= 1 - confidence,
            alone.high - alone.low,
            detectable(gap.margin, confidence),
        )
    return Found(*(float(count) for count in counts / repeats))


def _line(names: Sequence[str], found: Found) -> str:
    shares = (found.covered, found.difference_covered, found.decided, found.flipped, found.mcnemar)
    cells = [*names, *(f"{100 * share:.1f}" for share in shares), f"{100 * found.width:.0f}"]
    return f"| {' | '.join(cells)} |"


def _title(*names: str) -> None:
    last = ("covered", "difference covered", "false: deciding", "intents only", "McNemar", "width")
    titles = (*names, *last)
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")


def main(repeats: int = 300) -> None:
    """Print all tables of docs/statistics.md as Markdown, numbers in percent."""
    print(f"Standard error of a share near 5 %: {100 * math.sqrt(0.05 * 0.95 / repeats):.1f} points")
    _title("size", "prompts / intents", "rate", "seed effect")
    for size in SIZES:
        for rate in (0.85, 0.97):
            for seed_sd in SEED_SDS:
                scenario = Scenario("mixed", rate, seed_sd, *WORLDS["mixed"])
                names = (size.name, f"{size.prompts} / {size.intents}", f"{rate:.2f}", f"{seed_sd}")
                print(_line(names, simulate(scenario, repeats=repeats, size=size)), flush=True)
    _title("what decides", "rate", "seed effect")
    for name in ("intents decide", "noise decides"):
        for rate in (0.5, 0.97):
            for seed_sd in SEED_SDS:
                scenario = Scenario(name, rate, seed_sd, *WORLDS[name])
                found = simulate(scenario, repeats=repeats)
                print(_line((name, f"{rate:.2f}", f"{seed_sd}"), found), flush=True)
    for rate in (0.85, 0.97):
        steady, varied = (Scenario("mixed", rate, seed_sd, *WORLDS["mixed"]) for seed_sd in (0.0, 0.4))
        found = simulate(varied, steady, repeats=repeats)
        print(_line(("mixed", f"{rate:.2f}", "0.4 against 0"), found), flush=True)
    print("\n| rate | seed effect | stated as detectable | found |\n|---|---|---|---|")
    for seed_sd in SEED_SDS:
        start = Scenario("mixed", 0.85, seed_sd, *WORLDS["mixed"])
        stated = simulate(start, repeats=repeats).detectable
        lower = Scenario("mixed", 0.85 - stated, seed_sd, *WORLDS["mixed"])
        power = simulate(start, lower, repeats=repeats).decided
        print(f"| 0.85 | {seed_sd} | {100 * stated:.1f} | {100 * power:.0f} |", flush=True)


if __name__ == "__main__":
    main()
