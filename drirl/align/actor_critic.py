"""PPO's plumbing on GRPO's rollout: a critic beside the policy, advantages per token, one loss for both.

TRL has no PPO since 1.13, but its GRPO loss accepts advantages of shape (B, T). What is estimated from
values and rewards, and the value loss, are functions handed in: they belong to the method's own file. B
rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, TrainerCallback

from drirl.align.head import length_groups
from drirl.align.logs import hush
from drirl.align.trainer import ScaledGRPOTrainer, ScoredBatch

__all__ = ["ActorCriticTrainer", "load_critic", "state_values"]

_CRITIC = "critic"
"""Folder of a checkpoint with the critic."""

Estimator = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
ValueLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def load_critic(path: str | Path, dtype: torch.dtype, revision: str | None = None) -> PreTrainedModel:
    """Return a critic: the trunk of the policy at ``path`` with one output per token, 0 everywhere at first.

    A folder written by ``critic.save_pretrained`` gives that critic back, its output layer included.
    """
    hush()
    config = AutoConfig.from_pretrained(str(path), revision=revision)
    config.num_labels = 1
    config.classifier_dropout = 0.0
    critic, report = AutoModelForTokenClassification.from_pretrained(
        str(path),
        revision=revision,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
    )
    if any(key.startswith("score.") for key in report["missing_keys"]):
        for parameter in critic.score.parameters():
            nn.init.zeros_(parameter)
    return critic


def state_values(critic: PreTrainedModel, ids: Tensor, mask: Tensor, length: int) -> Tensor:
    """Return V of the states before each of the last ``length`` tokens, (B, length).

    Args:
        ids, mask: (B, L) prompt and completion, padded on the left and right. Padding gets the value 0.
    """
    total = ids.shape[1]
    values, places = [], []
    for group, group_ids, group_mask in length_groups(ids, mask):
        scores = critic(input_ids=group_ids, attention_mask=group_mask, use_cache=False).logits.squeeze(-1)
        row, column = group_mask.nonzero(as_tuple=True)
        values.append(scores[row, column].float())
        places.append(group[row] * total + mask[group].argmax(1)[row] + column)
    flat = torch.zeros(ids.numel(), device=ids.device).index_put((torch.cat(places),), torch.cat(values))
    return flat.view(ids.shape)[:, -length - 1 : -1]


class ActorCriticTrainer(ScaledGRPOTrainer):
    """GRPOTrainer with a critic, per-token advantages, and the KL penalty inside the reward.

    Args:
        critic: see :func:`load_critic`; trained with the policy, by its own parameter group.
        critic_lr: its learning rate; the policy's schedule applies.
        estimate: ``(rewards, values, mask) -> (advantages, returns)``, all (B, T).
        value_loss: ``(values, old values, returns, mask) -> scalar``, a mean over the tokens of the mask.
        value_coefficient: weight of the value loss.
    Raises:
        ValueError: ``args.beta`` is 0: there would be no reference policy for the penalty.
    """

    def __init__(
        self,
        *args: Any,
        critic: PreTrainedModel,
        critic_lr: float,
        estimate: Estimator,
        value_loss: ValueLoss,
        value_coefficient: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.beta == 0.0:
            raise ValueError("expected beta > 0: the reference policy is only kept for a KL penalty")
        self.critic = critic.to(self.accelerator.device).train()
        self.critic_lr = critic_lr
        self.estimate = estimate
        self.value_loss = value_loss
        self.value_coefficient = value_coefficient
        self._tokens = (
            1.0  # completion tokens of a micro-batch of one process, mean over the generation batch
        )
        self.add_callback(_CriticStep(self))

    _keeps_state = True

    def shaped_advantages(self, batch: ScoredBatch, output: dict[str, Any]) -> Tensor:
        """Return whitened advantages per token, (B, T); adds ``returns`` and ``old_values`` to ``output``.

        A completion whose reward is not finite leaves the batch: its ``completion_mask`` becomes 0, so that
        neither loss nor whitening sees it.
        """
        scored = batch.rewards.isfinite().to(output["completion_mask"].device)  # (B,)
        if not scored.all():
            output["completion_mask"] = output["completion_mask"] * scored[:, None]
            self.log_value("drirl/unscored_share", 1.0 - float(scored.float().mean()))
        ids, attention, mask = _join(output)
        length = mask.shape[1]
        with torch.no_grad():
            old = output.get("old_per_token_logps")
            if old is None:  # TRL leaves it out when every batch is used for one step
                old = output.get("sampling_per_token_logps")
            if old is None:
                old, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids, attention, length, batch_size=self.args.per_device_train_batch_size
                )
            values = state_values(self.critic, ids, attention, length) * mask
            log_ratio = (old - output["ref_per_token_logps"]) * mask
            rewards = -self.beta * log_ratio
            last = mask.sum(-1, keepdim=True).long() - 1  # (B, 1)
            rewards.scatter_add_(1, last.clamp(min=0), batch.rewards[:, None].nan_to_num(0.0).to(rewards))
            advantages, returns = self.estimate(rewards, values, mask)
        output["returns"], output["old_values"] = returns, values
        arguments: Any = self.args
        parts = self.accelerator.num_processes * arguments.steps_per_generation
        self._tokens = float(self.accelerator.reduce(mask.sum(), reduction="sum")) / parts
        kl = torch.exp(-log_ratio) + log_ratio - 1.0  # the estimator that GRPO logs
        self.log_value("kl", float((kl * mask).sum() / mask.sum().clamp(min=1)))
        inside = mask.bool()
        if inside.any():
            spread = ((returns - returns[inside].mean())[inside] ** 2).mean().clamp(min=1e-8)
            explained = 1 - ((returns - values)[inside] ** 2).mean() / spread
            self.log_value("drirl/explained_variance", float(explained))
        return self._whiten(advantages, mask)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        beta, self.beta = self.beta, 0.0  # the penalty is in the reward already
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        ids, attention, mask = _join(inputs)
        values = state_values(self.critic, ids, attention, mask.shape[1])
        value_loss = self.value_loss(values, inputs["old_values"], inputs["returns"], mask)
        self.log_value("drirl/value_loss", float(value_loss.detach()))
        # Processes and micro-batches are averaged evenly, whatever their tokens: weighted by them.
        value_loss = value_loss * (mask.sum() / max(self._tokens, 1.0))
        return loss + self.value_coefficient * value_loss / self.current_gradient_accumulation_steps

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the policy's optimiser and give the critic a parameter group of its own."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if fresh:
            optimizer.add_param_group(
                {"params": list(self.critic.parameters()), "lr": self.critic_lr, "weight_decay": 0.0}
            )
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.accelerator.is_main_process:
            name = f"checkpoint-{self.state.global_step}"
            self.critic.save_pretrained(Path(self._get_output_dir(trial=trial)) / name / _CRITIC)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = load_critic(Path(resume_from_checkpoint) / _CRITIC, self.critic.dtype)
        self.critic.load_state_dict(saved.state_dict())

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Shift and scale to mean 0 and variance 1 over the tokens of all processes; padding becomes 0."""
        sums = torch.stack([(advantages * mask).sum(), (advantages**2 * mask).sum(), mask.sum()])
        total, squares, count = self.accelerator.reduce(sums.double(), reduction="sum")
        count = count.clamp(min=1)
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).sqrt()
        return (((advantages - mean) / (std + 1e-8)) * mask).to(advantages.dtype)


class _CriticStep(TrainerCallback):
    """What the Trainer does for its own model only: average the critic's gradients, clip them, clear them."""

    def __init__(self, trainer: ActorCriticTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        parameters = [p for p in self.trainer.critic.parameters() if p.grad is not None]
        if self.trainer.accelerator.num_processes > 1:
            for parameter in parameters:
                parameter.grad = self.trainer.accelerator.reduce(parameter.grad, reduction="mean")
        torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.critic.zero_grad()


def _join(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (B, L), attention mask (B, L) and completion mask (B, T)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, attention, batch["completion_mask"].float()
