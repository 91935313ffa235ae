"""Trainers on one or two processes of a launcher, for test_two_processes.py; no test of its own.

Run as ``torchrun --nproc_per_node N two_processes.py POLICY OUT KIND...``: each kind is trained in turn, and
every process leaves ``OUT/KIND.RANK.safetensors`` and ``OUT/KIND.RANK.json``.

Kinds: ``trl``, ``scaled`` and ``off`` sample with TRL's own generation, whose seed differs between processes.
With ``scripted_...`` completions follow from the prompt alone: one and two processes see the same batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import save_file
from trl import GRPOConfig, GRPOTrainer

from drirl.align.actor_critic import ActorCriticTrainer, load_critic
from drirl.align.returns import clipped_value_loss, generalised_advantages
from drirl.align.trainer import DRIRLTrainer, ScaledGRPOTrainer
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness

G, PROMPTS, LENGTH, STEPS = 4, 3, 6, 2  # of two processes, each has half of the second prompt's group
WORDS = ("I can't help with that.", "Sure. First gather what you need.", None, "The answer is 7.")


class WordVectors:
    """Bag of words as unit vectors, in place of the encoder: texts that share words are similar."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, 32) vectors."""
        rows = np.zeros((len(texts), 32), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def was_cut(self, text: str) -> bool:
        """Return False: any length is read."""
        return False


def spread(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Reward by token ids; differs within every group."""
    return [sum((token * 37) % 101 for token in ids) * 1.0 for ids in completion_ids]


def dataset() -> Dataset:
    """Prompts of three categories, one of them without a demonstration."""
    texts = ("break in", "bake", "burn it", "add 3 and 4", "lie", "cook", "steal", "count to 7")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Tell me how to {text}."}],
            "category": (2, -1, 0, -1)[k % 4],
            "demonstration": WORDS[k % 4],
        }
        for k, text in enumerate(texts)
    ]
    return Dataset.from_list(rows)


def scripted(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Complete a prompt with tokens that its text and its place in the group decide, none of them an end."""
    tokenizer, model = trainer.processing_class, trainer.accelerator.unwrap_model(trainer.model)
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    completions, logps = [], []
    for row, own in enumerate(ids, trainer.accelerator.process_index * len(ids)):
        place = row % G
        length = LENGTH if sum(own) % 2 else 2  # processes differ in tokens
        completion = [20 + (sum(own) * 7 + 31 * place + 13 * t * (place + 1)) % 280 for t in range(length)]
        with torch.no_grad():
            logits = model(torch.tensor([[*own, *completion]])).logits[0, len(own) - 1 : -1].log_softmax(-1)
        completions.append(completion)
        logps.append([float(logits[t, token]) for t, token in enumerate(completion)])
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": logps}


def build(kind: str, policy: Path, out: Path) -> Any:
    """Return the trainer of a kind."""
    world = int(os.environ["WORLD_SIZE"])
    arguments = GRPOConfig(
        str(out / "trainer"),
        seed=11,
        max_steps=STEPS,
        per_device_train_batch_size=PROMPTS * G // world,
        num_generations=G,
        max_completion_length=LENGTH,
        learning_rate=1e-3,
        beta=0.1,
        loss_type="grpo",
        max_grad_norm=0.5,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    shared: dict[str, Any] = {
        "model": str(policy),
        "reward_funcs": spread,
        "args": arguments,
        "train_dataset": dataset(),
        "rollout_func": scripted if kind.startswith("scripted") else None,
    }
    kind = kind.removeprefix("scripted_")
    if kind == "trl":
        return GRPOTrainer(**shared)
    shared["record_updates"] = {1}
    if kind == "scaled":
        return ScaledGRPOTrainer(**shared)
    if kind == "ppo":
        torch.manual_seed(3)
        critic = load_critic(policy, torch.float32)
        torch.nn.init.normal_(critic.score.weight, std=0.1)
        return ActorCriticTrainer(
            **shared,
            critic=critic,
            critic_lr=1e-3,
            estimate=partial(generalised_advantages, gamma=1.0, gae_lambda=0.95),
            value_loss=partial(clipped_value_loss, clip=0.2),
            value_coefficient=0.5,
        )
    settings = HardnessSettings(combine="off" if kind == "off" else "product")
    return DRIRLTrainer(**shared, hardness=Hardness(settings, WordVectors()))


def main(policy: Path, out: Path, kinds: Sequence[str]) -> None:
    """Train every kind and write what this process is left with."""
    for kind in kinds:
        trainer = build(kind, policy, out)
        trainer.train()
        rank, model = trainer.accelerator.process_index, trainer.accelerator.unwrap_model(trainer.model)
        tensors = {f"policy.{name}": value for name, value in model.state_dict().items()}
        if hasattr(trainer, "critic"):
            tensors |= {f"critic.{name}": value for name, value in trainer.critic.state_dict().items()}
        save_file(
            {name: value.clone().contiguous() for name, value in tensors.items()},
            out / f"{kind}.{rank}.safetensors",
        )
        facts = {
            "processes": trainer.accelerator.num_processes,
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
            "hardness": trainer.hardness.state_dict() if hasattr(trainer, "hardness") else None,
            "rollouts": [asdict(group) for group in getattr(trainer, "rollouts", [])],
        }
        (out / f"{kind}.{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
