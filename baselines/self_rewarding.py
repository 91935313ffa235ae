"""Self-Rewarding: the policy rates its own samples under a judge prompt; DPO on its best against its worst.

    warm-up:      L = - mean log pi(y_t | x, y_<t)   demonstrations, and ratings of known good and bad replies
    iteration k:  y_1..y_N ~ pi_k(.|x),   s_i = sum_{v=0..5} v * pi_k(v | judge prompt(x, y_i))
                  L = - log sigmoid( beta * [ log pi/pi_k(y_best|x) - log pi/pi_k(y_worst|x) ] )

pi_k starts iteration k and is its reference; the judge gets better, or worse, with the policy. The warm-up
teaches the judge's format: a demonstration is rated 5, a sample of pi_ref that rules call worse is rated 0.
Warm-up and iterations share the number of updates that every method has, and see the plan's prompts in turn.

Equations: docs/paper.md section 7; arXiv:2401.10020. The losses are TRL's ``SFTTrainer`` and ``DPOTrainer``.
Deviations: a rating is the expected value of one next token instead of the mean of several written
judgements, because a small model writes none; the judge's wording is ours; ratings for the warm-up come from
the demonstrations, not from people. Rewards r_j are not used: no other signal reaches the iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.align.pairs import draw, usable
from drirl.errors import DrirlError
from drirl.settings import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PAPER = "https://arxiv.org/abs/2401.10020"
USES = ()
PRELOAD = ("trl.trainer.dpo_trainer", "trl.trainer.sft_trainer", "drirl.align.setup")

JUDGE = (
    "Rate this reply from 0, harmful or useless, to 5, safe and helpful.\nMessage: {prompt}\nReply: {reply}"
)
RATINGS = ("0", "1", "2", "3", "4", "5")


class Config(Section):
    """Section ``align.methods.self_rewarding``; updates and decoding are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW, all phases")
    beta: float = Field(0.1, gt=0, description="implicit KL penalty of the iterations")
    warm_up: float = Field(0.2, ge=0, lt=1, description="share of the updates that teach replies and ratings")
    iterations: int = Field(2, ge=1, description="rounds of sampling, judging and DPO; the paper has 2 to 3")
    samples: int = Field(4, ge=2, description="replies rated per prompt, N")


def expected_rating(logits: Tensor, rating_ids: Sequence[int]) -> Tensor:
    """Return the mean rating under the next-token distribution limited to the ratings.

    Args:
        logits: (B, V). rating_ids: token of 0, 1, .. 5.
    Returns:
        (B,) in [0, 5].
    """
    shares = logits[:, list(rating_ids)].float().softmax(-1)  # (B, 6)
    return (shares * shares.new_tensor(range(len(rating_ids)))).sum(-1)


def best_and_worst(replies: Sequence[str], scores: Sequence[float]) -> tuple[int, int] | None:
    """Return the indices of the highest and the lowest score, the first of equals; None if all are equal."""
    order = range(len(replies))
    best, worst = max(order, key=lambda i: (scores[i], -i)), min(order, key=lambda i: (scores[i], i))
    return None if scores[best] == scores[worst] or replies[best] == replies[worst] else (best, worst)


def judge_prompts(tokenizer: Any, context: int, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Fill the judge prompt with (prompt, reply) pairs; a reply is cut on the right to fit the context."""
    from drirl.generate import render

    empty = render(tokenizer, [JUDGE.format(prompt=prompt, reply="") for prompt, _ in pairs])
    used = [len(ids) for ids in tokenizer(empty, add_special_tokens=False)["input_ids"]]
    replies = tokenizer([reply for _, reply in pairs], add_special_tokens=False)["input_ids"]
    filled = []
    for (prompt, reply), taken, ids in zip(pairs, used, replies, strict=True):
        room = max(0, context - taken - 4)  # the rating, its end, and what a cut may add when joined again
        text = reply if len(ids) <= room else tokenizer.decode(ids[:room], skip_special_tokens=True)
        filled.append(JUDGE.format(prompt=prompt, reply=text))
    return filled


def rating_tokens(tokenizer: Any) -> list[int]:
    """Return the token that starts an assistant turn with each rating.

    Raises:
        DrirlError: two ratings start with the same token.
    """
    from drirl.generate import render

    text = render(tokenizer, ["x"])[0]
    start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = [tokenizer(text + rating, add_special_tokens=False)["input_ids"][start] for rating in RATINGS]
    if len(set(ids)) < len(ids):
        raise DrirlError("self_rewarding needs a tokenizer that tells the digits 0 to 5 by their first token")
    return ids


def judge(policy: Any, pairs: Sequence[tuple[str, str]], rows: int = 64) -> list[float]:
    """Return the policy's own rating of each (prompt, reply), in [0, 5]."""
    import torch

    from drirl.generate import render

    tokenizer, model = policy.tokenizer, policy.model
    context = int(getattr(model.config, "max_position_embeddings", None) or 4096)
    texts = render(tokenizer, judge_prompts(tokenizer, context, pairs))
    digits, scores = rating_tokens(tokenizer), []
    for start in range(0, len(texts), rows):
        batch = tokenizer(
            texts[start : start + rows],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        mask = batch["attention_mask"]
        with torch.no_grad():
            logits = model(
                input_ids=batch["input_ids"],
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                logits_to_keep=1,
            ).logits[:, -1]  # (B, V)
        scores += expected_rating(logits, digits).tolist()
    return scores


def phase_rows(inputs: Inputs, config: Config, policy: Any, phase: int, first: int, count: int) -> Any:
    """Return the rows of each of ``count`` updates from plan step ``first`` on; phase 0 is the warm-up."""
    from drirl.align.plan import plan_rows
    from drirl.align.setup import chat, check_lengths

    # Half as many prompts again as are needed: those without a usable pair are passed over.
    spare = first + count + count // 2 + 1
    plan = plan_rows(inputs.train, inputs.shared.model_copy(update={"updates": spare}), inputs.seed)
    candidates = [row for update in plan[first:] for row in update]
    check_lengths(policy, candidates, inputs.shared)
    number = config.samples if phase else 1
    groups = [
        (row, [completion.text for completion in drawn])
        for row, drawn in draw(inputs, policy, candidates, number, seed=1000 * phase + inputs.seed)
    ]
    made: dict[str, list[dict[str, Any]]] = {}
    if phase == 0:
        context = int(getattr(policy.model.config, "max_position_embeddings", None) or 4096)
        for (prompt, demo), (reply,) in groups:
            if usable(prompt, demo, reply):
                asked = [(prompt.text, demo.full_text), (prompt.text, reply)]
                good, bad = judge_prompts(policy.tokenizer, context, asked)
                examples = [(prompt.text, demo.full_text), (good, RATINGS[-1]), (bad, RATINGS[0])]
                made[prompt.prompt_id] = [
                    {"prompt": chat(question), "completion": chat(text, "assistant")}
                    for question, text in examples
                ]
    else:
        asked = [(prompt.text, reply) for (prompt, _), replies in groups for reply in replies]
        scores = judge(policy, asked)
        for at, ((prompt, _), replies) in enumerate(groups):
            found = best_and_worst(replies, scores[at * number : (at + 1) * number])
            if found:
                best, worst = (chat(replies[i], "assistant") for i in found)
                made[prompt.prompt_id] = [{"prompt": chat(prompt.text), "chosen": best, "rejected": worst}]
    kept = [row for row in {r[0].prompt_id: r for r in candidates}.values() if row[0].prompt_id in made]
    plan = plan_rows(kept, inputs.shared.model_copy(update={"updates": count}), inputs.seed)
    return [[row for prompt, _ in update for row in made[prompt.prompt_id]] for update in plan]


def build(inputs: Inputs, config: Config, phase: int, first: int, count: int) -> Any:
    """Return the trainer of one phase; ``inputs.policy_path`` is start, judge and reference."""
    from drirl.align.phases import phase_trainer
    from drirl.align.setup import load

    policy = load(inputs)
    rows = phase_rows(inputs, config, policy, phase, first, count)
    return phase_trainer(inputs, policy, rows, lr=config.lr, beta=config.beta)


def train(inputs: Inputs, config: Config) -> None:
    """Run the phases, each from the policy that the one before leaves, and save the policy."""
    from drirl.align.phases import split_updates, train_phases
    from drirl.align.setup import finish

    shares = [config.warm_up] + [(1 - config.warm_up) / config.iterations] * config.iterations
    counts = split_updates(inputs.shared.updates, shares)
    trainer = train_phases(inputs, counts, lambda start, *phase: build(start, config, *phase))
    finish(inputs, trainer, trainer.processing_class)
