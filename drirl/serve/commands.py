"""What ``drirl route`` and ``drirl rerank`` do: load the parts, then stream lines through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drirl.config import Params
from drirl.errors import DrirlError, nearest
from drirl.generate import Completion
from drirl.serve.lines import Line, Summary, stream, text_of
from drirl.serve.rerank import Reranker
from drirl.serve.routed import MODES, RoutedReward
from drirl.serve.router import Router, train_router

__all__ = ["RerankOptions", "Stream", "rerank", "route"]


@dataclass(frozen=True)
class Stream:
    """Where lines come from and go to ("-": standard input, output), and what a bad one does."""

    source: str = "-"
    target: str = "-"
    batch: int = 32
    keep_going: bool = False

    def run(self, check: Any, work: Any) -> Summary:
        """Stream; see :func:`drirl.serve.lines.stream`."""
        return stream(self.source, self.target, check, work, batch=self.batch, keep_going=self.keep_going)


@dataclass(frozen=True)
class RerankOptions:
    """How completions are drawn; see :class:`drirl.serve.rerank.Reranker`."""

    n: int = 4
    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def route(
    params: Params,
    lines: Stream,
    *,
    mode: str = "hard",
    floor: float = 0.0,
    router: Path | None = None,
    rewards: str | None = None,
) -> Summary:
    """Add the category of each line's ``prompt``, and the routed reward of its ``completion``.

    Written to every line: ``category``, ``probability`` of it, ``probabilities`` by category. With
    ``rewards`` every line also needs a ``completion`` (and may say ``finished``, default true) and gets
    ``reward`` under ``mode``, and ``routing``, the mode.

    Args:
        router: folder of the router; None: the project's own, made from the train split where it is missing
            or out of date.
        rewards: a name under base.models (its learnt rewards), or a folder of rewards.
    Raises:
        DrirlError: an unknown mode, missing router, rewards or data, a bad line.
    """
    if mode not in MODES:
        raise DrirlError(f"unknown routing '{mode}'; {nearest(mode, MODES)}")
    found = _router(params, router)
    routed = None if rewards is None else RoutedReward(_rewards(params, rewards), found, mode, floor)

    def check(line: Line) -> None:
        prompt = text_of(line, "prompt")
        if routed is not None:
            _completion(line.value.get("completion"), line.value.get("finished", True), line.where)
            _at(line, lambda: routed.bank.prompt_ids([prompt]))

    def work(group: Sequence[Line]) -> list[dict[str, Any]]:
        prompts = [line.value["prompt"] for line in group]
        chances = found.probabilities(prompts)
        out = [{**line.value, **_routing(found, row)} for line, row in zip(group, chances)]
        if routed is not None:
            scores = routed.score_completions(
                prompts,
                [line.value["completion"] for line in group],
                [line.value.get("finished", True) for line in group],
            ).tolist()
            for value, score in zip(out, scores):
                value |= {"reward": round(score, 6), "routing": mode}
        return out

    return lines.run(check, work)


def rerank(
    params: Params,
    lines: Stream,
    options: RerankOptions,
    *,
    rewards: str,
    policy: str | None = None,
    mode: str = "hard",
    floor: float = 0.0,
    router: Path | None = None,
) -> Summary:
    """Add the best of N completions to every line.

    A line has a ``prompt``; a ``category`` (0..6, -1 benign), or the router decides; and may bring its own
    ``completions``, texts or objects with ``text`` and ``finished``. Written to it: ``completion`` and
    ``reward`` of the best, ``best`` (its index), ``completions``, each with its text, end and reward,
    ``category_origin`` ("given" or "classified") and, if classified, the router's fields.

    Args:
        rewards: a name under base.models, or a folder of rewards.
        policy: a folder or hub id; None: the base policy, where ``rewards`` names a model.
        mode, floor: routing of lines without a category.
    Raises:
        DrirlError: an unknown mode, missing rewards, policy, router or data, a bad line.
    """
    from drirl.models import load_policy, resolve_device

    bank = _rewards(params, rewards)
    path, revision = policy, None
    if path is None and rewards in params.run.models:
        from drirl.base.location import policy_path

        path, revision = policy_path(params.run.out, rewards)
    device = resolve_device(params.run.device)
    model = load_policy(path, device, params.run.dtype, revision) if path is not None else None
    if mode not in MODES:
        raise DrirlError(f"unknown routing '{mode}'; {nearest(mode, MODES)}")
    ranker = Reranker(
        bank,
        model,
        n=options.n,
        max_new_tokens=options.max_new_tokens or params.evaluate.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )

    def routed() -> RoutedReward:
        if ranker.routed is None:  # only a line without a category needs the router
            ranker.routed = RoutedReward(bank, _router(params, router), mode, floor)
        return ranker.routed

    def check(line: Line) -> None:
        prompt, category = text_of(line, "prompt"), line.value.get("category")
        if category is None:
            routed()
        elif not isinstance(category, int) or isinstance(category, bool):
            raise DrirlError(f"{line.where}: field 'category' should be int, found {category!r}")
        own = _completions(line)
        _at(line, lambda: ranker.check(prompt, category, own is None))

    def work(group: Sequence[Line]) -> list[dict[str, Any]]:
        prompts = [line.value["prompt"] for line in group]
        categories = [line.value.get("category") for line in group]
        out = []
        for line, ranked in zip(group, ranker.rank(prompts, categories, [_completions(x) for x in group])):
            value = {**line.value, "category_origin": "given"}
            if line.value.get("category") is None:
                found = routed().router
                value |= _routing(found, found.probabilities([line.value["prompt"]])[0])
                value |= {"category_origin": "classified", "routing": mode}
            value["completions"] = [
                {"text": c.text, "finished": c.finished, "reward": round(score, 6)}
                for c, score in zip(ranked.completions, ranked.rewards)
            ]
            value |= {"best": ranked.best, "completion": ranked.completion.text}
            out.append(value | {"reward": round(ranked.reward, 6)})
        return out

    return lines.run(check, work)


def _router(params: Params, folder: Path | None) -> Router:
    if folder is not None:
        return Router.load(folder, cache=params.run.out / "cache")
    return train_router(params.run.out, params.data.encoder, seed=params.run.seed)


def _rewards(params: Params, name: str) -> Any:
    from drirl.models import resolve_device
    from drirl.reward.bank import RewardBank

    folder = Path(name).expanduser()
    if name in params.run.models:
        folder = params.run.out / "reward" / name / "irl"
    elif not folder.is_dir():
        raise DrirlError(f"rewards '{name}': no such folder and no model; {nearest(name, params.run.models)}")
    return RewardBank.load(folder, resolve_device(params.run.device))


def _routing(router: Router, row: np.ndarray) -> dict[str, Any]:
    best = int(row.argmax())
    return {
        "category": router.classes[best],
        "probability": round(float(row[best]), 6),
        "probabilities": {str(c): round(float(p), 6) for c, p in zip(router.classes, row)},
    }


def _completions(line: Line) -> list[Completion] | None:
    """Return the line's own completions, None if it has none."""
    values = line.value.get("completions")
    if values is None:
        return None
    if not isinstance(values, list) or not values:
        raise DrirlError(f"{line.where}: field 'completions' should be a list with at least one completion")
    rows = []
    for value in values:
        if isinstance(value, dict):
            rows.append(_completion(value.get("text"), value.get("finished", True), line.where))
        else:
            rows.append(_completion(value, True, line.where))
    return rows


def _completion(text: Any, finished: Any, where: str) -> Completion:
    if not isinstance(text, str):
        raise DrirlError(f"{where}: a completion should be text, found {type(text).__name__}")
    if not isinstance(finished, bool):
        raise DrirlError(f"{where}: 'finished' should be true or false, found {finished!r}")
    return Completion(text.strip(), finished, 0)


def _at(line: Line, call: Any) -> None:
    """Run a check and name the line in its complaint."""
    try:
        call()
    except DrirlError as problem:
        raise DrirlError(f"{line.where}: {problem}") from None
