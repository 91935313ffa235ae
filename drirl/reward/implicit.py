"""The implicit reward: beta_i * log(pi/pi_ref) of a policy trained to tell demonstrations from samples.

The loss ``implicit`` (IRFT, Li et al. 2024; the same as SPIN, Chen et al. 2024) has no reward network. In
outer iteration t the policy pi_t draws the negatives, and pi_{t+1} minimises

    -log sigma( beta_i*log(pi/pi_t)(y) - beta_i*log(pi/pi_t)(y~) ).

With r_t = beta_i*log(pi_t/pi_ref) that is the logistic loss on the margin of r less the margin of r_t: the
setting ``anchor``, with pi itself as the next policy. Exactly so for samples of pi_t; hard negatives and
replayed samples, which SPIN does not have, keep the margin they were given (0: relative to pi_ref).
Source: paper section 4, loss ``implicit``.

Dimension letters: B replies, P packs, T tokens, V vocabulary, H heads.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from drirl.errors import DrirlError
from drirl.generate import Completion
from drirl.models import load_tokenizer
from drirl.packs import Pack
from drirl.records import write_json
from drirl.reward.bank import Head, RewardBank
from drirl.reward.items import Item
from drirl.reward.policy import LanguagePolicy, RewardFunction
from drirl.reward.settings import RewardSettings

__all__ = ["ImplicitBank", "SelfPlay", "implicit_settings", "load_causal", "log_ratios", "span_logps"]


def span_logps(
    logits: Tensor, ids: Tensor, spans: Sequence[tuple[int, int, int]], starts: Sequence[int]
) -> Tensor:
    """Sum the log-probabilities of the tokens of each span.

    Args:
        logits: (P, T, V); ids: (P, T).
        spans: B triples row, first token, one past the last; an empty one sums to 0.
        starts: (P,) how many tokens of each row are its prompt. The first token of every span is predicted at
            the prompt's last token, because the spans of a row do not see each other.
    Returns:
        (B,) float32, nats.
    """
    rows, before, targets, owner = [], [], [], []
    for k, (row, start, stop) in enumerate(spans):
        for token in range(start, stop):
            rows.append(row)
            before.append(starts[row] - 1 if token == start else token - 1)
            targets.append(token)
            owner.append(k)
    device = logits.device
    row_index = torch.tensor(rows, device=device, dtype=torch.long)
    picked = logits[row_index, torch.tensor(before, device=device, dtype=torch.long)].float()  # (N, V)
    wanted = ids[row_index, torch.tensor(targets, device=device, dtype=torch.long)]  # (N,)
    logps = -F.cross_entropy(picked, wanted, reduction="none") if rows else picked.new_zeros(0)  # (N,)
    index = torch.tensor(owner, device=device, dtype=torch.long)
    return torch.zeros(len(spans), device=device).index_add(0, index, logps)


def log_ratios(logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """Return the implicit rewards beta * (log pi - log pi_ref), (B,)."""
    return beta * (logps - ref_logps)


class ImplicitBank(RewardBank):
    """A bank whose reward is the log-ratio of a policy to its reference; no head is read.

    Every column holds the same raw reward; the columns differ in their calibration only.

    Attributes:
        trunk: the policy pi, a causal LM; reference: pi_ref, frozen. beta: beta_i, reward units per nat.
    """

    def __init__(
        self,
        trunk: Any,
        tokenizer: Any,
        heads: Sequence[Head],
        input_mode: str = "answer",
        info: dict[str, Any] | None = None,
        *,
        reference: Any = None,
        beta: float = 0.1,
    ) -> None:
        """Join a policy and its reference (default: a copy of the policy, so every score is 0)."""
        super().__init__(trunk, tokenizer, heads, input_mode, info)
        self.head.requires_grad_(False)
        self.reference = copy.deepcopy(trunk) if reference is None else reference
        self.reference.requires_grad_(False)
        self.beta = beta

    @classmethod
    def from_reference(
        cls,
        path: str | Path,
        heads: Sequence[Head],
        *,
        beta: float = 0.1,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        input_mode: str = "answer",
    ) -> ImplicitBank:
        """Start at a policy: pi = pi_ref."""
        info = {"base": Path(path).name if Path(path).is_dir() else str(path), "revision": revision}
        model, tokenizer = load_causal(path, revision), load_tokenizer(path, revision)
        return cls(model, tokenizer, heads, input_mode, info, beta=beta).to(device).eval()

    def train(self, mode: bool = True) -> ImplicitBank:
        """Set the mode of the policy; the reference stays in evaluation mode."""
        super().train(mode)
        self.reference.eval()
        return self

    def forward(self, packs: Sequence[Pack], columns: Sequence[int] | None = None) -> Tensor:
        """Return the log-ratio of every reply, the same in every column, (B, H)."""
        inputs, spans = self._layout(packs)
        starts = [len(prompt) for prompt, _ in packs]
        logps = self._logps(self.trunk, inputs, spans, starts)
        with torch.no_grad():
            ref_logps = self._logps(self.reference, inputs, spans, starts)
        return log_ratios(logps, ref_logps, self.beta)[:, None].expand(-1, len(self.heads))

    def _logps(self, model: Any, inputs: dict[str, Any], spans: Any, starts: Sequence[int]) -> Tensor:
        logits = model(**inputs, use_cache=False).logits  # (P, T, V)
        return span_logps(logits, inputs["input_ids"], spans, starts)

    def snapshot(self) -> RewardBank:
        """Return an independent copy that shares the tokenizer and the reference."""
        shared = {id(self.tokenizer): self.tokenizer, id(self.reference): self.reference}
        return copy.deepcopy(self, shared).eval()

    def _write_trunk(self, folder: Path) -> None:
        super()._write_trunk(folder)
        self.reference.save_pretrained(folder / "reference", safe_serialization=True)
        write_json(folder / "sharing.json", {"kind": "implicit", "beta": self.beta})


class SelfPlay:
    """The policy side of the implicit loss: what comes next is the bank's own policy, whatever the reward."""

    def __init__(self, bank: ImplicitBank, policy: LanguagePolicy) -> None:
        self.bank, self.policy = bank, policy
        self.name = policy.name

    @property
    def generated_tokens(self) -> int:
        """Tokens sampled so far."""
        return self.policy.generated_tokens

    def sample(self, items: Sequence[Item], count: int, seed: int) -> list[list[Completion]]:
        """Draw ``count`` completions per item from pi_t."""
        return self.policy.sample(items, count, seed)

    def updated(self, items: Sequence[Item], reward: RewardFunction, name: str, seed: int) -> SelfPlay:
        """Return pi_{t+1}, a copy of the bank's policy as it stands; nothing is trained."""
        old = self.policy
        model = copy.deepcopy(self.bank.trunk).eval()
        policy = LanguagePolicy(
            model,
            old.tokenizer,
            name=name,
            settings=old.settings,
            max_new_tokens=old.max_new_tokens,
            temperature=old.temperature,
            batch_size=old.batch_size,
        )
        return SelfPlay(self.bank, policy)


def implicit_settings(settings: RewardSettings) -> RewardSettings:
    """Return the settings under which the outer loop is IRFT: margins relative to pi_t, no penalty on the
    size of log-ratios, its own learning rate, and a temperature that agrees with beta_i.
    """
    own = settings.implicit
    return settings.model_copy(update={"anchor": True, "penalty": 0.0, "lr": own.lr, "beta": own.beta})


def load_causal(path: str | Path, revision: str | None = None) -> Any:
    """Load a causal LM in float32.

    Raises:
        DrirlError: the path or id holds none.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(path), revision=revision, dtype=torch.float32, use_safetensors=True
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise DrirlError(f"'{path}' is not a folder or hub id of a causal language model: {reason}") from None
