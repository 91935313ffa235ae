"""What asking each kind of reward costs (question 13): one reward, seven at once, seven in turn, a judge.

The same replies, the demonstrations of held-out harmful prompts, are scored by every kind that has been
learnt. "In turn" loads the rewards anew for each category, as a machine must that cannot hold all seven.
The encoder of alpha_D is timed beside them. The judge is the base policy itself, asked to rate a reply in a
few tokens: its verdicts mean nothing at this size and are not kept, its cost per token is what one would
pay for a judge of the policy's own size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from drirl.errors import DrirlError
from drirl.experiments.plan import Plan
from drirl.records import BENIGN, Demo, Prompt, atomic_dir, read_json, read_jsonl, write_json

__all__ = ["COUNT", "JUDGE_TOKENS", "KINDS", "measured", "run_scoring"]

COUNT = 210
"""Replies scored by each kind."""
JUDGE_TOKENS = 8
KINDS = ("single", "heads", "adapters", "separate")
"""Ways to share rewards, ``reward.sharing``; the headline's is there without a variant."""


def run_scoring(plan: Plan) -> None:
    """Measure on the first model; counts go to ``out/arms/scoring``, seconds to ``out/cost/scoring``.

    Raises:
        DrirlError: the stages before have not run, or there is no harmful prompt to score.
    """
    import torch

    from drirl.base.location import policy_path
    from drirl.models import load_policy, resolve_device
    from drirl.resources import Meter
    from drirl.reward.bank import RewardBank

    params = plan.params
    model = params.run.models[0]
    device = resolve_device(params.run.device)
    torch.set_num_threads(params.run.threads)
    replies = _replies(params.run.out / "data", params.evaluate.split)
    report: dict[str, Any] = {"model": model, "n": len(replies), "kinds": {}}
    with torch.inference_mode():
        for kind in KINDS:
            folder = bank_folder(plan, kind, model)
            if folder is None:
                continue
            meter = Meter("scoring", f"{model}/{kind}")
            load, bank = _timed(partial(RewardBank.load, folder, device=device))
            _ask(bank, replies[:8])
            score, _ = _timed(partial(_ask, bank, replies))
            turns, _ = _timed(partial(_in_turn, folder, replies, device, RewardBank.load))
            report["kinds"][kind] = {
                "parameters": sum(p.numel() for p in bank.parameters()),
                "bytes": sum(f.stat().st_size for f in sorted(folder.rglob("*.safetensors"))),
            }
            meter.write(params.run.out, load_s=load, score_s=score, in_turn_s=turns)
        path, revision = policy_path(params.run.out, model)
        policy = load_policy(path, device, params.run.dtype, revision)
        meter = Meter("scoring", f"{model}/judge")
        seconds, tokens = _timed(partial(_judge, policy, replies))
        meter.generated_tokens = tokens
        report["kinds"]["judge"] = {
            "parameters": sum(p.numel() for p in policy[0].parameters()),
            "generated_tokens": tokens,
        }
        meter.write(params.run.out, score_s=seconds)
    report["kinds"]["encoder"] = _encode(plan, model, [reply for _, reply, _ in replies])
    with atomic_dir(plan.out / "scoring") as folder:
        write_json(folder / "report.json", report)


def _encode(plan: Plan, model: str, replies: Sequence[str]) -> dict[str, int]:
    """Time the encoder of alpha_D on the different sub-sentences of the replies, without a cache."""
    from drirl.hardness.encoder import load_encoder
    from drirl.hardness.split import split_sentences
    from drirl.resources import Meter

    encoder = load_encoder(plan.params.data.encoder)
    texts = sorted({piece for reply in replies for piece in split_sentences(reply)})
    meter = Meter("scoring", f"{model}/encoder")
    seconds, _ = _timed(partial(encoder.encode, texts))
    meter.write(plan.params.run.out, score_s=seconds)
    return {"parameters": sum(p.numel() for p in encoder.model.parameters()), "texts": len(texts)}


def bank_folder(plan: Plan, kind: str, model: str) -> Path | None:
    """Return the rewards of a way to share, the headline's or a variant's; None if they are not there."""
    if kind == plan.params.reward.sharing:
        folder = plan.params.run.out / "reward" / model / "irl"
    elif kind in plan.rewards:
        folder = plan.reward_out(kind) / "reward" / model / "irl"
    else:
        return None
    return folder if folder.is_dir() else None


def measured(plan: Plan, kind: str) -> dict[str, float]:
    """Return the seconds of a kind as measured last; empty if they were not. Never hashed."""
    path = plan.params.run.out / "cost" / "scoring" / f"{plan.params.run.models[0]}__{kind}.json"
    value = read_json(path) if path.is_file() else {}
    return {name: float(v) for name, v in value.items() if name.endswith("_s")}


def _replies(data: Path, split: str) -> list[tuple[str, str, int]]:
    """Return (prompt, reply, category), categories in turn."""
    demos = {demo.prompt_id: demo.answer for demo in read_jsonl(data / "demos.jsonl", Demo)}
    queues: dict[int, list[tuple[str, str, int]]] = {}
    for p in read_jsonl(data / "prompts.jsonl", Prompt):
        if p.split == split and p.category != BENIGN and p.prompt_id in demos:
            queues.setdefault(p.category, []).append((p.text, demos[p.prompt_id], p.category))
    longest = max((len(queue) for queue in queues.values()), default=0)
    rows = [queues[j][k] for k in range(longest) for j in sorted(queues) if k < len(queues[j])][:COUNT]
    if not rows:
        raise DrirlError(f"{data}: no harmful prompt with a demonstration in the split '{split}'")
    return rows


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = function()
    return round(time.perf_counter() - start, 4), value


def _ask(bank: Any, replies: Sequence[tuple[str, str, int]]) -> None:
    bank.score(
        [r[0] for r in replies], [r[1] for r in replies], [True] * len(replies), [r[2] for r in replies]
    )


def _in_turn(folder: Path, replies: Sequence[tuple[str, str, int]], device: Any, load: Any) -> None:
    for category in sorted({r[2] for r in replies}):
        _ask(load(folder, device=device), [r for r in replies if r[2] == category])


def _judge(policy: tuple[Any, Any], replies: Sequence[tuple[str, str, int]]) -> int:
    """Ask the policy for a rating of each reply that fits its context; return the tokens written."""
    from drirl.generate import complete, render

    model, tokenizer = policy
    context = int(getattr(model.config, "max_position_embeddings", 1 << 30))
    asked = [f"Rate this reply from 0 to 9. Message: {prompt} Reply: {reply}" for prompt, reply, _ in replies]
    lengths = [len(ids) for ids in tokenizer(render(tokenizer, asked), add_special_tokens=False)["input_ids"]]
    asked = [text for text, n in zip(asked, lengths, strict=True) if n + JUDGE_TOKENS <= context]
    if not asked:
        return 0
    found = complete(model, tokenizer, asked, max_new_tokens=JUDGE_TOKENS, temperature=0.0, batch_size=64)
    return sum(completion.n_tokens for row in found for completion in row)
