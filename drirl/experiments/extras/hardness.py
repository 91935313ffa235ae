"""What the logs and recorded rollouts say of alpha: curves, spread, correlations, ranks of delta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drirl.compare.names import category_name, escape
from drirl.experiments.extras.words import vocabulary_of, word_vectors, words_of
from drirl.experiments.gather import Gathered
from drirl.experiments.page import MISSING, Section, markdown_table
from drirl.records import BENIGN, Demo, RolloutGroup, read_jsonl
from drirl.text import split_draft

__all__ = [
    "alpha_correlations",
    "alpha_curves",
    "alpha_spread",
    "delta_ranks",
    "rank_correlation",
    "training_health",
]

Array = NDArray[np.float64]
FOCUS, CONTROL = "dr_irl", "dr_irl_constant"
WEAK = 0.5
"""A rank correlation counts as weak if its whole interval is nearer to zero than this."""
DRAWS = 1000


def alpha_curves(found: Gathered, target: Path) -> Section:
    """Draw alpha, alpha_D and alpha_M of DR-IRL per category over the updates."""
    from drirl.experiments.figures import draw_curves

    label = _focus(found)
    logs = {model: _logs(found, label, model) for model in found.models} if label else {}
    logs = {model: runs for model, runs in logs.items() if runs}
    if not logs:
        return Section(f"## Curves\n\n{MISSING}: no log of {FOCUS}.")
    model, runs = next(iter(logs.items()))
    panels = []
    for title, key in (("alpha", "alpha"), ("alpha_D", "alpha_D"), ("alpha_M", "alpha_M")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for category in (*range(7), BENIGN):
            name = category_name(category) or "benign"
            points = _mean_curve(runs, f"{key}/{category}")
            if points:
                lines[name] = points
        panels.append((title, lines))
    notice = found.notice
    path = draw_curves(target / f"{found.name}_alpha.png", panels, notice=notice)
    values = [v for runs in logs.values() for run in runs for v in _all(run, "alpha")]
    low, high = (float(v) for v in np.quantile(values, [0.05, 0.95])) if values else (math.nan, math.nan)
    text = f"## Alpha over training\n\n![alpha]({path.name})\n\n{escape(model)}, mean over seeds."
    answer = {
        "alpha": f"alpha per category and update: 90 % of values in {low:.3f} to {high:.3f}, standard "
        f"deviation {np.std(values):.3f} ({len(values)} values over seeds)."
    }
    return Section(text, answer if values else {})


def alpha_spread(found: Gathered, target: Path) -> Section:
    """Mean, spread and clamping of alpha in every arm that logs it."""
    lines = []
    for model in found.models:
        for label in found.experiment.arms:
            values = [v for run in _logs(found, label, model) for v in _all(run, "alpha")]
            masked = [v for run in _logs(found, label, model) for v in _all(run, "masked_share")]
            if not values:
                lines.append([escape(model), escape(label), *[MISSING] * 5])
                continue
            q = np.quantile(values, [0.05, 0.5, 0.95])
            lines.append(
                [
                    escape(model),
                    escape(label),
                    f"{np.mean(values):.3f}",
                    f"{np.std(values):.3f}",
                    f"{q[0]:.3f} / {q[1]:.3f} / {q[2]:.3f}",
                    f"{100 * np.mean(masked):.1f}" if masked else MISSING,
                    str(len(values)),
                ]
            )
    heads = ["Model", "Arm", "Mean alpha", "sd", "5 / 50 / 95 % quantile", "Masked (%)", "Values"]
    return Section("## Alpha by arm\n\n" + markdown_table(heads, lines))


def alpha_correlations(found: Gathered, target: Path) -> Section:
    """Rank correlation of alpha_D with alpha_M, and of alpha with the later gain in reward of the prompt."""
    label = _focus(found)
    lines, answers = [], {}
    for model in found.models:
        groups = _rollouts(found, label, model) if label else []
        if not groups:
            lines.append([escape(model), "all", MISSING, MISSING, "0"])
            continue
        own = _after_the_first(groups)
        value, low, high = rank_correlation(
            [g.alpha_D for g in own], [g.alpha_M for g in own], [g.prompt_id for g in own]
        )
        lines.append(_correlated(model, "alpha_D with alpha_M", (value, low, high), len(own)))
        for arm in (str(label), _label_of(found, CONTROL)):
            of = f" ({escape(arm)})" if arm else ""
            recorded = _rollouts(found, arm, model) if arm else []
            again = {(g.seed, g.prompt_id): g for g in (_rollouts(found, arm, model, "after") if arm else ())}
            for what, gains in (
                (
                    "alpha_D with the prompt's later gain in reward",
                    _gains_of_prompts(recorded, again, "alpha_D"),
                ),
                (
                    "alpha_D · alpha_M with the prompt's later gain in reward",
                    _gains_of_prompts(recorded, again),
                ),
                ("alpha_D · alpha_M with the later gain in reward of its category", _gains(recorded)),
            ):
                if len(gains) < 8:
                    continue
                found_ = rank_correlation(
                    [a for a, _, _ in gains], [g for _, g, _ in gains], [p for _, _, p in gains]
                )
                lines.append(_correlated(model, what + of, found_, len(gains)))
        strength = f"weak (below {WEAK:g})" if max(abs(low), abs(high)) < WEAK else "not shown to be weak"
        answers[model] = (
            f"{escape(model)}: alpha_D and alpha_M have rank correlation {value:+.2f} "
            f"({low:+.2f} to {high:+.2f}), {strength}."
        )
    heads = ["Model", "Correlation", "Spearman", "95 % interval", "n groups"]
    note = (
        "Groups recorded at the middle and last update of every seed (the first sets the running means, so "
        "that alpha_D is 1 there); bootstrap over prompts. Later gains are those from the middle "
        "update on: of "
        "a prompt, in new samples of the trained policy to it; of a category, in the last "
        "update's groups, of "
        "other prompts. alpha and the reward that the gain starts from are of the same samples, "
        "so that a group "
        "which was unlucky has both a large alpha and a large gain. The same correlation under the constant "
        "coefficient, where alpha says nothing to the update, shows how much of it that is. Weak: the whole "
        f"interval within ±{WEAK:g}."
    )
    return Section(f"## Correlations\n\n{markdown_table(heads, lines)}\n\n{note}", answers)


def training_health(found: Gathered, target: Path) -> Section:
    """Gradient norm, KL and length at the end of training, and the largest gradient norm of all updates.

    A run whose loss or gradient is not finite stops with an error and has no log.
    """
    lines = []
    for model in found.models:
        for label in found.experiment.arms:
            runs = _logs(found, label, model)
            if not runs:
                lines.append([escape(model), escape(label), *[MISSING] * 5])
                continue
            ends = [run[len(run) * 4 // 5 :] for run in runs]
            norms = [
                float(line["grad_norm"]) for run in runs for line in run if line.get("grad_norm") is not None
            ]
            cells = [_mean_of(ends, name) for name in ("grad_norm", "kl", "reward", "length")]
            largest = f"{max(norms):.3f}" if norms else MISSING
            lines.append([escape(model), escape(label), *cells, largest])
    heads = ["Model", "Arm", "Gradient norm", "KL", "Reward", "Length (tokens)", "Largest gradient norm"]
    return Section(
        "## Training\n\n"
        + markdown_table(heads, lines)
        + "\n\nMeans over the last fifth of the updates (lowest to highest seed); the largest "
        "gradient norm is of all "
        "updates of all seeds. A run that diverged, to a loss or gradient that is not finite, "
        "stops with an error and "
        "would be missing here."
    )


def delta_ranks(found: Gathered, target: Path) -> Section:
    """Rank correlation of delta between readings, computed again on DR-IRL's recorded completions."""
    label = _focus(found)
    lines, answers = [], {}
    for model in found.models:
        groups = _rollouts(found, label, model) if label else []
        if not groups:
            lines.append([escape(model), "", MISSING, MISSING, "0"])
            continue
        deltas, prompts = _deltas(found, groups)
        base = deltas["sub_sentences, gen_to_demo"]
        for name, values in deltas.items():
            if values is base:
                continue
            value, low, high = rank_correlation(base, values, prompts)
            lines.append(
                [escape(model), escape(name), f"{value:+.2f}", f"{low:+.2f} to {high:+.2f}", str(len(base))]
            )
            if name == "simple_cosine":
                answers[model] = (
                    f"{escape(model)}: delta by simple cosine and by sub-sentences have rank correlation "
                    f"{value:+.2f} ({low:+.2f} to {high:+.2f}; n = {len(base)} completions)."
                )
    heads = ["Model", "Reading, against sub-sentences gen_to_demo", "Spearman of delta", "95 % interval", "n"]
    note = (
        "Word counts: the cosine of the counts of words in place of the encoder's, as the "
        "plainest other way to "
        "compare two texts."
    )
    return Section("## Ranks of delta\n\n" + markdown_table(heads, lines) + "\n\n" + note, answers)


def _deltas(found: Gathered, groups: Sequence[RolloutGroup]) -> tuple[dict[str, list[float]], list[str]]:
    import torch

    from drirl.hardness.coefficients import dissimilarity
    from drirl.hardness.encoder import load_encoder
    from drirl.hardness.settings import HardnessSettings
    from drirl.hardness.split import split_sentences

    params = found.plan.params
    demos = {d.prompt_id: d.answer for d in read_jsonl(params.run.out / "data" / "demos.jsonl", Demo)}
    settings = HardnessSettings.model_validate(params.align.methods[FOCUS].get("hardness", {}))
    encoder = load_encoder(params.data.encoder, params.run.out / "cache")

    def pieces(text: str, whole: bool) -> list[str]:
        found_ = split_sentences(text, settings.min_words, settings.max_pieces)
        return ([" ".join(text.split())] if found_ else []) if whole else found_

    rows = [
        (split_draft(text)[1], demos[g.prompt_id], g.prompt_id)
        for g in groups
        if g.prompt_id in demos
        for text in g.completions
    ]
    deltas: dict[str, list[float]] = {}
    for name, whole, direction, encode in (
        ("sub_sentences, gen_to_demo", False, "gen_to_demo", encoder.encode),
        ("sub_sentences, demo_to_gen", False, "demo_to_gen", encoder.encode),
        ("sub_sentences, symmetric", False, "symmetric", encoder.encode),
        ("simple_cosine", True, "gen_to_demo", encoder.encode),
        ("sub_sentences, gen_to_demo, word counts", False, "gen_to_demo", _counted),
        ("simple_cosine, word counts", True, "gen_to_demo", _counted),
    ):
        texts = sorted({p for a, b, _ in rows for t in (a, b) for p in pieces(t, whole)})
        vectors = torch.from_numpy(encode(texts)) if texts else torch.zeros(0, 1)
        place = {text: index for index, text in enumerate(texts)}
        deltas[name] = [
            dissimilarity(
                vectors[[place[p] for p in pieces(a, whole)]],
                vectors[[place[p] for p in pieces(b, whole)]],
                direction,
            )
            if pieces(a, whole)
            else 1.0
            for a, b, _ in rows
        ]
    return deltas, [prompt for _, _, prompt in rows]


def _counted(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return (n, V) unit vectors of word counts, in place of an encoder's."""
    words = [words_of(text) for text in texts]
    return word_vectors(words, vocabulary_of(words))


def rank_correlation(
    left: Sequence[float], right: Sequence[float], clusters: Sequence[str], seed: int = 0
) -> tuple[float, float, float]:
    """Return Spearman's correlation and its 95 % bootstrap interval over clusters.

    Ties have their mean rank; NaN if one side is constant.
    """
    x, y = np.asarray(left, float), np.asarray(right, float)
    names, index = np.unique(np.asarray(clusters, str), return_inverse=True)
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS if len(names) > 1 else 0):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))])
        value = _spearman(x[rows], y[rows])
        if not math.isnan(value):
            draws.append(value)
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (math.nan, math.nan)
    return _spearman(x, y), float(low), float(high)


def _spearman(x: Array, y: Array) -> float:
    a, b = _ranks(x), _ranks(y)
    if a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(x: Array) -> Array:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def _after_the_first(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """Return the groups of all records but the first, which sets the running means; all if there is one."""
    steps = sorted({g.step for g in groups})
    return [g for g in groups if g.step != steps[0]] if len(steps) > 1 else list(groups)


def _correlated(model: str, what: str, value: tuple[float, float, float], n: int) -> list[str]:
    return [escape(model), what, f"{value[0]:+.2f}", f"{value[1]:+.2f} to {value[2]:+.2f}", str(n)]


def _gains_of_prompts(
    groups: Sequence[RolloutGroup], again: Mapping[tuple[int, str], RolloutGroup], part: str = ""
) -> list[tuple[float, float, str]]:
    """Return (alpha, gain, prompt) of the middle record's groups whose prompt was sampled again.

    ``part``: alpha_D or alpha_M alone; otherwise their product, also where another coefficient was used.
    """
    steps = sorted({g.step for g in groups})
    gains = []
    for g in groups:
        after = again.get((g.seed, g.prompt_id))
        if after is None or g.step != steps[(len(steps) - 1) // 2] or not (g.r_gen and after.r_gen):
            continue
        gain = float(np.mean(after.r_gen) - np.mean(g.r_gen))
        if math.isfinite(gain):
            gains.append((getattr(g, part) if part else g.alpha_D * g.alpha_M, gain, g.prompt_id))
    return gains


def _gains(groups: Sequence[RolloutGroup]) -> list[tuple[float, float, str]]:
    """Return (alpha, gain, prompt) of the middle record: gain in its category's mean reward to the last."""
    steps = sorted({g.step for g in groups})
    if len(steps) < 3:
        return []
    middle, last = steps[len(steps) // 2], steps[-1]
    later: dict[tuple[int, int], list[float]] = {}
    for g in groups:
        if g.step == last:
            later.setdefault((g.seed, g.category), []).extend(g.r_gen)
    gains = []
    for g in groups:
        after = later.get((g.seed, g.category))
        if g.step == middle and after and g.r_gen:
            gains.append((g.alpha_D * g.alpha_M, float(np.mean(after) - np.mean(g.r_gen)), g.prompt_id))
    return gains


def _focus(found: Gathered) -> str | None:
    return _label_of(found, FOCUS)


def _label_of(found: Gathered, arm: str) -> str | None:
    return next((label for label, name in found.experiment.arms.items() if name == arm), None)


def _logs(found: Gathered, label: str, model: str) -> list[list[dict[str, Any]]]:
    folder = found.folder(label, "align", model)
    return [list(read_jsonl(p)) for p in sorted(folder.glob("seed*/log.jsonl"))] if folder else []


def _rollouts(found: Gathered, label: str, model: str, name: str = "rollouts") -> list[RolloutGroup]:
    folder = found.folder(label, "align", model)
    paths = sorted(folder.glob(f"seed*/{name}.jsonl")) if folder else []
    return [group for path in paths for group in read_jsonl(path, RolloutGroup)]


def _all(run: Sequence[dict[str, Any]], name: str) -> list[float]:
    wanted = [f"{name}/{category}" for category in (*range(7), BENIGN)]
    found = []
    for line in run:
        for key, value in line.items():
            if value is not None and any(key == k or key.endswith(f"/{k}") for k in wanted):
                found.append(float(value))
    return found


def _mean_curve(runs: Sequence[Sequence[dict[str, Any]]], name: str) -> list[tuple[float, float]]:
    points: dict[int, list[float]] = {}
    for run in runs:
        for line in run:
            for key, value in line.items():
                if value is not None and (key == name or key.endswith(f"/{name}")):
                    points.setdefault(int(line["update"]), []).append(float(value))
    return [(update, sum(v) / len(v)) for update, v in sorted(points.items())]


def _mean_of(runs: Sequence[Sequence[dict[str, Any]]], name: str) -> str:
    found = [[float(line[name]) for line in run if line.get(name) is not None] for run in runs]
    return over_seeds([sum(values) / len(values) for values in found if values])


def over_seeds(values: Sequence[float]) -> str:
    """Return the mean with the lowest and highest seed in brackets, for a value per seed."""
    if not values:
        return MISSING
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
