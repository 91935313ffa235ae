"""GRPO with scaled advantages: the narrow seam into TRL, and DR-IRL on top of it.

Two methods of :class:`trl.GRPOTrainer` are extended, none is copied: TRL generates, scores and normalises,
then the advantages it returns are multiplied. Scaling the *reward* of a prompt's group instead would be
undone by the normalisation. Dimension letters: P prompts, G completions per prompt, B = P * G rows, T
tokens.

Use from a script, on any dataset with the columns ``prompt``, ``category`` and ``demonstration``::

    trainer = DRIRLTrainer(
        model="path/of/a/policy",
        reward_funcs=my_reward,  # any TRL reward function
        args=GRPOConfig("out", loss_type="grpo", beta=0.04),
        train_dataset=dataset,
        hardness=Hardness(HardnessSettings(), load_encoder(EncoderSettings())),
    )
    trainer.train()

Source: paper section 6; the override is the route TRL's maintainer names in huggingface/trl#4525.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from drirl.align.rewards import BankReward, completion_text, prompt_text
from drirl.records import BENIGN, RolloutGroup, read_json, write_json
from drirl.text import split_draft

if TYPE_CHECKING:
    from drirl.hardness.state import Hardness, HardnessBatch

__all__ = ["DRIRLTrainer", "ScaledGRPOTrainer", "ScoredBatch"]

_HARDNESS = "hardness.json"
"""File of a checkpoint with the running means."""


@dataclass
class ScoredBatch:
    """One generation batch as TRL scored it: B rows of this process, groups of G adjacent rows.

    ``rows`` are the dataset rows, ``rewards`` (B,) the weighted sums (NaN: unscorable), ``all_rewards``
    (processes * B,) the same of every process, ``offset`` this process's first row in there.
    """

    rows: Sequence[dict[str, Any]]
    completions: list[str]
    completion_ids: Sequence[Sequence[int]]
    rewards: Tensor
    all_rewards: Tensor
    offset: int
    group_size: int


class ScaledGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose normalised advantages are multiplied by :meth:`advantage_scale`, here 1.

    Args:
        record_updates: updates (from 1) whose groups are kept in ``rollouts`` as records.

    Attributes:
        rollouts: the recorded groups.
        generated_tokens: tokens sampled so far on this process, end tokens included.
    """

    def __init__(self, *args: Any, record_updates: Collection[int] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.record_updates = frozenset(record_updates)
        self.rollouts: list[RolloutGroup] = []
        self.generated_tokens = 0

    _keeps_state = False
    """Whether checkpoints hold more than policy and optimiser: running means, a critic."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as :meth:`trl.GRPOTrainer.train`.

        Raises:
            ValueError: resuming under DeepSpeed, whose loading passes by what this trainer keeps.
        """
        if resume_from_checkpoint and self._keeps_state and self.is_deepspeed_enabled:
            raise ValueError(
                f"{type(self).__name__} cannot resume under DeepSpeed: running means and critic would start "
                "anew; resume without DeepSpeed (FSDP or DDP work), or start from the policy's weights"
            )
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def advantage_scale(self, batch: ScoredBatch) -> Tensor:
        """Return (B,) factors of this process's rows."""
        return torch.ones(len(batch.rows))

    def shaped_advantages(self, batch: ScoredBatch, output: dict[str, Any]) -> Tensor:
        """Return the advantages before scaling, (B,) or (B, T): TRL's group advantages unless overridden."""
        advantages: Tensor = output["advantages"]
        return advantages

    def scaled_advantages(self, batch: ScoredBatch, advantages: Tensor) -> Tensor:
        """Return ``advantages``, (B,) or (B, T), times :meth:`advantage_scale`."""
        scale = self.advantage_scale(batch).to(advantages)  # (B,)
        self.log_value("drirl/scale", float(self.accelerator.gather(scale).mean()))
        return advantages * (scale if advantages.dim() == 1 else scale[:, None])

    def group_details(self, row: dict[str, Any], group: int, size: int) -> dict[str, Any]:
        """Return the fields of a :class:`RolloutGroup` that the method knows: alpha, delta, gap, mask.

        Args:
            row: the dataset row of the prompt.
            group: number of the group in the batch of all processes.
            size: completions of a group, G.
        """
        gap: dict[str, Any] = {"r_demo": None, "delta": [], "gap": [], "mask": [1] * size}
        return {**gap, "alpha_D": 1.0, "alpha_M": 1.0, "alpha": 1.0}

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        per_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        infinite = per_function.isinf().any(dim=1, keepdim=True)  # such a completion counts as unscorable
        per_function = per_function.masked_fill(infinite, torch.nan)
        rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(
            dim=1
        )  # (processes * B,)
        rewards[per_function.isnan().all(dim=1)] = torch.nan
        offset = self.accelerator.process_index * len(prompts)
        self._batch = ScoredBatch(
            rows=inputs,
            completions=[completion_text(completion) for completion in completions],
            completion_ids=completion_ids_list,
            rewards=rewards[offset : offset + len(prompts)],
            all_rewards=rewards,
            offset=offset,
            group_size=(self.num_generations if self._training else self.num_generations_eval) or 1,
        )
        return per_function

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if not self._training:
            return output
        batch = self._batch
        self.generated_tokens += sum(len(ids) for ids in batch.completion_ids)
        output["advantages"] = self.scaled_advantages(batch, self.shaped_advantages(batch, output))
        self._log_by_category("drirl/reward", batch, batch.rewards)
        if self.state.global_step + 1 in self.record_updates:
            self._record(batch, output["advantages"])
        return output

    @property
    def _training(self) -> bool:
        assert self.model is not None
        return bool(self.model.training)

    def log_value(self, name: str, value: float) -> None:
        """Add a value to this update's log; TRL averages and reports it with its own metrics."""
        self._metrics["train"][name].append(value)

    def _log_by_category(self, name: str, batch: ScoredBatch, values: Tensor) -> None:
        """Log the mean of per-row ``values`` (B,) for each category in the batch; NaN rows are left out."""
        categories = gather_object([_category(row, BENIGN) for row in batch.rows])
        everything = self.accelerator.gather(values.float().to(self.accelerator.device)).tolist()
        for category in sorted(set(categories)):
            found = [
                v for v, c in zip(everything, categories, strict=True) if c == category and not math.isnan(v)
            ]
            if found:
                self.log_value(f"{name}/{category}", sum(found) / len(found))

    def _record(self, batch: ScoredBatch, advantages: Tensor) -> None:
        """Keep the groups of all processes, on every process: a group may lie on two of them."""
        size = batch.group_size
        per_row = advantages if advantages.dim() == 1 else advantages.sum(-1)  # (B,)
        local = zip(batch.rows, batch.completions, batch.rewards.tolist(), per_row.tolist(), strict=True)
        rows = gather_object(list(local))  # (processes * B,)
        for group in range(len(rows) // size):
            own, completions, rewards, scaled = zip(*rows[group * size : (group + 1) * size], strict=True)
            row = own[0]
            text = prompt_text(row["prompt"])
            record = RolloutGroup(
                step=self.state.global_step + 1,
                prompt_id=str(row.get("prompt_id") or hashlib.sha256(text.encode()).hexdigest()[:16]),
                category=_category(row, BENIGN),
                completions=list(completions),
                r_gen=[_rounded(v) for v in rewards],
                adv=[_rounded(v) for v in scaled],
                seed=int(self.args.seed),
                **self.group_details(row, group, size),
            )
            self.rollouts.append(record)


class DRIRLTrainer(ScaledGRPOTrainer):
    """DR-IRL: GRPO with the advantages of a prompt's group multiplied by its hardness alpha.

    Rows need ``category`` (an int; -1 for benign) and ``demonstration`` (text, or None). Both completion and
    demonstration count without their Chain-of-Draft notes. The reward of the demonstration comes from the
    column ``demo_reward`` or, without it, from the reward functions themselves.

    Args:
        hardness: the coefficient with its running means, which go into checkpoints and come back on resume.
    Raises:
        ValueError: ``train_dataset`` lacks the column ``category`` or ``demonstration``, or a category is no
            number.

    Attributes:
        found: the factors of the latest batch, of all processes.
    """

    found: HardnessBatch
    _keeps_state = True

    def __init__(self, *args: Any, hardness: Hardness, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        columns: list[str] | None = getattr(self.train_dataset, "column_names", None)
        missing = {"category", "demonstration"} - set(columns or ())
        if columns is not None and missing:
            raise ValueError(
                "expected the columns prompt, category and demonstration in train_dataset, found no "
                f"'{min(missing)}' among {', '.join(sorted(columns))}"
            )
        if isinstance(self.train_dataset, Dataset):
            labels = self.train_dataset.select_columns(["prompt", "category"])
            for i, row in enumerate(labels):
                _category(row, where=f"row {i}, ")
        self.hardness = hardness
        self._demo_rewards: dict[tuple[str, str], float] = {}

    def advantage_scale(self, batch: ScoredBatch) -> Tensor:
        """Return alpha of each row, (B,), detached (paper section 5)."""
        size = batch.group_size
        local = [
            (_category(row), text, row["demonstration"], self._demo_reward(row))
            for row, text in zip(batch.rows, batch.completions, strict=True)
        ]
        rows = gather_object(local)  # of all processes, so that every one keeps the same running means
        heads = rows[::size]
        rewards = batch.all_rewards.cpu()  # (processes * B,)
        replies = [split_draft(text)[1] for _, text, _, _ in rows]
        self.found = self.hardness(
            [category for category, _, _, _ in heads],
            [replies[i : i + size] for i in range(0, len(replies), size)],
            [None if demo is None else split_draft(demo)[1] for _, _, demo, _ in heads],
            (torch.tensor([r[3] for r in rows]) - rewards).view(-1, size),
            valid=rewards.isfinite().view(-1, size),
            rewarded=[self._rewarded(category) for category, _, _, _ in heads],
        )
        for name, value in self.found.log("drirl/").items():
            self.log_value(name, value)
        return self.found.weights.reshape(-1)[batch.offset : batch.offset + len(batch.rows)]

    def scaled_advantages(self, batch: ScoredBatch, advantages: Tensor) -> Tensor:
        """As the base class; per-completion alphas may also be re-centred in their group."""
        scaled = super().scaled_advantages(batch, advantages)
        if not self.found.recentre or advantages.dim() == 2:
            return scaled
        everything = self.accelerator.gather(advantages).cpu().view(-1, batch.group_size)  # (P, G)
        return (
            self.found.scale(everything).reshape(-1)[batch.offset : batch.offset + len(batch.rows)].to(scaled)
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.accelerator.is_main_process:  # the means are those of all processes
            name = f"checkpoint-{self.state.global_step}"
            write_json(Path(self._get_output_dir(trial=trial)) / name / _HARDNESS, self.hardness.state_dict())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.hardness.load_state_dict(read_json(Path(resume_from_checkpoint) / _HARDNESS))

    def group_details(self, row: dict[str, Any], group: int, size: int) -> dict[str, Any]:
        """Return what hardness found for the prompt."""
        found = self.found
        reward = self._demo_reward(row)
        return {
            "r_demo": None if math.isnan(reward) else _rounded(reward),
            "delta": [_rounded(v) for v in found.delta[group].tolist()],
            "gap": [_rounded(v) for v in found.gap[group].tolist()],
            "mask": [int(v) for v in found.mask[group].tolist()],
            "alpha_D": _rounded(float(found.alpha_D[group])),
            "alpha_M": _rounded(float(found.alpha_M[group])),
            "alpha": _rounded(float(found.alpha[group])),
        }

    def _rewarded(self, category: int) -> bool:
        """Return whether prompts of the category get a reward; without one no advantage is there to scale."""
        functions: list[Any] = self.reward_funcs
        return any(not isinstance(f, BankReward) or f.rewards(category) for f in functions)

    def _demo_reward(self, row: dict[str, Any]) -> float:
        """Return the reward of the row's demonstration, NaN if it has none."""
        if row["demonstration"] is None:
            return math.nan
        if row.get("demo_reward") is not None:
            return float(row["demo_reward"])
        key = (prompt_text(row["prompt"]), row["demonstration"])
        if key not in self._demo_rewards:
            self._demo_rewards[key] = self._score_demonstration(row)
        return self._demo_rewards[key]

    def _score_demonstration(self, row: dict[str, Any]) -> float:
        text = row["demonstration"]
        completion = text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"] + [self.eos_token_ids[0]]
        columns = {name: [value] for name, value in row.items() if name not in ("prompt", "completion")}
        total = 0.0
        functions: list[Any] = self.reward_funcs
        for function, weight in zip(functions, self.reward_weights.tolist(), strict=True):
            if isinstance(function, torch.nn.Module):
                raise ValueError(
                    "a model as reward function cannot score demonstrations here: add a column 'demo_reward' "
                    "to the dataset, or wrap the model in a function"
                )
            value = function(
                prompts=[row["prompt"]],
                completions=[completion],
                completion_ids=[ids],
                trainer_state=self.state,
                log_extra=lambda *_: None,
                log_metric=lambda *_: None,
                **columns,
            )[0]
            total += weight * (math.nan if value is None else float(value))
        return total


def _category(row: dict[str, Any], missing: int | None = None, where: str = "") -> int:
    """Return the row's category, ``missing`` if it has no such column.

    Raises:
        ValueError: it is no number.
    """
    value = row.get("category", missing)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"expected a number in the column category (0 to 6, or -1 for benign), found {value!r} in {where}"
            f"prompt '{prompt_text(row['prompt'])[:40]}'; give the row its category's number, or drop it"
        ) from None


def _rounded(value: float) -> float:
    return round(value, 6)
