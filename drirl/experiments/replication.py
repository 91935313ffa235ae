"""``reports/replication.md``: every claim of the paper, its number, ours, and whether they agree."""

from __future__ import annotations

import csv
import re
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from drirl.compare.names import code, escape
from drirl.compare.published import COLUMNS
from drirl.compare.stats import Estimate
from drirl.errors import DrirlError
from drirl.experiments.gather import Gathered, gather
from drirl.experiments.measures import find
from drirl.experiments.page import MISSING, _notice, _points, folder_of, markdown_table
from drirl.experiments.plan import FOLDER, Contrast, Plan, _parse
from drirl.records import atomic_write
from drirl.settings import Section as Settings

__all__ = ["Claim", "load_claims", "write_replication"]

CLAIMS = f"{FOLDER}/claims.yaml"


class Claim(Settings):
    """One claim of the paper and the difference of ours that stands for it."""

    claim: str
    where: str
    sign: Literal["higher", "lower", "not_lower"] = Field(description="what the paper says of the difference")
    published: list[tuple[str, str, str, str]] = Field([], description="rows; of a model one, or two: a - b")
    experiment: str
    of: str = ""
    against: str = ""
    metric: str
    section: str = ""
    unit: str = "points"
    note: str = ""


class _Claims(Settings):
    claims: list[Claim]


def load_claims(plan: Plan) -> list[Claim]:
    """Read ``experiments/claims.yaml``.

    Raises:
        DrirlError: malformed, or a claim names an experiment or a published row that is not there.
    """
    claims: list[Claim] = _parse(plan.root / CLAIMS, CLAIMS, _Claims).claims
    for claim in claims:
        plan.experiment(claim.experiment)
        _numbers(plan, claim)
    return claims


def write_replication(plan: Plan, reports: Path | None = None) -> Path:
    """Write the summary page; return its path.

    Raises:
        DrirlError: as :func:`load_claims`, or malformed records.
    """
    lines, counts = [], {"same direction": 0, "significant": 0, MISSING: 0, "all": 0}
    gathered: dict[str, Gathered] = {}
    for claim in load_claims(plan):
        experiment = plan.experiment(claim.experiment)
        if claim.experiment not in gathered and not experiment.needs:
            gathered[claim.experiment] = gather(plan, claim.experiment, more=(claim.metric, *_ALL))
        found = gathered.get(claim.experiment)
        for model in _models(plan, claim):
            title, estimate = _ours(found, claim, model)
            if claim.section:
                continue
            same, significant = _agreement(estimate, claim.sign, experiment.margin)
            counts["all"] += 1
            counts["same direction"] += same == "yes"
            counts["significant"] += significant == "yes"
            counts[MISSING] += estimate is None
            notes = [claim.note, f"not available: needs {experiment.needs}" if experiment.needs else ""]
            if estimate is None and found is not None:
                notes += [
                    f"{label}: {why}"
                    for (m, label), why in found.missing.items()
                    if m == model and label in (claim.of, claim.against)
                ]
            note = "; ".join(note for note in notes if note)
            lines.append(
                [
                    escape(claim.claim),
                    escape(claim.where),
                    _published(plan, claim, model),
                    escape(model),
                    _shown(estimate),
                    escape(title),
                    same,
                    significant,
                    escape(note),
                ]
            )
        for model, answer, same in _told(found, claim):
            counts["all"] += 1
            counts["same direction"] += same == "yes"
            counts["significant"] += same == "yes"
            counts[MISSING] += same == MISSING
            lines.append(
                [
                    escape(claim.claim),
                    escape(claim.where),
                    _published(plan, claim, model),
                    escape(model),
                    answer,
                    f"[{claim.experiment}]({folder_of(claim.experiment)}/{claim.experiment}.md)",
                    same,
                    same,
                    escape(claim.note),
                ]
            )
    heads = [
        "Claim",
        "Where",
        "Published (points)",
        "Model",
        "Ours (points)",
        "Our measure",
        "Same direction",
        "Significant",
        "Note",
    ]
    level = f"{100 * plan.params.compare.confidence:g}"
    text = (
        f"{counts['same direction']} of {counts['all']} rows point the way the paper says, "
        f"{counts['significant']} of them significantly; {counts[MISSING]} are missing.\n\n"
        f"Significant: the {level} % interval over intents and seeds excludes zero on the paper's side "
        "(against: on the other); where a page's answer is shown, what it says. A claim of keeping "
        "something points the paper's way if less than the margin of its page is lost, significantly if the "
        "interval rules that loss out. Published numbers are of other models and benchmarks: only the "
        "direction can be compared; one of the other model is named. Our measures stand for theirs: "
        "disguised prompts for StrongREJECT, paraphrased for WildChat, direct for XSTest, tasks for GSM8K. "
        "Differences are not corrected for their number. "
        "Without a row, because the profile does not measure them: the columns Stereotype, SimpleQA, AdvGLUE "
        "and HHH of table 1, and the GPU hours of table 2. "
        f"Profile {code(plan.params.run.profile)}, split {code(plan.params.evaluate.split)}."
    )
    parts = ["# Which claims held", _notice(plan), text, markdown_table(heads, lines)]
    path = Path(reports or plan.params.compare.reports) / "replication.md"
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(p for p in parts if p) + "\n", encoding="utf-8")
    return path


_ALL = ("refusal_disguised", "refusal_paraphrased", "refusal_direct", "refusal", "help")


def _ours(found: Gathered | None, claim: Claim, model: str) -> tuple[str, Estimate | None]:
    if found is None or found.analysis is None or claim.section:
        return "", None
    place = find(found.analysis, claim.metric)
    if place is None:
        return "", None
    contrast = Contrast(of=claim.of, against=claim.against, metric=claim.metric, expect="differs")
    difference = found.analysis.difference(model, contrast.of, contrast.against, *place[1:])
    return place[0], difference.estimate if difference else None


def _told(found: Gathered | None, claim: Claim) -> list[tuple[str, str, str]]:
    """Return (model, answer, yes or no) of a claim that a section of its page answers, with an interval."""
    if found is None or not claim.section:
        return []
    from drirl.experiments.extras import build

    with tempfile.TemporaryDirectory() as unused:
        answers = build(claim.section, found, Path(unused)).answers
    told = []
    for model in found.models:
        name, _, text = answers.get(model, f"{model}: {MISSING}").partition(": ")
        verdict = "yes" if "**yes**" in text else "no" if "**no**" in text else "cannot tell"
        told.append((model, text, MISSING if MISSING in text or not name else verdict))
    return told


def _models(plan: Plan, claim: Claim) -> list[str]:
    return plan.models_of(plan.experiment(claim.experiment))


def _agreement(estimate: Estimate | None, sign: str, margin: float) -> tuple[str, str]:
    if estimate is None or estimate.low is None or estimate.high is None:
        return MISSING, MISSING
    value, low, high = estimate.value, estimate.low, estimate.high
    if sign == "lower":
        value, low, high = -value, -high, -low
    if sign == "not_lower":
        value, low, high = value + margin, low + margin, high + margin
    same = "yes" if value > 0 else "no" if value < 0 else "no difference"
    return same, "yes" if low > 0 else "against" if high < 0 else "no"


def _shown(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return MISSING
    return f"{_points(estimate.value)} ({_points(estimate.low)} to {_points(estimate.high)}; n {estimate.n})"


def _published(plan: Plan, claim: Claim, model: str) -> str:
    """Return the paper's number for a model of this family; for another family, of which model it is."""
    numbers = _numbers(plan, claim)
    family = plan.params.base.models[model].family
    for name, text in numbers.items():
        if family and family.startswith(re.split(r"[^A-Za-z]", name)[0]):
            return text
    if not numbers:
        return "direction only"
    return "direction only (" + ", ".join(f"{escape(name)}: {text}" for name, text in numbers.items()) + ")"


def _numbers(plan: Plan, claim: Claim) -> dict[str, str]:
    """Return the published number of each of the paper's models, with its qualifier (about, more than).

    Raises:
        DrirlError: no such row, or more than two rows of a model.
    """
    values: dict[str, list[float]] = {}
    words: dict[str, str] = {}
    for key in claim.published:
        found = _rows(plan).get(key)
        if found is None:
            raise DrirlError(
                f"{CLAIMS}: '{claim.claim}': no row {', '.join(key)} in {plan.params.compare.published}"
            )
        values.setdefault(key[0], []).append(found)
        words[key[0]] = key[3].partition(", ")[2]
    scale, unit = (1.0, " tokens") if claim.unit == "tokens" else (100.0, "")
    texts = {}
    for name, rows in values.items():
        if len(rows) > 2:
            raise DrirlError(f"{CLAIMS}: '{claim.claim}': {len(rows)} rows of {name}; expected one or two")
        value = scale * (rows[0] - sum(rows[1:]))
        texts[name] = f"{words[name]} {value:+.1f}{unit}".replace("-", "−").strip()
    return texts


def _rows(plan: Plan) -> dict[tuple[str, str, str, str], float]:
    path = plan.root / plan.params.compare.published
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DrirlError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
            return {
                (row["model"], row["method"], row["benchmark"], row["metric"]): float(row["value"])
                for row in reader
                if row["value"]
            }
    except FileNotFoundError:
        raise DrirlError(f"{path}: no such file; restore it or set compare.published") from None
