"""Maximum-likelihood inverse RL: the outer loop that learns one reward per category (paper section 4).

Demonstrations have to beat samples of the policy that the current reward induces. After each fit the policy
is moved by that reward and sampled again, so later negatives show how the reward would be exploited.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from drirl.detect import is_refusal
from drirl.errors import DrirlError
from drirl.generate import Completion
from drirl.records import BENIGN, Pair
from drirl.reward.bank import RewardBank
from drirl.reward.fit import FitLog, calibrate, fit, rows_of
from drirl.reward.items import Item, Reply, demonstration, reply_part, similarity, verdict
from drirl.reward.negatives import Negatives
from drirl.reward.outer import Kept, Outer
from drirl.reward.policy import Policy
from drirl.reward.settings import RewardSettings
from drirl.text import SEPARATOR, split_draft

__all__ = ["Outcome", "judge_samples", "learn", "reward_function", "sample_replies"]

Progress = Callable[[str], None]

FORMAT_GAP = 0.1
"""``input_mode: full``: largest share of demonstrations with a draft above that of the policy's samples."""


@dataclass
class Passed:
    """A policy of an iteration that was read, not run: its name alone."""

    name: str

    def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
        """Raise: there are no weights."""
        raise DrirlError(f"policy '{self.name}' of an outer iteration was not made again")

    def updated(
        self,
        items: Sequence[Item],
        reward: Callable[[Sequence[Item], Sequence[Completion]], Tensor],
        name: str,
        seed: int,
    ) -> Policy:
        """Raise: there are no weights."""
        raise DrirlError(f"policy '{self.name}' of an outer iteration was not made again")


@dataclass
class Outcome:
    """What the outer loop leaves.

    Attributes:
        bank: the calibrated rewards of the last iteration.
        snapshots: the calibrated bank after every iteration; the last equals ``bank``.
        policies: pi_0 .. pi_{T-1}, the policies whose samples were the negatives.
        samples: per iteration the judged training samples (items x K); val_samples: the same for val.
        pairs: every pair used in training.
        logs: one fit log per iteration.
    """

    bank: RewardBank
    items: list[Item] = field(default_factory=list)
    snapshots: list[RewardBank] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    samples: list[list[list[Reply]]] = field(default_factory=list)
    val_samples: list[list[list[Reply]]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    logs: list[FitLog] = field(default_factory=list)


def judge_samples(
    item: Item, completions: Sequence[Completion], iteration: int, settings: RewardSettings
) -> list[Reply]:
    """Turn completions into weighted replies.

    Weight 0: the reply equals the demonstration, is empty text, or is good and a near-duplicate of it (word
    cosine of ``near_duplicate`` or more). Other good replies weigh ``safe_weight``; all the rest weigh 1
    (paper section 4, step 4).
    """
    target = demonstration(item.demo, settings.input_mode)
    replies = []
    for completion in completions:
        text = split_draft(completion.text)[1] if settings.input_mode == "answer" else completion.text
        judged = verdict(item, text, completion.finished)
        weight = 1.0
        if judged == "empty" or (completion.finished and text.strip() == target.strip()):
            weight = 0.0
        elif judged == "good":
            weight = 0.0 if similarity(text, target) >= settings.near_duplicate else settings.safe_weight
        replies.append(Reply(text, completion.finished, "sample", iteration, judged, weight))
    return replies


def sample_replies(
    policy: Policy, items: Sequence[Item], count: int, seed: int, iteration: int, settings: RewardSettings
) -> list[list[Reply]]:
    """Draw ``count`` completions per item and judge them."""
    drawn = policy.sample(items, count, seed)
    return [judge_samples(item, row, iteration, settings) for item, row in zip(items, drawn)]


def reward_function(bank: RewardBank) -> Callable[[Sequence[Item], Sequence[Completion]], Tensor]:
    """Return raw rewards of completions: the inner problem max E[r] - beta KL is posed on that scale."""

    def reward(items: Sequence[Item], completions: Sequence[Completion]) -> Tensor:
        return bank.score_completions(
            [item.prompt.text for item in items],
            [completion.text for completion in completions],
            [completion.finished for completion in completions],
            [item.head for item in items],
            calibrated=False,
        )

    return reward


def learn(
    bank: RewardBank,
    policy: Policy,
    train: Sequence[Item],
    val: Sequence[Item],
    settings: RewardSettings,
    *,
    seed: int,
    negatives: tuple[Negatives, Negatives] | None = None,
    progress: Progress = lambda text: None,
    known: Outer | None = None,
    done: Callable[[int, Kept, Outcome], None] = lambda t, kept, outcome: None,
) -> Outcome:
    """Run T_irl outer iterations; the bank is trained in place.

    Args:
        bank: zero heads on a copy of the base (or any warm start).
        policy: the reference policy pi_0.
        train, val: items with demonstrations; a prompt may stand several times with different demonstrations.
        negatives: makers of hard negatives for train and val; made here if not given.
        known: finished first iterations, which are read and not run again; results are the same.
        done: called after each iteration that was run; the bank is calibrated then.
    Raises:
        DrirlError: nothing to fit on, a loss or reward that is not finite, or ``input_mode: full`` with a
            policy that does not write drafts as the demonstrations do.
    Source: paper section 4, algorithm.
    """
    train, val = list(train), list(val)
    if negatives is None:
        negatives = Negatives(train, settings.input_mode), Negatives(val, settings.input_mode)
    outcome = Outcome(bank, items=train)
    reference = policy
    ready = 0 if known is None else len(known)
    for t in range(settings.iterations):
        base_seed = seed + 1000 * t
        kept = known.load(t, bank) if known is not None and t < ready else None
        if kept is not None:
            progress(f"irl {t}: read, not run again")
            samples, val_samples = kept.samples, kept.val_samples
        else:
            progress(f"irl {t}: {settings.samples} samples for {len(train)} prompts from '{policy.name}'")
            samples, val_samples = _drawn(bank, policy, (train, val), outcome, t, settings, base_seed)
        outcome.policies.append(policy)
        outcome.samples.append(samples)
        outcome.val_samples.append(val_samples)
        candidates = _candidates(train, outcome.samples, negatives[0], settings, base_seed + 2)
        val_candidates = _candidates(val, outcome.val_samples, negatives[1], settings, base_seed + 3)
        outcome.pairs += _pairs(train, candidates, policy.name, t, settings, seed)
        if kept is not None:
            outcome.logs.append(kept.log)
        else:
            progress(f"irl {t}: fitting {settings.steps} steps")
            bank.mu.zero_()
            bank.scale.fill_(1.0)
            rows, val_rows = rows_of(bank, train, candidates), rows_of(bank, val, val_candidates)
            log = fit(bank, rows, val_rows, settings, steps=settings.steps, seed=base_seed + 4)
            outcome.logs.append(log)
            calibrate(bank, val, val_samples)
            done(t, Kept(samples, val_samples, log), outcome)
        outcome.snapshots.append(bank.snapshot())
        if t + 1 < settings.iterations and settings.update == "grpo":
            name = f"irl{t + 1}"
            if t + 1 < ready and t + 2 < settings.iterations:  # nobody samples from it any more
                policy = Passed(name)
            else:
                progress(f"irl {t}: moving the policy by {settings.policy.steps} GRPO steps on this reward")
                policy = reference.updated(train, reward_function(bank), name, base_seed + 5)
    return outcome


def _drawn(
    bank: RewardBank,
    policy: Policy,
    items: tuple[Sequence[Item], Sequence[Item]],
    outcome: Outcome,
    t: int,
    settings: RewardSettings,
    seed: int,
) -> tuple[list[list[Reply]], list[list[Reply]]]:
    """Return the judged samples of iteration ``t`` for train and val."""
    train, val = items
    if settings.update == "reweight" and t > 0:
        samples = _resampled(bank, train, outcome.samples[0], t, settings, seed)
        val_samples = _resampled(bank, val, outcome.val_samples[0], t, settings, seed + 1)
    else:
        samples = sample_replies(policy, train, settings.samples, seed, t, settings)
        val_samples = sample_replies(policy, val, settings.samples, seed + 1, t, settings)
    if settings.input_mode == "full" and t == 0:
        _check_format(train, samples)
    if settings.anchor and t > 0:
        samples = _anchored(bank, train, samples)
    return samples, val_samples


def _check_format(items: Sequence[Item], samples: Sequence[Sequence[Reply]]) -> None:
    """Stop where the drafts alone tell demonstrations from samples (paper section 4, format shortcut)."""
    shares = [
        sum(SEPARATOR in text for text in texts) / max(1, len(texts))
        for texts in (
            [item.demo.full_text for item in items],
            [reply.text for replies in samples for reply in replies],
        )
    ]
    if shares[1] < shares[0] - FORMAT_GAP:
        raise DrirlError(
            f"reward.input_mode 'full': {shares[0]:.0%} of the demonstrations have a draft before "
            f"'{SEPARATOR}', but only {shares[1]:.0%} of the policy's samples, so a reward would learn the "
            "format; fine-tune the base on demonstrations first (method 'sft'), or set reward.input_mode to "
            "'answer'"
        )


def _candidates(
    items: Sequence[Item],
    history: Sequence[Sequence[Sequence[Reply]]],
    negatives: Negatives,
    settings: RewardSettings,
    seed: int,
) -> list[list[Reply]]:
    """Return per item: this iteration's samples, some of earlier ones, hard negatives, wrong task answers."""
    rng = random.Random(seed)
    iteration = len(history) - 1
    for item, replies in zip(items, history[-1]):
        for reply in replies:
            if item.head != BENIGN and reply.verdict == "unsafe":
                negatives.remember_unsafe(item.head, reply.text)
            elif item.head != BENIGN and reply.verdict == "good" and is_refusal(reply_part(reply.text)):
                negatives.remember_refusal(reply.text)
    result = []
    for i, item in enumerate(items):
        rows = list(history[-1][i])
        earlier = [r for past in history[:-1] for r in past[i] if r.weight > 0]
        rows += rng.sample(earlier, min(settings.replay, len(earlier)))
        rows += negatives.draw(item, settings.hard_negatives, rng)
        rows += negatives.wrong_answers(item, settings.wrong_answers, rng)
        result.append([replace(r, iteration=iteration) if r.kind != "sample" else r for r in rows])
    return result


def _resampled(
    bank: RewardBank,
    items: Sequence[Item],
    stored: Sequence[Sequence[Reply]],
    iteration: int,
    settings: RewardSettings,
    seed: int,
) -> list[list[Reply]]:
    """Draw K of the stored pi_ref samples per item with weights softmax_k(r / beta) (paper section 4,
    step 7a).
    """
    generator = torch.Generator().manual_seed(seed)
    flat = [(item, reply) for item, row in zip(items, stored) for reply in row]
    rewards = bank.score(
        [item.prompt.text for item, _ in flat],
        [reply.text for _, reply in flat],
        [reply.finished for _, reply in flat],
        [item.head for item, _ in flat],
        calibrated=False,
    )
    result, at = [], 0
    for row in stored:
        weights = torch.softmax(rewards[at : at + len(row)] / settings.beta, 0)
        at += len(row)
        drawn = torch.multinomial(weights, len(row), replacement=True, generator=generator).tolist()
        result.append([replace(row[k], iteration=iteration) for k in drawn])
    return result


def _anchored(
    bank: RewardBank, items: Sequence[Item], samples: Sequence[Sequence[Reply]]
) -> list[list[Reply]]:
    """Give every sample the margin it has under the reward r_t that its policy pi_ref * exp(r_t / beta)
    follows.

    The logistic loss on (r - r_t) has its optimum where r - r_t = log(demonstrations / pi_t), so a policy
    that already matches the demonstrations leaves the reward where it is. On r itself the optimum would be
    flat there.
    """
    result = []
    for item, replies in zip(items, samples):
        texts = [demonstration(item.demo, bank.input_mode), *(r.text for r in replies)]
        raw = bank.score(
            [item.prompt.text] * len(texts),
            texts,
            [True, *(r.finished for r in replies)],
            [item.head] * len(texts),
            calibrated=False,
        ).tolist()
        result.append([replace(r, offset=raw[0] - value) for r, value in zip(replies, raw[1:])])
    return result


def _pairs(
    items: Sequence[Item],
    candidates: Sequence[Sequence[Reply]],
    policy_id: str,
    iteration: int,
    settings: RewardSettings,
    seed: int,
) -> list[Pair]:
    pairs = []
    for item, replies in zip(items, candidates):
        for k, reply in enumerate(replies):
            sampled = reply.kind == "sample"
            pairs.append(
                Pair(
                    pair_id=f"{item.demo.demo_id}-{iteration}-{k}",
                    prompt_id=item.prompt.prompt_id,
                    category=item.head,
                    demo_id=item.demo.demo_id,
                    negative=reply.text,
                    policy_id=policy_id
                    if sampled and reply.iteration == iteration
                    else f"earlier{reply.iteration}"
                    if sampled
                    else "",
                    irl_iter=iteration,
                    temperature=settings.temperature if sampled else 0.0,
                    weight=reply.weight,
                    neg_kind=reply.kind,
                    finished=reply.finished,
                    seed=seed,
                )
            )
    return pairs
