"""The hardness coefficient of a batch, with its running means per category (paper section 5).

Letters: P prompts of the batch, G completions per prompt. Categories are 0..6 and -1 (benign); each one
has its own running means, and the formulas are the same for all. In training on several processes, call
it with the batch of all of them: running means, masks and the batch-mean control are batch statistics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from drirl.errors import DrirlError
from drirl.hardness import coefficients as c
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.split import split_sentences

if TYPE_CHECKING:
    from drirl.data.settings import EncoderSettings

__all__ = ["Hardness", "HardnessBatch", "TextEncoder", "TextSplitter", "load_hardness"]

_STATE_VERSION = 1
_MASK, _SHUFFLE = 1, 2  # separate random streams of one step
_log = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What is needed of :class:`drirl.hardness.encoder.Encoder`."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) vectors."""
        ...

    def was_cut(self, text: str) -> bool:
        """Return whether the end of ``text`` was not read."""
        ...


class TextSplitter(Protocol):
    """What is needed of :class:`drirl.hardness.splitter.Splitter`."""

    def ask(self, texts: Sequence[str]) -> int:
        """Split the texts, all of a batch at once; return how many of them were split by rule instead."""
        ...

    def pieces(self, text: str) -> list[str]:
        """Return the K sub-sentences of ``text``."""
        ...


@dataclass(frozen=True)
class HardnessBatch:
    """Factors of one batch. Tensors are on the device of ``gaps``, float32, and carry no gradient.

    Attributes:
        alpha_D: (P,) text factor; 1 without a demonstration.
        alpha_M: (P,) reward-gap factor of the prompt's category; 1 without a reward of the demonstration.
        alpha: (P,) what is applied, after control and clamp; per completion: its mean over the group.
        alpha_raw: (P,) the combination before control and clamp.
        weights: (P, G) alpha of each completion; 0 for dropped completions and skipped groups.
        delta: (P, G) dissimilarity; NaN without a demonstration.
        gap: (P, G) reward gap; NaN where missing.
        mask: (P, G) 1 = counted in the filtered mean, 0 = outlier or missing.
        valid: (P, G) False where the completion's reward is not finite (the completion is dropped).
        skip: (P,) True where fewer than two completions are valid (the group is skipped).
        empty: (P, G) True for completions without a word (delta = 1).
        no_demo: (P,) True without a demonstration.
        cut: (P,) True if part of the demonstration was not compared (encoder window, number of pieces).
        by_category: category -> means of this step: alpha_D, alpha_M, alpha, masked_share, ...
        recentre: whether :meth:`scale` makes every group sum to 0 again.
        splits: counts of the batch's distinct texts, with ``splitter: llm`` only: ``split_texts`` all of
            them, ``split_fallbacks`` those that were split by rule after all.
    """

    alpha_D: Tensor  # noqa: N815
    alpha_M: Tensor  # noqa: N815
    alpha: Tensor
    alpha_raw: Tensor
    weights: Tensor
    delta: Tensor
    gap: Tensor
    mask: Tensor
    valid: Tensor
    skip: Tensor
    empty: Tensor
    no_demo: Tensor
    cut: Tensor
    by_category: dict[int, dict[str, float]]
    recentre: bool = False
    splits: dict[str, int] = field(default_factory=dict)

    def scale(self, advantages: Tensor) -> Tensor:
        """Return alpha * advantages, (P, G), for group-normalised advantages; dropped ones are 0.

        Dropped completions must also be left out when the group is normalised, which is done before.
        """
        return c.scale_advantages(advantages, self.weights, self.recentre)

    def log(self, prefix: str = "hardness/") -> dict[str, float]:
        """Return scalars for a training log: per category, quantiles of alpha over the batch, ``splits``."""
        scalars = {
            f"{prefix}{name}/{category}": value
            for category, row in self.by_category.items()
            for name, value in row.items()
            if math.isfinite(value)
        }
        used = self.alpha[~self.skip].double().cpu()
        if len(used):
            for name, share in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
                scalars[f"{prefix}alpha/{name}"] = torch.quantile(used, share).item()
            scalars[f"{prefix}alpha/mean"] = used.mean().item()
        return scalars | {f"{prefix}{name}": float(count) for name, count in self.splits.items()}


@dataclass
class Hardness:
    """Computes alpha for batches and keeps the running means of delta and of the reward gap.

    Attributes:
        settings: the reading of the method.
        encoder: frozen sentence encoder.
        seed: of the random streams (``gaussian_sampling``, ``shuffled``); step k of a resumed run draws
            what step k of an uninterrupted one draws.
        delta_means, gap_means: category -> running mean.
        step: number of batches seen.
        splitter: the LLM that splits, if, and only if, ``settings.splitter`` is ``llm``. In training on
            several processes each asks for itself, so the LLM has to repeat its answers.
    Raises:
        ValueError: ``splitter`` and ``settings.splitter`` do not fit together.
    """

    settings: HardnessSettings
    encoder: TextEncoder
    seed: int = 0
    delta_means: dict[int, float] = field(default_factory=dict)
    gap_means: dict[int, float] = field(default_factory=dict)
    step: int = 0
    splitter: TextSplitter | None = None
    _warned: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if (self.settings.splitter == "llm") != (self.splitter is not None):
            raise ValueError("a splitter is given if, and only if, the settings have splitter: llm")

    def __call__(
        self,
        categories: Sequence[int],
        completions: Sequence[Sequence[str]],
        demonstrations: Sequence[str | None],
        gaps: Tensor,
        valid: Tensor | None = None,
        update: bool = True,
        rewarded: Sequence[bool] | None = None,
    ) -> HardnessBatch:
        """Compute the factors of one batch, then update the running means.

        Args:
            categories: P categories.
            completions: P groups of G replies (no draft).
            demonstrations: P replies; None or a text without a word: missing.
            gaps: (P, G) r(demonstration) - r(completion), calibrated; not finite = missing.
            valid: (P, G) whether the completion's own reward is finite. Without it, a gap that is not
                finite means that, unless the whole row is so: then the demonstration's reward is missing.
            update: False leaves the state as it was (a dry run).
            rewarded: P; False for prompts that get no reward at all, so that only the KL term acts on them.
                Their alpha is 1, and they enter no mean and no control. Default: all True.
        Raises:
            ValueError: shapes that do not fit together.
        """
        settings = self.settings
        shape = (len(categories), len(completions[0]) if completions else 0)
        _check(shape, categories, completions, demonstrations, gaps, valid, rewarded)
        gap = gaps.detach().to("cpu", torch.float64)
        gap = gap.where(gap.isfinite(), math.nan)  # (P, G)
        if valid is None:
            ok = gap.isfinite() | gap.isnan().all(dim=1, keepdim=True)
        else:
            ok = valid.detach().to("cpu", torch.bool)
            gap = gap.where(ok, math.nan)
        skip = ok.sum(dim=1) < 2  # (P,)
        scaled = torch.ones_like(skip) if rewarded is None else torch.tensor(list(rewarded), dtype=torch.bool)
        use = ok & (scaled & ~skip)[:, None]  # (P, G)
        splits = self._split(completions, demonstrations)
        delta, empty, no_demo, cut = self._dissimilarities(completions, demonstrations)

        prompts = torch.tensor(list(categories), dtype=torch.long)
        d_prompt, m_prompt = (
            torch.ones(shape[0], dtype=torch.float64),
            torch.ones(shape[0], dtype=torch.float64),
        )
        d_each = torch.ones(shape, dtype=torch.float64)
        mask = torch.zeros(shape, dtype=torch.bool)
        measured: dict[int, dict[str, float]] = {}
        new_delta, new_gap = dict(self.delta_means), dict(self.gap_means)
        for category in sorted(set(categories)):
            rows = prompts == category  # (P,)
            # text factor, equations 3 and 4
            known = use & rows[:, None] & delta.isfinite()
            batch_delta = _mean(delta[known])
            delta_mean = self._baseline(self.delta_means, category, batch_delta, settings.delta_mean)
            for p in rows.nonzero().flatten().tolist():
                own = _mean(delta[p][known[p]])
                d_prompt[p] = c.alpha_text(torch.tensor(own, dtype=torch.float64), delta_mean)
                d_each[p] = c.alpha_text(delta[p], delta_mean)
            # reward factor, equations 5 to 8
            known = use & rows[:, None] & gap.isfinite()
            values = gap[known]  # (M,)
            batch_gap = _mean(values)
            gap_mean = self._baseline(self.gap_means, category, batch_gap, settings.gap_mean)
            kept = self._keep(values, gap_mean, category)
            mask[known] = kept
            filtered = c.filtered_mean(values, kept, otherwise=gap_mean)
            m_prompt[rows & known.any(dim=1)] = c.alpha_gap(filtered, gap_mean)
            # used first, updated afterwards
            _advance(new_delta, category, batch_delta, settings.delta_mean, settings.gamma)
            fed = filtered if settings.gap_update == "filtered" else batch_gap
            fed = math.nan if math.isnan(batch_gap) else fed
            _advance(new_gap, category, fed, settings.gap_mean, settings.gamma)
            masked = 1 - _mean(kept.double()) if len(kept) else math.nan
            measured[category] = {
                "delta": batch_delta,
                "delta_mean": delta_mean,
                "gap": batch_gap,
                "gap_filtered": filtered if len(values) else math.nan,
                "gap_mean": gap_mean,
                "masked_share": masked,
            }

        alpha, raw, weights = self._combine(d_prompt, m_prompt, d_each, use, scaled & ~skip)
        if settings.drop_masked:
            weights = weights.where(mask | gap.isnan(), 0.0)
        weights = weights.where(scaled[:, None] | skip[:, None] | ~ok, 1.0)
        for category, row in measured.items():
            rows = (prompts == category) & ~skip
            row["alpha_D"], row["alpha_M"] = _mean(d_prompt[rows]), _mean(m_prompt[rows])
            row["alpha"], row["alpha_raw"] = _mean(alpha[rows]), _mean(raw[rows])
            row["skipped_share"] = _mean(skip[prompts == category].double())
            row["empty_share"] = _mean(empty[prompts == category].double().flatten())
        if update:
            self.delta_means, self.gap_means = new_delta, new_gap
            self.step += 1

        def out(values: Tensor) -> Tensor:
            return values.to(gaps.device, torch.float32 if values.is_floating_point() else values.dtype)

        return HardnessBatch(
            alpha_D=out(d_prompt),
            alpha_M=out(m_prompt),
            alpha=out(alpha),
            alpha_raw=out(raw),
            weights=out(weights),
            delta=out(delta),
            gap=out(gap),
            mask=out(mask.long()),
            valid=out(ok),
            skip=out(skip),
            empty=out(empty),
            no_demo=out(no_demo),
            cut=out(cut),
            by_category=measured,
            recentre=settings.recentre,
            splits=splits,
        )

    def calibrate(
        self,
        categories: Sequence[int],
        completions: Sequence[Sequence[str]],
        demonstrations: Sequence[str | None],
        gaps: Tensor,
    ) -> None:
        """Set the running means to the means of this sample, usually from the reference policy.

        Meant for ``frozen``; without it the category's first training batch, still sampled from the
        reference policy, sets the frozen mean. Arguments as in a call; any number of prompts.
        """
        batch = self(categories, completions, demonstrations, gaps, update=False)
        for category, row in batch.by_category.items():
            for means, name in ((self.delta_means, "delta"), (self.gap_means, "gap")):
                if math.isfinite(row[name]):
                    means[category] = row[name]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""
        return {
            "version": _STATE_VERSION,
            "step": self.step,
            "seed": self.seed,
            "delta_means": {str(k): v for k, v in sorted(self.delta_means.items())},
            "gap_means": {str(k): v for k, v in sorted(self.gap_means.items())},
            "settings": self.settings.model_dump(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            DrirlError: the state is of another version, or of other settings or another seed.
        """
        try:
            version, settings, seed = state["version"], state["settings"], state["seed"]
            step = int(state["step"])
            means = [{int(k): float(v) for k, v in state[n].items()} for n in ("delta_means", "gap_means")]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DrirlError(f"hardness state: not one saved by state_dict ({error!r})") from None
        if version != _STATE_VERSION:
            raise DrirlError(
                f"hardness state: version {version}, this drirl reads {_STATE_VERSION}; start anew"
            )
        if settings != self.settings.model_dump() or seed != self.seed:
            raise DrirlError("hardness state: saved under other settings or another seed; start the run anew")
        self.step, (self.delta_means, self.gap_means) = step, means

    def _split(
        self, completions: Sequence[Sequence[str]], demonstrations: Sequence[str | None]
    ) -> dict[str, int]:
        """Have the LLM split the texts of the batch, all at once; return ``HardnessBatch.splits``."""
        if self.splitter is None:
            return {}
        texts = sorted({text or "" for group in [*completions, demonstrations] for text in group})
        return {"split_texts": len(texts), "split_fallbacks": self.splitter.ask(texts)}

    def _dissimilarities(
        self, completions: Sequence[Sequence[str]], demonstrations: Sequence[str | None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return delta (P, G), empty (P, G), no_demo (P,), cut (P,)."""
        generated = [[self._pieces(text)[0] for text in group] for group in completions]
        wanted = [self._pieces(text or "") for text in demonstrations]
        shape = (len(generated), len(generated[0]) if generated else 0)
        no_demo = torch.tensor([not pieces for pieces, _ in wanted], dtype=torch.bool)
        empty = torch.tensor([[not p for p in group] for group in generated], dtype=torch.bool).reshape(shape)
        unique = {
            piece
            for group, (demo, _) in zip(generated, wanted)
            if demo
            for p in [*group, demo]
            for piece in p
        }
        order = {piece: row for row, piece in enumerate(sorted(unique))}
        vectors = torch.from_numpy(self.encoder.encode(list(order))) if order else torch.zeros(0, 1)
        delta = torch.full(shape, math.nan, dtype=torch.float64)
        cut = torch.zeros(shape[0], dtype=torch.bool)
        for p, (demo, shortened) in enumerate(wanted):
            cut[p] = shortened or any(self.encoder.was_cut(piece) for piece in demo)
            target = vectors[[order[piece] for piece in demo]]  # (L, d)
            done: dict[tuple[str, ...], float] = {}
            for g, pieces in enumerate(generated[p]):
                if demo and tuple(pieces) not in done:
                    own = vectors[[order[piece] for piece in pieces]]  # (K, d)
                    done[tuple(pieces)] = c.dissimilarity(own, target, self.settings.direction)
                delta[p, g] = done.get(tuple(pieces), math.nan)
        if bool(cut.any()) and not self._warned:
            self._warned = True
            _log.warning(
                "hardness: %d demonstrations of this batch are longer than %d pieces or than the encoder's "
                "window; their end is not compared",
                int(cut.sum()),
                self.settings.max_pieces,
            )
        return delta, empty, no_demo, cut

    def _pieces(self, text: str) -> tuple[list[str], bool]:
        """Return the units that are compared and whether some were left out."""
        if self.splitter is not None:
            pieces = self.splitter.pieces(text)
        else:
            pieces = split_sentences(text, self.settings.min_words, max_pieces=None)
        if self.settings.similarity == "simple_cosine":
            return ([" ".join(text.split())] if pieces else []), False
        return pieces[: self.settings.max_pieces], len(pieces) > self.settings.max_pieces

    def _baseline(self, means: dict[int, float], category: int, batch_mean: float, mode: str) -> float:
        """The running mean to use now: a category's first batch brings its own mean, so alpha is near 1."""
        return batch_mean if mode == "off" else means.get(category, batch_mean)

    def _keep(self, gaps: Tensor, centre: float, category: int) -> Tensor:
        settings = self.settings
        if settings.mask == "quantile":
            return c.quantile_mask(gaps, centre, settings.mask_share)
        if settings.mask == "gaussian_sampling":
            return c.gaussian_mask(gaps, centre, settings.mask_share, self._rng(_MASK, category + 1))
        assert settings.tau is not None
        return c.fixed_mask(gaps, centre, settings.tau)

    def _combine(
        self, d_prompt: Tensor, m_prompt: Tensor, d_each: Tensor, use: Tensor, part: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha (P,), alpha before control and clamp (P,), weights (P, G).

        ``part`` (P,) are the prompts of ``use`` (P, G); all others have alpha 1.
        """
        how, weight = self.settings.combine, self.settings.weight
        raw = c.combine(d_prompt, m_prompt, how, weight).where(part, 1.0)
        if not self.settings.per_completion:
            alpha = self._control(raw, part)
            return alpha, raw, alpha[:, None].expand_as(use).where(use, 0.0)
        each = c.combine(d_each, m_prompt[:, None].expand_as(d_each), how, weight)  # (P, G)
        raw = _row_means(each, use)
        weights = self._control(each, use).where(use, 0.0)
        return _row_means(weights, use), raw, weights

    def _control(self, alpha: Tensor, use: Tensor) -> Tensor:
        """Apply the clamp and the control arm; entries outside ``use`` become 1.

        The clamp comes before shuffled and constant, so that these have the same mean as plain dr_irl.
        """
        settings = self.settings
        if settings.control == "inverse":
            alpha = c.inverse_alpha(alpha)
        alpha = c.clamp_alpha(alpha, settings.clamp_low, settings.clamp_high)
        if settings.control == "shuffled":
            alpha = c.shuffled_alpha(alpha, use, self._rng(_SHUFFLE, 0))
        if settings.control == "constant":
            alpha = c.constant_alpha(alpha, use)
        return alpha.where(use, 1.0)

    def _rng(self, stream: int, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.step, stream, part])


def load_hardness(
    settings: HardnessSettings, encoder: EncoderSettings, cache: Path | None = None, seed: int = 0
) -> Hardness:
    """Return a fresh coefficient with the encoder, and the LLM that splits, named in the settings.

    Args:
        cache: folder for embeddings and for the LLM's answers; None: kept in memory only.
    Raises:
        DrirlError: as :func:`drirl.hardness.encoder.load_encoder` and
            :class:`drirl.hardness.splitter.Splitter`.
    """
    from drirl.hardness.encoder import load_encoder
    from drirl.hardness.splitter import load_splitter

    return Hardness(settings, load_encoder(encoder, cache), seed, splitter=load_splitter(settings, cache))


def _advance(means: dict[int, float], category: int, batch_mean: float, mode: str, gamma: float) -> None:
    if mode == "off" or math.isnan(batch_mean) or (mode == "frozen" and category in means):
        return
    means[category] = c.running_mean(means.get(category), batch_mean, gamma)


def _mean(values: Tensor) -> float:
    """Mean that does not depend on the order; NaN of nothing."""
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


def _row_means(values: Tensor, use: Tensor) -> Tensor:
    means = [_mean(values[p][use[p]]) for p in range(len(values))]
    return torch.tensor([1.0 if math.isnan(m) else m for m in means], dtype=torch.float64)


def _check(
    shape: tuple[int, int],
    categories: Sequence[int],
    completions: Sequence[Sequence[str]],
    demonstrations: Sequence[str | None],
    gaps: Tensor,
    valid: Tensor | None,
    rewarded: Sequence[bool] | None,
) -> None:
    sizes = {len(categories), len(completions), len(demonstrations)}
    if len(sizes) != 1 or any(len(group) != shape[1] for group in completions):
        raise ValueError(
            "expected P categories, P groups of G completions and P demonstrations, "
            f"found {len(categories)}, {[len(group) for group in completions]} and {len(demonstrations)}"
        )
    for name, tensor in (("gaps", gaps), ("valid", valid)):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"expected {name} of shape {shape}, found {tuple(tensor.shape)}")
    if rewarded is not None and len(rewarded) != shape[0]:
        raise ValueError(f"expected rewarded for {shape[0]} prompts, found {len(rewarded)}")
