"""Fit a reward bank to demonstrations against weighted negatives, keep the best validated weights,
calibrate.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drirl.errors import DrirlError
from drirl.packs import Pack
from drirl.reward.bank import RewardBank
from drirl.reward.items import Item, Reply, demonstration, group_key
from drirl.reward.losses import infonce_loss, logistic_loss, penalty
from drirl.reward.settings import RewardSettings

__all__ = ["FitLog", "Row", "calibrate", "fit", "group_accuracy", "rows_of"]


@dataclass(frozen=True)
class Row:
    """One prompt ready for fitting: token ids of the demonstration and of its negatives with their
    weights.
    """

    group: str
    column: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[list[int]]
    weights: list[float]
    offsets: list[float]

    @property
    def pack(self) -> Pack:
        """The prompt with the demonstration first, then the negatives."""
        return self.prompt, [self.chosen, *self.rejected]

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.prompt) + len(self.chosen) + sum(len(ids) for ids in self.rejected)


@dataclass
class FitLog:
    """What a fit did; every number is deterministic."""

    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_step: int = 0


def rows_of(bank: RewardBank, items: Sequence[Item], replies: Sequence[Sequence[Reply]]) -> list[Row]:
    """Tokenize items and their candidate replies; replies of weight 0, and items left without any, are
    dropped.
    """
    columns = bank.columns([item.head for item in items]).tolist()
    prompts = bank.prompt_ids([item.prompt.text for item in items])
    chosen = bank.reply_ids([demonstration(i.demo, bank.input_mode) for i in items], [True] * len(items))
    rows = []
    for item, column, prompt, demo, candidates in zip(items, columns, prompts, chosen, replies):
        kept = [reply for reply in candidates if reply.weight > 0]
        if not kept:
            continue
        negatives = bank.reply_ids([r.text for r in kept], [r.finished for r in kept])
        rows.append(
            Row(
                group=group_key(item),
                column=column,
                prompt=prompt,
                chosen=demo,
                rejected=negatives,
                weights=[r.weight for r in kept],
                offsets=[r.offset for r in kept],
            )
        )
    return rows


def fit(
    bank: RewardBank,
    train: Sequence[Row],
    val: Sequence[Row],
    settings: RewardSettings,
    *,
    steps: int,
    seed: int,
) -> FitLog:
    """Train the bank in place and leave it with the weights of the best validation accuracy.

    AdamW over trunk and heads; every step reads ``settings.batch_prompts`` prompts of similar length, each
    with all its negatives, in one forward pass. Validation accuracy is the mean over groups of the pairwise
    accuracy.

    Raises:
        DrirlError: nothing to fit on, or a loss that is not finite.
    Source: paper section 4, steps 5 and 6.
    """
    if not train:
        raise DrirlError(
            "reward: no pair to fit on: every sample was dropped and no hard negative could be made"
        )
    log = FitLog()
    optimizer = torch.optim.AdamW(bank.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    marks = {round(steps * (i + 1) / settings.checks) for i in range(settings.checks)}
    best, best_state, running = -1.0, None, 0.0
    batches = _batches(train, settings.batch_prompts, seed)
    bank.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(step, steps)
        batch = next(batches)
        chosen, rejected, weights, offsets, tokens = _rewards(bank, batch)
        if settings.loss == "infonce":
            loss = infonce_loss(chosen, rejected + offsets, weights, settings.beta)
        else:
            loss = logistic_loss(chosen, rejected + offsets, weights)
        loss = loss + settings.penalty * penalty(chosen, rejected, weights, settings.penalty_form)
        if not torch.isfinite(loss):
            raise DrirlError(f"reward: the loss is not finite at step {step}; lower reward.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bank.parameters(), 1.0)
        optimizer.step()
        log.tokens += tokens
        running += loss.item()
        if step in marks:
            log.losses.append(round(running / (steps / settings.checks), 6))
            running = 0.0
            accuracy = _mean(group_accuracy(bank, val)) if val else 0.0
            log.accuracies.append(round(accuracy, 6))
            if accuracy > best:
                best, log.best_step = accuracy, step
                best_state = {n: w.detach().clone() for n, w in bank.named_parameters() if w.requires_grad}
            bank.train()
    log.steps = steps
    if val and best_state is not None and log.best_step != steps:
        bank.load_state_dict(best_state, strict=False)  # frozen weights stand as they were
    bank.eval()
    return log


def group_accuracy(bank: RewardBank, rows: Sequence[Row]) -> dict[str, float]:
    """Return per group the share of pairs the demonstration wins; a tie counts half."""
    if not rows:
        return {}
    raw = bank.raw_all([row.pack for row in rows], columns=[row.column for row in rows])
    wins: dict[str, list[float]] = defaultdict(list)
    at = 0
    for row in rows:
        chosen = float(raw[at, row.column])
        for k in range(len(row.rejected)):
            other = float(raw[at + 1 + k, row.column])
            wins[row.group].append(1.0 if chosen > other else 0.5 if chosen == other else 0.0)
        at += 1 + len(row.rejected)
    return {group: sum(values) / len(values) for group, values in sorted(wins.items())}


def calibrate(bank: RewardBank, items: Sequence[Item], samples: Sequence[Sequence[Reply]]) -> None:
    """Standardise every head over the val demonstrations and samples of its own prompts (paper section
    4, step 8).
    """
    columns = bank.columns([item.head for item in items]).tolist()
    prompts = bank.prompt_ids([item.prompt.text for item in items])
    packs: list[Pack] = []
    owners: list[int] = []
    for item, prompt, column, replies in zip(items, prompts, columns, samples):
        texts = [demonstration(item.demo, bank.input_mode), *(r.text for r in replies)]
        ends = [True, *(r.finished for r in replies)]
        packs.append((prompt, bank.reply_ids(texts, ends)))
        owners += [column] * len(texts)
    bank.calibrate(bank.raw_all(packs, columns=columns), torch.tensor(owners))


def _rewards(bank: RewardBank, batch: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """One forward pass over demonstrations and negatives: (B,), (B, K), weights and offsets (B, K),
    tokens.
    """
    width = max(len(row.rejected) for row in batch)
    columns: list[int] = []
    first: list[int] = []
    index = torch.zeros(len(batch), width, dtype=torch.long)
    weights = torch.zeros(len(batch), width)
    offsets = torch.zeros(len(batch), width)
    for b, row in enumerate(batch):
        count, at = len(row.rejected), len(columns)
        first.append(at)
        index[b, :count] = torch.arange(at + 1, at + 1 + count)
        weights[b, :count] = torch.tensor(row.weights)
        offsets[b, :count] = torch.tensor(row.offsets)
        columns += [row.column] * (1 + count)
    raw = bank([row.pack for row in batch], [row.column for row in batch])  # (N, H)
    picked = raw.gather(1, torch.tensor(columns, device=raw.device)[:, None])[:, 0]  # (N,)
    chosen = picked[torch.tensor(first, device=raw.device)]  # (B,)
    rejected = picked[index.to(raw.device)]  # (B, K); unused places hold the first value, at weight 0
    tokens = sum(row.length for row in batch)
    return chosen, rejected, weights.to(raw.device), offsets.to(raw.device), tokens


def _batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Yield batches without end: shuffled each pass, rows of similar length together."""
    rng = random.Random(seed)
    order = list(range(len(rows)))
    while True:
        rng.shuffle(order)
        batches = []
        for start in range(0, len(order), 16 * size):
            pool = sorted(order[start : start + 16 * size], key=lambda i: (rows[i].length, i))
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        for batch in batches:
            yield [rows[i] for i in batch]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then half a cosine down to a tenth."""
    warm = max(1, steps // 10)
    if step <= warm:
        return step / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0
