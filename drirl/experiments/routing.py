"""Question 7: training without category labels. A classifier says which category a prompt is of.

Every training prompt is classified by a router that never saw its cluster: folds of clusters take turns. A
router asked about prompts it was fitted on would be right nearly always, and the question would be lost.
Source: paper section 10, question 7.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drirl.errors import DrirlError
from drirl.experiments.plan import Plan
from drirl.records import BENIGN, Prompt, atomic_dir, read_json, read_jsonl, write_json, write_jsonl

if TYPE_CHECKING:
    from drirl.experiments.jobs import Cell

__all__ = ["FOLDS", "METHODS", "Routes", "folds_of", "make_routes", "routed"]

FOLDS = 5
METHODS = Path(__file__).parent / "methods"
"""Folder of the method files whose reward is routed."""
_FILES = ("routes.jsonl", "report.json")


class Routes:
    """Probabilities of the categories, looked up by the text of a prompt; stands for a router.

    Attributes:
        classes: C categories in column order, -1 for benign.
    """

    def __init__(self, classes: Sequence[int], table: Mapping[str, Sequence[float]]) -> None:
        self.classes = [int(c) for c in classes]
        self.table = dict(table)

    @classmethod
    def load(cls, folder: Path) -> Routes:
        """Read what :func:`make_routes` wrote.

        Raises:
            DrirlError: it has not run, or a line is malformed.
        """
        path = Path(folder) / _FILES[0]
        rows: list[dict[str, Any]] = read_jsonl(path)
        classes = read_json(Path(folder) / _FILES[1])["classes"]
        for number, row in enumerate(rows, 1):
            if not isinstance(row.get("text"), str) or len(row.get("probabilities", ())) != len(classes):
                raise DrirlError(f"{path}:{number}: expected a text and {len(classes)} probabilities")
        return cls(classes, {row["text"]: row["probabilities"] for row in rows})

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (n, C) probabilities.

        Raises:
            DrirlError: a text that was not classified.
        """
        for text in texts:
            if text not in self.table:
                raise DrirlError(f"no route for the prompt '{text[:40]}'; rerun the stage 'routes'")
        return np.asarray([self.table[text] for text in texts], float).reshape(len(texts), len(self.classes))

    def knowing_harm(self, categories: Mapping[str, int]) -> Routes:
        """Return the routes of someone who knows which prompts are benign, and no more.

        A benign prompt gets all probability on benign; of a harmful one the probability of benign is shared
        out over the harm categories in proportion (evenly if nothing is left).

        Args:
            categories: text -> true category, of which only "benign or not" is used.
        """
        benign = np.asarray([c == BENIGN for c in self.classes])
        table = {}
        for text, category in categories.items():
            row = self.probabilities([text])[0]
            kept = benign.astype(float) if category == BENIGN else np.where(benign, 0.0, row)
            if kept.sum() == 0:
                kept = (~benign).astype(float)
            table[text] = (kept / kept.sum()).tolist()
        return Routes(self.classes, table)

    def categories(self, texts: Sequence[str]) -> list[int]:
        """Return the most probable category of each text; the first of equals."""
        return [self.classes[int(k)] for k in self.probabilities(texts).argmax(1)]


def folds_of(prompts: Sequence[Prompt], folds: int, seed: int) -> list[int]:
    """Return the fold of each prompt; a cluster is in one fold, and each category's clusters take turns."""
    fold: dict[int, int] = {}
    for category in sorted({p.category for p in prompts}):
        clusters = sorted({p.cluster_id for p in prompts if p.category == category} - set(fold))
        random.Random(f"{seed}/folds/{category}").shuffle(clusters)
        fold.update({cluster: place % folds for place, cluster in enumerate(clusters)})
    return [fold[p.cluster_id] for p in prompts]


def make_routes(plan: Plan) -> None:
    """Classify every training prompt; write ``out/arms/routes/{routes.jsonl, report.json}``.

    Raises:
        DrirlError: the stage ``data`` has not run, or a fold leaves fewer than two categories to learn.
    """
    from drirl.hardness.encoder import load_encoder
    from drirl.reward.reliability import reliability
    from drirl.serve.router import Router

    out = plan.params.run.out
    prompts = [p for p in read_jsonl(out / "data" / "prompts.jsonl", Prompt) if p.split == "train"]
    if not prompts:
        raise DrirlError(f"{out}/data/prompts.jsonl: no training prompt; rerun the stage 'data'")
    encode = load_encoder(plan.params.data.encoder, out / "cache").encode
    seed = plan.params.run.seed
    classes = sorted({p.category for p in prompts})
    fold = folds_of(prompts, FOLDS, seed)
    chances = np.zeros((len(prompts), len(classes)))
    for k in sorted(set(fold)):
        seen = [p for p, f in zip(prompts, fold, strict=True) if f != k]
        held = [i for i, f in enumerate(fold) if f == k]
        router = Router.fit(
            [p.text for p in seen],
            [p.category for p in seen],
            encode=encode,
            clusters=[p.cluster_id for p in seen],
            seed=seed,
        )
        columns = [classes.index(c) for c in router.classes]
        chances[np.ix_(held, columns)] = router.probabilities([prompts[i].text for i in held])
    chances = chances.round(6)
    best = [classes[int(k)] for k in chances.argmax(1)]
    right = [float(b == p.category) for b, p in zip(best, prompts, strict=True)]
    confusion = [
        [sum(p.category == a and b == c for p, b in zip(prompts, best, strict=True)) for c in classes]
        for a in classes
    ]
    with atomic_dir(plan.out / "routes") as folder:
        write_jsonl(
            folder / _FILES[0],
            [
                {"prompt_id": p.prompt_id, "text": p.text, "probabilities": row.tolist()}
                for p, row in zip(prompts, chances, strict=True)
            ],
        )
        write_json(
            folder / _FILES[1],
            {
                "classes": classes,
                "folds": FOLDS,
                "n": len(prompts),
                "accuracy": round(float(np.mean(right)), 4),
                "confusion": confusion,
                "reliability": reliability([float(row.max()) for row in chances], right),
            },
        )


def routed(plan: Plan, name: str, model: str) -> Cell:
    """Return the cell of a routed arm, its inputs linked.

    Raises:
        DrirlError: unknown arm or model, or a missing input.
    """
    from drirl.align import stage as align
    from drirl.experiments.jobs import Cell
    from drirl.experiments.run import _known_model, _link, _links

    _known_model(plan, model)
    arm, declared = plan.resolve(name), plan.arm(name)
    _links(plan, arm.out, data=None)
    _link(plan.reward_out(None) / "reward", arm.out / "reward")
    if not (plan.out / "routes").is_dir():
        raise DrirlError(f"{plan.out / 'routes'}: not there yet; run the stage 'routes' first")
    _link(plan.out / "routes", arm.out / "routes")
    values = {**arm.params.align.methods[arm.method], "routing": declared.mode}
    if declared.harm_known:
        values["harm_known"] = True
    jobs = align.jobs_of(arm.params, model=model, method=arm.method, values=values, folder=METHODS)
    routes = align.hash_folder(plan.out / "routes")
    jobs = [replace(job, config_hash=f"{job.config_hash}-{routes}") for job in jobs]
    return Cell(arm.params, model, arm.method, jobs)
