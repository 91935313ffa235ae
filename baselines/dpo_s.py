"""DPO-S: DPO with its strength at each pair scaled by the pair's hardness alpha.

    scale beta:  L = - log sigmoid( alpha * beta * [ log pi/pi_ref(y_w|x) - log pi/pi_ref(y_l|x) ] )
    scale loss:  L = - alpha * log sigmoid( beta * [ log pi/pi_ref(y_w|x) - log pi/pi_ref(y_l|x) ] )

    alpha = alpha_D * alpha_M     delta: dissimilarity of y_l to y_w; gap: r_j(x, y_w) - r_j(x, y_l)

y_w is the demonstration, y_l ~ pi_ref(.|x), r_j the reward of the prompt's category. alpha is detached.
Nothing it depends on changes in training, so it is computed once, update by update in the order of the plan,
running means included. DPO with one function changed: with alpha = 1 it is `dpo.py` to the last bit.

Equations: docs/paper.md sections 5 (alpha) and 7; arXiv:2305.18290, equation 7. The loss is TRL's
``DPOTrainer``.
Deviations: the paper reports DPO-S but its form was not found; the default follows DAMA, beta_eff = alpha *
beta. Each sample stands for its prompt alone, so alpha per completion has no meaning here. With ``scale:
loss`` the logged loss is the unweighted one; the gradient is weighted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from drirl.align.interface import Inputs
from drirl.align.pairs import pair_plan
from drirl.hardness.settings import HardnessSettings
from drirl.settings import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from drirl.hardness.state import Hardness

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ("irl",)
PRELOAD = (
    "trl.trainer.dpo_trainer",
    "drirl.align.setup",
    "drirl.hardness.encoder",
    "sentence_transformers",
)


class Config(Section):
    """Section ``align.methods.dpo_s``; the number of updates and the decoding of samples are shared."""

    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    beta: float = Field(0.1, gt=0, description="strength of the implicit KL penalty before scaling")
    scale: Literal["beta", "loss"] = Field("beta", description="what alpha multiplies")
    batches: int = Field(
        1,
        ge=1,
        description="plan steps joined into one update: 1 gives the prompts per update of the RL methods",
    )
    samples: int = Field(
        1, ge=1, description="reference samples drawn per prompt; the first usable one is rejected"
    )
    hardness: HardnessSettings = Field(HardnessSettings(), description="how alpha is computed")

    @model_validator(mode="after")
    def _one_sample_per_prompt(self) -> Self:
        if self.hardness.per_completion or self.hardness.mask == "gaussian_sampling":
            raise ValueError(
                "a pair has one sample: hardness.per_completion is false and mask quantile or fixed here"
            )
        return self


def pair_alphas(
    hardness: Hardness,
    categories: Sequence[int],
    rejected: Sequence[str],
    demonstrations: Sequence[str],
    gaps: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Return alpha of one update's pairs, (P,), and what is logged of it; moves the running means on.

    Hardness skips groups of fewer than two completions, so every sample stands twice. That changes no mean,
    and no quantile: ties at the limit stay whole, and floor(floor(2x) / 2) = floor(x).

    Args:
        categories: P; -1 for benign prompts.
        rejected, demonstrations: P replies without drafts.
        gaps: (P,) calibrated reward of the demonstration minus that of the rejected reply.
    """
    found = hardness(
        categories, [[text, text] for text in rejected], demonstrations, gaps[:, None].repeat(1, 2)
    )
    return found.weights[:, 0], found.log("drirl/")


def trainer_class() -> Any:
    """Return TRL's DPOTrainer that also reads the column ``alpha``; built on call, TRL is a heavy import."""
    import torch
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class ScaledGradients:
        """A model whose log-probabilities keep their values and pass ``weights`` times the gradient."""

        def __init__(self, model: Any, weights: Tensor) -> None:
            self.model, self.weights = model, weights[:, None]  # (B, 1)

        def __call__(self, **batch: Any) -> Any:
            outputs = self.model(**batch)
            fixed = outputs.log_probs.detach()
            outputs.log_probs = fixed + self.weights * (outputs.log_probs - fixed)
            return outputs

    class Collator(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            alphas = torch.tensor([example["alpha"] for example in examples])
            return {**super().torch_call(examples), "alpha": alphas}

    base: Any = DPOTrainer

    class HardDPOTrainer(base):
        """``alpha_logs[u]`` is logged with update u + 1."""

        beta: Any

        def __init__(
            self, *args: Any, scale: str, alpha_logs: Sequence[dict[str, float]], **kwargs: Any
        ) -> None:
            super().__init__(*args, **kwargs)
            self.scale, self.alpha_logs = scale, alpha_logs
            self.data_collator = Collator(pad_token_id=self._tokenizer.pad_token_id)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if "alpha" not in self._signature_columns:
                self._signature_columns.append("alpha")

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            batch = {name: value for name, value in inputs.items() if name != "alpha"}
            alpha = inputs["alpha"]  # (P,)
            for name, value in self.alpha_logs[self.state.global_step].items():
                self._metrics["train"][name].append(value)
            if self.scale == "loss":
                weights = torch.cat([alpha, alpha])  # (2P,): the batch is chosen, then rejected
                return super()._compute_loss(ScaledGradients(model, weights), batch, return_outputs)
            beta = self.beta
            self.beta = beta * alpha  # TRL only multiplies by it, so it may differ from pair to pair
            try:
                return super()._compute_loss(model, batch, return_outputs)
            finally:
                self.beta = beta

    return HardDPOTrainer


def build(inputs: Inputs, config: Config) -> tuple[Any, Any]:
    """Make the pairs and their alphas; return the trainer and the tokenizer."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig

    from drirl.align.setup import chat, common_arguments, load, micro_batches, peft_config
    from drirl.hardness.state import load_hardness
    from drirl.reward.bank import RewardBank
    from drirl.text import split_draft

    shared = inputs.shared
    policy = load(inputs)
    updates, rejected = pair_plan(inputs, policy, config.batches, config.samples)

    bank = RewardBank.load(inputs.reward_path, policy.model.device)
    hardness = load_hardness(config.hardness, inputs.encoder, inputs.cache, inputs.seed)
    pairs, logs = [], []
    for rows in updates:
        losers = [rejected[prompt.prompt_id] for prompt, _ in rows]
        rewards = bank.score_completions(
            [prompt.text for prompt, _ in rows] * 2,
            [demo.full_text for _, demo in rows] + [loser.text for loser in losers],
            [True] * len(rows) + [loser.finished for loser in losers],
            [prompt.category for prompt, _ in rows] * 2,
        )  # (2P,)
        alphas, log = pair_alphas(
            hardness,
            [prompt.category for prompt, _ in rows],
            [split_draft(loser.text)[1] for loser in losers],
            [demo.answer for _, demo in rows],
            torch.sub(*rewards.chunk(2)),
        )
        logs.append(log)
        pairs += [
            {
                "prompt": chat(prompt.text),
                "chosen": chat(demo.full_text, "assistant"),
                "rejected": chat(loser.text, "assistant"),
                "alpha": alpha,
            }
            for (prompt, demo), loser, alpha in zip(rows, losers, alphas.tolist(), strict=True)
        ]
    size, accumulation = micro_batches(len(updates[0]), shared)
    trainer = trainer_class()(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=DPOConfig(
            **common_arguments(inputs, config.lr),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            beta=config.beta,
            loss_type=["sigmoid"],
            max_length=None,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Dataset.from_list(pairs),
        peft_config=peft_config(shared),
        scale=config.scale,
        alpha_logs=logs,
    )
    return trainer, policy.tokenizer


def train(inputs: Inputs, config: Config) -> None:
    """Fit the weighted pairs in the order of the shared plan, and save the policy."""
    from drirl.align.logs import quiet
    from drirl.align.setup import finish, skip_padding

    trainer, tokenizer = build(inputs, config)
    skip_padding(trainer)
    quiet(trainer, inputs.label)
    trainer.train()
    data = trainer.train_dataset
    inputs.meter.trained_tokens = sum(
        len(row) for name in ("chosen_ids", "rejected_ids") for row in data[name]
    )
    finish(inputs, trainer, tokenizer)
