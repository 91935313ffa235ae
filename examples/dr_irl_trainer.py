"""DR-IRL on a data set of one's own, without drirl's pipeline: `DRIRLTrainer` where TRL has `GRPOTrainer`.

    python examples/dr_irl_trainer.py --model FOLDER_OR_ID --data FILE.jsonl --output FOLDER

Every line of the file has `prompt`, `category` (a whole number; each one has running means of its own, -1 is
meant for benign prompts) and `demonstration` (text, or null). docs/trainer.md explains what is what.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from drirl.align.rewards import completion_text
from drirl.align.trainer import DRIRLTrainer
from drirl.data.settings import EncoderSettings
from drirl.hardness.encoder import load_encoder
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness


def overlap(completions: Sequence[Any], demonstration: Sequence[str | None], **_: Any) -> list[float | None]:
    """Return the F1 score of each completion's words against its demonstration's, 0 to 1.

    A stand-in for the reward you have: any TRL reward function will do. None says that there is no score; the
    completion is then left out of the update.
    """
    scores: list[float | None] = []
    for completion, wanted in zip(completions, demonstration, strict=True):
        own = Counter(completion_text(completion).lower().split())
        other = Counter((wanted or "").lower().split())
        shared = sum((own & other).values())
        scores.append(2 * shared / (sum(own.values()) + sum(other.values())) if wanted else None)
    return scores


def main(arguments: Sequence[str] | None = None) -> DRIRLTrainer:
    """Train, save the policy, and return the trainer."""
    parser = argparse.ArgumentParser(
        description="GRPO with DR-IRL's hardness coefficient on a file of prompts."
    )
    parser.add_argument("--model", required=True, help="transformers folder or hub id of a chat model")
    parser.add_argument(
        "--data", type=Path, required=True, help="JSON lines: prompt, category, demonstration"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained policy")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=8, help="prompts per update")
    parser.add_argument("--group-size", type=int, default=8, help="completions per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    options = parser.parse_args(arguments)

    rows = Dataset.from_json(str(options.data))
    rows = rows.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    trainer = DRIRLTrainer(
        model=options.model,
        reward_funcs=overlap,
        args=GRPOConfig(
            str(options.output),
            loss_type="grpo",
            beta=0.04,
            scale_rewards="group",
            learning_rate=1e-5,
            max_steps=options.updates,
            per_device_train_batch_size=options.prompts * options.group_size,
            num_generations=options.group_size,
            max_completion_length=options.max_new_tokens,
            use_cpu=options.cpu,
            bf16=not options.cpu,
            gradient_checkpointing=not options.cpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rows,
        hardness=Hardness(HardnessSettings(), load_encoder(EncoderSettings())),
    )
    trainer.train()
    trainer.save_model(str(options.output))
    return trainer


if __name__ == "__main__":
    main()
