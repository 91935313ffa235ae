"""RLOO: policy gradient on one static reward; a completion's baseline is the mean of its group's others.

For a prompt q with G completions o_i ~ pi_old and the static reward r:

    R_i = r(q, o_i) - beta * log( pi_old(o_i|q) / pi_ref(o_i|q) )
    A_i = R_i - 1/(G - 1) sum_{j != i} R_j
    L   = - E min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A),    rho = pi(o|q) / pi_old(o|q)

Unlike in GRPO the whole completion is one action (rho is a ratio of sequences), the KL penalty is in the
reward, and advantages keep the scale of the reward.

Equations: docs/paper.md section 7; arXiv:2402.14740. The loss is TRL's ``RLOOTrainer``.
Deviations: one update per batch of completions, so rho = 1 and the clip never acts. Completions come from the
sampler that the other methods share, unless ``align.shared.sampler`` says otherwise.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drirl.align.interface import Inputs
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2402.14740"
USES = ("static",)
PRELOAD = ("trl.trainer.rloo_trainer", "drirl.align.setup")


class Config(Section):
    """Section ``align.methods.rloo``; budget, group size, KL, clip range and decoding are shared."""

    lr: float = Field(6e-4, gt=0, description="learning rate of AdamW")
    normalise: bool = Field(False, description="shift and scale advantages to mean 0, deviation 1 per batch")


def trainer_class() -> Any:
    """Return TRL's RLOOTrainer with the shared sampler and records of some groups."""
    from accelerate.utils import gather_object
    from trl import RLOOTrainer
    from trl.models.utils import disable_gradient_checkpointing

    from drirl.align.rewards import completion_text
    from drirl.records import RolloutGroup
    from drirl.sampler import sample_ids

    base: Any = RLOOTrainer

    class OurRLOOTrainer(base):
        """``end_ids``: sample with drirl's sampler, ended by these; None: with TRL's generation.

        ``rollouts`` holds the groups of ``record_updates``; ``generated_tokens`` counts end tokens too.
        """

        def __init__(
            self, *args: Any, end_ids: list[int] | None, record_updates: set[int], **kwargs: Any
        ) -> None:
            super().__init__(*args, **kwargs)
            self.end_ids, self.record_updates = end_ids, record_updates
            self.rollouts: list[RolloutGroup] = []
            self.generated_tokens = 0

        def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> Any:
            if self.end_ids is None:
                return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
            model = self.accelerator.unwrap_model(self.model)
            with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
                return sample_ids(
                    model,
                    prompt_ids,
                    max_new_tokens=self.max_completion_length,
                    end_ids=self.end_ids,
                    pad_id=self._tokenizer.pad_token_id,
                    temperature=self.temperature,
                )

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
            self.generated_tokens += sum(len(ids) for ids in completion_ids)
            at = self.accelerator.process_index * len(prompts)
            self._scored = (completions, rewards[at : at + len(prompts), 0].tolist())
            return rewards

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            update = self.state.global_step + 1
            if update in self.record_updates:
                local = zip(inputs, *self._scored, output["advantages"].tolist(), strict=True)
                everything = gather_object(list(local))  # a group may lie on two processes
                for start in range(0, len(everything), self.num_generations):
                    group = everything[start : start + self.num_generations]
                    rows, texts, rewards, advantages = zip(*group, strict=True)
                    record = RolloutGroup(
                        step=update,
                        prompt_id=rows[0]["prompt_id"],
                        category=rows[0]["category"],
                        completions=[completion_text(text) for text in texts],
                        r_gen=[round(value, 6) for value in rewards],
                        r_demo=None,
                        delta=[],
                        gap=[],
                        mask=[1] * self.num_generations,
                        alpha_D=1.0,
                        alpha_M=1.0,
                        alpha=1.0,
                        adv=[round(value, 6) for value in advantages],
                        seed=int(self.args.seed),
                    )
                    self.rollouts.append(record)
            return output

    return OurRLOOTrainer


def build(inputs: Inputs, config: Config) -> tuple[Any, Any]:
    """Load policy, reward and planned prompts; return the trainer and the tokenizer."""
    from datasets import Dataset
    from trl import RLOOConfig

    from drirl.align.plan import plan_rows
    from drirl.align.rewards import BankReward
    from drirl.align.setup import chat, check_lengths, common_arguments, load, micro_batches, peft_config
    from drirl.reward.bank import RewardBank

    shared = inputs.shared
    policy = load(inputs)
    bank = RewardBank.load(inputs.static_reward_path, policy.model.device)
    updates = plan_rows(inputs.train, shared, inputs.seed)
    prompts = [prompt for rows in updates for prompt, _ in rows]
    check_lengths(policy, [row for rows in updates for row in rows], shared)
    size, accumulation = micro_batches(len(updates[0]) * shared.group_size, shared)
    vllm = {f"vllm_{name}": value for name, value in (shared.vllm or {}).items()}
    trainer = trainer_class()(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=BankReward(bank, policy.end_ids, shared.benign_reward),
        args=RLOOConfig(
            **common_arguments(inputs, config.lr),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_generations=shared.group_size,
            num_iterations=1,
            max_completion_length=shared.max_new_tokens,
            temperature=shared.temperature,
            top_p=1.0,
            top_k=0,
            beta=shared.beta,
            epsilon=shared.epsilon,
            normalize_advantages=config.normalise,
            mask_truncated_completions=False,
            shuffle_dataset=False,
            use_vllm=shared.vllm is not None,
            **vllm,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": chat(p.text), "prompt_id": p.prompt_id, "category": p.category} for p in prompts]
        ),
        peft_config=peft_config(shared),
        end_ids=policy.end_ids if shared.sampler == "shared" and shared.vllm is None else None,
        record_updates={1, (shared.updates + 1) // 2, shared.updates},
    )
    return trainer, policy.tokenizer


def train(inputs: Inputs, config: Config) -> None:
    """Run RLOO on the static reward and save the policy."""
    from drirl.align.logs import quiet
    from drirl.align.setup import finish, skip_padding
    from drirl.records import write_jsonl

    trainer, tokenizer = build(inputs, config)
    skip_padding(trainer, inputs.shared.temperature)
    quiet(trainer, inputs.label)
    trainer.train()
    inputs.meter.generated_tokens = inputs.meter.trained_tokens = trainer.generated_tokens
    write_jsonl(inputs.out / "rollouts.jsonl", trainer.rollouts)
    finish(inputs, trainer, tokenizer)
