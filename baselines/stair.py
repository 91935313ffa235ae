"""STAIR, reduced: SFT on stepwise replies, then DPO between sibling steps of small search trees.

    search:  child = argmax_k Q_k + c * sqrt(ln N_parent / N_k),   R(H, S) = S * H + 2 * S at a reply's end
    round k: L = - log sigmoid( beta * [ log pi/pi_k(s_w|x, prefix) - log pi/pi_k(s_l|x, prefix) ] )

s_w and s_l are the sibling steps of highest and lowest mean reward Q; of a tree the pair with the widest gap
is used. H in [-1, 1] is helpfulness, S in {-1, 1} safety: -1 for answering a harmful prompt, else 1. pi_k,
the policy that round k starts from, grows the trees and is the reference. A step is a note of the draft, the
separator, or a sentence of the reply.

Equations: docs/paper.md section 7; arXiv:2502.02384. The losses are TRL's ``SFTTrainer`` and ``DPOTrainer``.
Deviations: REDUCED, not comparable with the published STAIR: few search iterations per tree instead of 200,
the shared prompts and Chain-of-Draft demonstrations instead of 50k seeds and 20k Chain-of-Thought replies, no
top-k, no test-time search. H = tanh(r / 2) with the static reward r instead of the policy's own judgement; S
from the refusal detector instead of the released rule on the word "sorry". SFT and rounds share the number of
updates that every method has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drirl.records import Prompt

PAPER = "https://arxiv.org/abs/2502.02384"
USES = ("static",)
PRELOAD = ("trl.trainer.dpo_trainer", "trl.trainer.sft_trainer", "drirl.align.setup")

Ids = tuple[int, ...]


class Config(Section):
    """Section ``align.methods.stair``; the number of updates and the longest completion are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW, all phases")
    beta: float = Field(0.1, gt=0, description="implicit KL penalty of the rounds")
    sft: float = Field(0.2, ge=0, lt=1, description="share of the updates that is SFT on demonstrations")
    rounds: int = Field(3, ge=1, description="rounds of search and step-level DPO (STAIR: 3)")
    iterations: int = Field(3, ge=1, description="search iterations per tree (STAIR: 200)")
    children: int = Field(4, ge=2, description="steps tried at a node (STAIR: 4)")
    exploration: float = Field(1.5, ge=0, description="c of the search (STAIR: 1.5)")
    temperature: float = Field(1.2, gt=0, description="sampling temperature in the trees (STAIR: 1.2)")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus in the trees (STAIR: 0.9)")


@dataclass
class Node:
    """A completion up to a step's end; ``total``: sum of the rewards of ``visits`` replies through it."""

    prefix: Ids = ()
    step: Ids = ()
    parent: Node | None = None
    ended: bool = False
    visits: int = 0
    total: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def path(self) -> Ids:
        """Token ids from the start of the completion to the end of this step."""
        return self.prefix + self.step

    @property
    def value(self) -> float:
        """Mean reward, Q."""
        return self.total / self.visits if self.visits else 0.0


def combined_reward(helpfulness: float, safety: float) -> float:
    """R(H, S) = S * H + 2 * S: every safe reply beats every unsafe one, helpfulness decides among equals."""
    return safety * helpfulness + 2 * safety


def select(root: Node, exploration: float) -> Node:
    """Walk from the root to a leaf by the largest Q + c * sqrt(ln N_parent / N)."""
    node = root
    while node.children:
        scale = math.log(max(1, node.visits))
        node = max(node.children, key=lambda k: k.value + exploration * math.sqrt(scale / max(1, k.visits)))
    return node


def backpropagate(node: Node | None, reward: float) -> None:
    """Add one reward to a node and its ancestors."""
    while node is not None:
        node.visits, node.total, node = node.visits + 1, node.total + reward, node.parent


def expand(leaf: Node, replies: Sequence[Ids], rewards: Sequence[float], ends: Callable[[int], bool]) -> None:
    """Add the first step of each sampled continuation of ``leaf`` as a child; equal steps share one.

    ``rewards`` are those of the whole replies, ``ends`` says whether a token ends a step.
    """
    found: dict[Ids, Node] = {}
    for ids, reward in zip(replies, rewards, strict=True):
        cut = next((i for i, token in enumerate(ids, 1) if ends(token)), len(ids))
        step = ids[:cut]
        if step not in found:
            found[step] = Node(leaf.path, step, leaf, ended=cut == len(ids))
            leaf.children.append(found[step])
        backpropagate(found[step], reward)


def best_step_pair(root: Node) -> tuple[Ids, Ids, Ids] | None:
    """Return (prefix, better step, worse step) of the siblings whose mean rewards lie farthest apart."""
    best, gap, todo = None, 0.0, [root]
    while todo:
        node = todo.pop()
        todo += node.children
        if len(node.children) > 1:
            high, low = max(node.children, key=lambda k: k.value), min(node.children, key=lambda k: k.value)
            if high.value - low.value > gap:
                best, gap = (node.path, high.step, low.step), high.value - low.value
    return best


def step_ends(tokenizer: Any) -> Callable[[int], bool]:
    """Return whether a token closes a step: its text ends in . ! ? # or a new line."""
    return lru_cache(None)(
        lambda token: tokenizer.decode([token]).rstrip(" ").endswith((".", "!", "?", "#", "\n"))
    )


def rewards_of(
    bank: Any, prompts: Sequence[Prompt], texts: Sequence[str], finished: Sequence[bool]
) -> list[float]:
    """Return R(H, S) of each completion: H from the static reward, S from the refusal detector."""
    from drirl.detect import is_refusal
    from drirl.text import split_draft

    scores = bank.score_completions([p.text for p in prompts], texts, finished, [p.category for p in prompts])
    return [
        combined_reward(
            math.tanh(score / 2),
            -1.0 if p.kind == "harmful" and not is_refusal(split_draft(text)[1]) else 1.0,
        )
        for p, text, score in zip(prompts, texts, scores.tolist(), strict=True)
    ]


def grow(
    inputs: Inputs, config: Config, policy: Any, bank: Any, prompts: Sequence[Prompt], asked: list[list[int]]
) -> list[Node]:
    """Search one tree per prompt, all of them in step, and return the roots; ``asked``: prompts as ids."""
    from drirl.sampler import sample_ids

    tokenizer, longest = policy.tokenizer, inputs.shared.max_new_tokens
    roots, ends, end_ids = [Node() for _ in prompts], step_ends(tokenizer), set(policy.end_ids)
    for _ in range(config.iterations):
        leaves = [select(root, config.exploration) for root in roots]
        for leaf in leaves:
            if leaf.ended:
                backpropagate(leaf, leaf.value)  # nothing to try behind it: the same reply again
        open_ones = [i for i, leaf in enumerate(leaves) if not leaf.ended]
        open_ones.sort(key=lambda i: (len(asked[i]) + len(leaves[i].path), i))
        for start in range(0, len(open_ones), 64):
            part = open_ones[start : start + 64]
            rows = [i for i in part for _ in range(config.children)]
            new = sample_ids(
                policy.model,
                [[*asked[i], *leaves[i].path] for i in rows],
                max_new_tokens=longest - min(len(leaves[i].path) for i in part),
                end_ids=policy.end_ids,
                pad_id=tokenizer.pad_token_id,
                temperature=config.temperature,
                top_p=config.top_p,
            )
            inputs.meter.generated_tokens += sum(len(ids) for ids in new)
            new = [ids[: longest - len(leaves[i].path)] for i, ids in zip(rows, new, strict=True)]
            texts = [
                tokenizer.decode([*leaves[i].path, *ids], skip_special_tokens=True).strip()
                for i, ids in zip(rows, new, strict=True)
            ]
            rewards = rewards_of(bank, [prompts[i] for i in rows], texts, [ids[-1] in end_ids for ids in new])
            for k, i in enumerate(part):
                own = slice(k * config.children, (k + 1) * config.children)
                expand(leaves[i], [tuple(ids) for ids in new[own]], rewards[own], ends)
    return roots


def trainer_for(inputs: Inputs, config: Config, policy: Any, updates: list[list[dict[str, Any]]]) -> Any:
    """Return TRL's trainer for one phase: DPO if its rows have ``chosen_ids``, else SFT."""
    from trl import DPOTrainer

    from drirl.align.phases import phase_trainer

    base: Any = DPOTrainer

    class StepDPOTrainer(base):
        """Its rows are token ids already: a step in mid-reply gets no end token."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return phase_trainer(inputs, policy, updates, lr=config.lr, beta=config.beta, dpo_class=StepDPOTrainer)


def phase_rows(
    inputs: Inputs, config: Config, policy: Any, bank: Any, phase: int, first: int, count: int
) -> Any:
    """Return the rows of each of ``count`` updates from plan step ``first`` on; phase 0 is SFT."""
    import torch

    from drirl.align.plan import plan_rows
    from drirl.align.setup import chat, check_lengths
    from drirl.generate import render

    # Half as many prompts again as are needed: those whose tree has no two steps apart are passed over.
    spare = first + count + (count // 2 + 1 if phase else 0)
    plan = plan_rows(inputs.train, inputs.shared.model_copy(update={"updates": spare}), inputs.seed)[first:]
    candidates = {row[0].prompt_id: row for update in plan for row in update}
    check_lengths(policy, list(candidates.values()), inputs.shared)
    if phase == 0:
        return [
            [{"prompt": chat(p.text), "completion": chat(d.full_text, "assistant")} for p, d in update]
            for update in plan
        ]
    prompts = [candidates[key][0] for key in sorted(candidates)]
    texts = render(policy.tokenizer, [prompt.text for prompt in prompts])
    asked = policy.tokenizer(texts, add_special_tokens=False)["input_ids"]
    torch.manual_seed(1000 * phase + inputs.seed)
    made = {}
    for prompt, ids, root in zip(
        prompts, asked, grow(inputs, config, policy, bank, prompts, asked), strict=True
    ):
        if found := best_step_pair(root):
            prefix, better, worse = map(list, found)
            made[prompt.prompt_id] = {"prompt_ids": ids + prefix, "chosen_ids": better, "rejected_ids": worse}
    kept = [candidates[key] for key in sorted(made)]
    plan = plan_rows(kept, inputs.shared.model_copy(update={"updates": count}), inputs.seed)
    return [[made[prompt.prompt_id] for prompt, _ in update] for update in plan]


def train(inputs: Inputs, config: Config) -> None:
    """Run SFT and the rounds, each from the policy that the one before leaves, and save the policy."""
    from drirl.align.phases import split_updates, train_phases
    from drirl.align.setup import finish, load
    from drirl.reward.bank import RewardBank

    def make_trainer(start: Inputs, phase: int, first: int, count: int) -> Any:
        policy = load(start)
        bank = RewardBank.load(inputs.static_reward_path, policy.model.device)
        rows = phase_rows(start, config, policy, bank, phase, first, count)
        return trainer_for(start, config, policy, rows)

    shares = [config.sft] + [(1 - config.sft) / config.rounds] * config.rounds
    trainer = train_phases(inputs, split_updates(inputs.shared.updates, shares), make_trainer)
    finish(inputs, trainer, trainer.processing_class)
