"""What the trained methods share: the policy, TRL arguments, the planned dataset, saving.

One path for a small model on a CPU and a large one on a GPU: device, number format, adapters and vLLM are
values.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from datasets import Dataset
from trl import GRPOConfig
from trl.models.utils import disable_gradient_checkpointing

from drirl.align.actor_critic import ActorCriticTrainer
from drirl.align.head import use_compact_head
from drirl.align.interface import Inputs
from drirl.align.logs import hush, log_records, quiet
from drirl.align.plan import Row, plan_rows
from drirl.align.rewards import BankReward
from drirl.align.settings import Shared
from drirl.align.trainer import ScaledGRPOTrainer
from drirl.errors import DrirlError
from drirl.generate import render
from drirl.models import load_policy, resolve_device, seed_everything
from drirl.records import RolloutGroup, write_jsonl
from drirl.reward.bank import RewardBank
from drirl.sampler import sample_ids

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Policy",
    "chat",
    "check_lengths",
    "common_arguments",
    "finish",
    "load",
    "micro_batches",
    "peft_config",
    "sample_again",
    "skip_padding",
    "train_rl",
]


@dataclass
class Policy:
    """The policy to train, its tokenizer, and the token ids that end a completion."""

    model: Any
    tokenizer: Any
    end_ids: list[int]


def load(inputs: Inputs) -> Policy:
    """Seed everything and load the base policy of a run."""
    hush()
    seed_everything(inputs.seed)
    device = resolve_device(inputs.device)
    model, tokenizer = load_policy(inputs.policy_path, device, inputs.dtype, inputs.revision)
    declared = model.generation_config.eos_token_id
    more = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    return Policy(model, tokenizer, sorted({tokenizer.eos_token_id, *more}))


def common_arguments(inputs: Inputs, lr: float) -> dict[str, Any]:
    """Return the TrainingArguments every method gets; values the paper fixes are never left to defaults."""
    shared = inputs.shared
    on_cpu = resolve_device(inputs.device).type == "cpu"
    return {
        "output_dir": str(inputs.out / "trainer"),
        "seed": inputs.seed,
        "max_steps": shared.updates,
        "learning_rate": lr,
        "lr_scheduler_type": shared.schedule,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": shared.max_grad_norm,
        "use_cpu": on_cpu,
        "bf16": inputs.dtype == "bfloat16" and not on_cpu,
        "fp16": False,
        "gradient_checkpointing": shared.gradient_checkpointing,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
        "dataloader_num_workers": 0,
    }


def micro_batches(sequences: int, shared: Shared) -> tuple[int, int]:
    """Split an update's sequences into ``(per device and forward pass, accumulation steps)``.

    Raises:
        DrirlError: ``micro_batch`` times the number of processes does not divide them.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    size = min(shared.micro_batch or sequences, sequences // world)
    if size == 0 or sequences % (size * world):
        raise DrirlError(
            f"align.shared.micro_batch: {size} sequences on {world} processes do not divide the {sequences} "
            "of an update; choose a divisor"
        )
    return size, sequences // (size * world)


def peft_config(shared: Shared) -> Any:
    """Return the LoRA configuration, or None when all weights are trained."""
    if shared.lora is None:
        return None
    from peft import LoraConfig

    values = shared.lora
    return LoraConfig(
        r=values.r,
        lora_alpha=values.alpha,
        lora_dropout=values.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def chat(text: str, role: str = "user") -> list[dict[str, str]]:
    """Return one message, so that TRL applies the chat template."""
    return [{"role": role, "content": text}]


def train_rl(
    inputs: Inputs,
    *,
    lr: float,
    reward_path: Path,
    trainer_class: type[ScaledGRPOTrainer] = ScaledGRPOTrainer,
    num_iterations: int = 1,
    **trainer_arguments: Any,
) -> None:
    """Train the base policy by reinforcement learning on the shared plan and save it.

    Args:
        reward_path: the reward bank; every completion is scored under its prompt's category.
        trainer_class: decides what becomes of the advantages.
        num_iterations: optimiser steps per batch of completions; they count towards ``updates``.
        trainer_arguments: passed to ``trainer_class``.
    """
    shared = inputs.shared
    if issubclass(trainer_class, ActorCriticTrainer) and not shared.benign_reward:
        raise DrirlError(
            "align.shared.benign_reward false: PPO sets rewards against a critic over the whole batch, so a "
            "reward of 0 is no KL term alone; set it to true or leave ppo and ppo_s out of run.methods"
        )
    if num_iterations > 1 and shared.harmful_order == "sequential":
        raise DrirlError(
            "align.shared.harmful_order 'sequential': with several optimiser steps a batch only the first "
            "categories of the plan would be seen; set 'epochs' to 1 or use 'mixed'"
        )
    policy = load(inputs)
    bank = RewardBank.load(reward_path, policy.model.device)
    updates = plan_rows(inputs.train, shared, inputs.seed)
    per_update = len(updates[0])
    check_lengths(policy, [row for rows in updates for row in rows], shared)
    size, accumulation = micro_batches(per_update * shared.group_size, shared)
    arguments = GRPOConfig(
        **common_arguments(inputs, lr),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        num_generations=shared.group_size,
        num_iterations=num_iterations,
        max_completion_length=shared.max_new_tokens,
        temperature=shared.temperature,
        top_p=1.0,
        top_k=0,
        beta=shared.beta,
        epsilon=shared.epsilon,
        loss_type="grpo",
        scale_rewards="group",
        importance_sampling_level="token",
        mask_truncated_completions=False,
        shuffle_dataset=False,
        **_vllm(shared),
    )
    trainer = trainer_class(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=BankReward(bank, policy.end_ids, shared.benign_reward),
        args=arguments,
        train_dataset=_dataset([row for rows in updates for row in rows], bank),
        peft_config=peft_config(shared),
        rollout_func=_rollout(policy, shared) if shared.sampler == "shared" and shared.vllm is None else None,
        record_updates={1, (shared.updates + 1) // 2, shared.updates},
        **trainer_arguments,
    )
    skip_padding(trainer, shared.temperature)
    quiet(trainer, inputs.label)
    trainer.train()
    inputs.meter.generated_tokens = inputs.meter.trained_tokens = trainer.generated_tokens
    write_jsonl(inputs.out / "rollouts.jsonl", trainer.rollouts)
    try:
        again = sample_again(policy, trainer, shared)
    except (DrirlError, RuntimeError) as error:  # a look at the policy must not cost the training
        print(f"{inputs.label}: not sampled again after training ({error})", file=sys.stderr)
        again = []
    write_jsonl(inputs.out / "after.jsonl", again)
    finish(inputs, trainer, policy.tokenizer)


def sample_again(policy: Policy, trainer: ScaledGRPOTrainer, shared: Shared) -> list[RolloutGroup]:
    """Sample the trained policy on the prompts recorded in the middle, to see what became of each.

    Returns:
        A group per prompt, as recorded, but of the update after the last: completions and rewards, without
        advantages or hardness. Nothing is trained on them.
    """
    middle = (shared.updates + 1) // 2
    groups = [g for g in trainer.rollouts if g.step == middle < shared.updates]
    rows = {row["prompt_id"]: row for row in cast(Dataset, trainer.train_dataset)}
    chosen = [rows[g.prompt_id] for g in groups for _ in range(shared.group_size)]
    if not chosen:
        return []
    ids = _rollout(policy, shared)([row["prompt"] for row in chosen], trainer)["completion_ids"]
    texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
    reward: Any = trainer.reward_funcs[0]
    rewards = reward(
        prompts=[row["prompt"] for row in chosen],
        completions=[chat(text, "assistant") for text in texts],
        completion_ids=ids,
        category=[row["category"] for row in chosen],
    )
    size = shared.group_size
    parts = [slice(i * size, (i + 1) * size) for i in range(len(groups))]
    return [
        replace(
            group,
            step=shared.updates + 1,
            completions=[text.strip() for text in texts[part]],
            r_gen=[round(value, 6) for value in rewards[part]],
            delta=[],
            gap=[],
            mask=[],
            alpha_D=1.0,
            alpha_M=1.0,
            alpha=1.0,
            adv=[],
        )
        for group, part in zip(groups, parts, strict=True)
    ]


def skip_padding(trainer: Any, temperature: float = 1.0) -> None:
    """On a CPU, let TRL's trainer compute log-probabilities without padding; adapters keep TRL's path."""
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is not None and model.device.type == "cpu" and not hasattr(model, "peft_config"):
            use_compact_head(model, temperature, facts=model is trainer.model)


def finish(inputs: Inputs, trainer: Any, tokenizer: Any) -> None:
    """Write the log and the policy of a finished trainer, and remove its working folder."""
    inputs.meter.updates = int(trainer.state.global_step)
    records = log_records(trainer.state.log_history)
    broken = [r["update"] for r in records if r.get("loss") is None or r.get("grad_norm") is None]
    if broken:
        raise DrirlError(
            f"{inputs.label}: the loss or its gradient was not finite at update {broken[0]}; "
            "lower the learning rate"
        )
    write_jsonl(inputs.out / "log.jsonl", records)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True  # the Trainer turns it off, and it would be saved so
    inputs.save(model, tokenizer)
    shutil.rmtree(inputs.out / "trainer", ignore_errors=True)


def check_lengths(policy: Policy, rows: Sequence[Row], shared: Shared) -> None:
    """Fail on a prompt over ``max_prompt_tokens`` or one that leaves no room for a completion.

    Raises:
        DrirlError: names the prompt, its length and the limit.
    """
    context = getattr(policy.model.config, "max_position_embeddings", None)
    texts = sorted({prompt.prompt_id: prompt.text for prompt, _ in rows}.items())
    encoded = policy.tokenizer(render(policy.tokenizer, [t for _, t in texts]), add_special_tokens=False)
    for (prompt_id, _), ids in zip(texts, encoded["input_ids"], strict=True):
        length = len(ids)
        if length > shared.max_prompt_tokens:
            raise DrirlError(
                f"prompt {prompt_id} has {length} tokens, align.shared.max_prompt_tokens is "
                f"{shared.max_prompt_tokens}; raise it or drop the prompt"
            )
        if context is not None and length + shared.max_new_tokens > context:
            raise DrirlError(
                f"prompt {prompt_id} has {length} tokens; with align.shared.max_new_tokens "
                f"{shared.max_new_tokens} that exceeds the policy's context of {context}"
            )


def _dataset(rows: Sequence[Row], bank: RewardBank) -> Dataset:
    unique = {prompt.prompt_id: (prompt, demo) for prompt, demo in rows}
    pairs = [unique[key] for key in sorted(unique)]
    scores = bank.score_completions(
        [prompt.text for prompt, _ in pairs],
        [demo.full_text for _, demo in pairs],
        [True] * len(pairs),
        [prompt.category for prompt, _ in pairs],
    )
    rewards = {prompt.prompt_id: float(score) for (prompt, _), score in zip(pairs, scores, strict=True)}
    return Dataset.from_list(
        [
            {
                "prompt": chat(prompt.text),
                "prompt_id": prompt.prompt_id,
                "category": prompt.category,
                "demonstration": demo.answer,
                "demo_reward": rewards[prompt.prompt_id],
            }
            for prompt, demo in rows
        ]
    )


def _rollout(policy: Policy, shared: Shared) -> Callable[[list[Any], Any], dict[str, Any]]:
    """Return TRL's ``rollout_func``: our sampler on the policy being trained."""

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        encoded = policy.tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        logps: list[list[float]] = []
        model = trainer.accelerator.unwrap_model(trainer.model)
        with disable_gradient_checkpointing(model, trainer.args.gradient_checkpointing_kwargs):
            completions = sample_ids(
                model,
                encoded,
                max_new_tokens=shared.max_new_tokens,
                end_ids=policy.end_ids,
                pad_id=policy.tokenizer.pad_token_id,
                temperature=shared.temperature,
                logps=logps,
            )
        return {"prompt_ids": encoded, "completion_ids": completions, "logprobs": logps}

    return rollout


def _vllm(shared: Shared) -> dict[str, Any]:
    if shared.vllm is None:
        return {}
    return {"use_vllm": True, **{f"vllm_{name}": value for name, value in shared.vllm.items()}}
