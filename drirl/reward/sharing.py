"""What the category rewards share (setting ``reward.sharing``), and how each arrangement is made and read.

``heads``: one trunk, a linear head per category (:class:`drirl.reward.bank.RewardBank`). ``adapters``: one
frozen trunk with a LoRA adapter and a head per category. ``separate``: a full model per category. ``single``:
one reward for everything, its head is called "all". All have the bank's scoring interface and are read by
``RewardBank.load``; a batch of mixed categories is scored in one call, every row by its own category's
weights.
Source: paper section 4 and question 3.

Dimension letters: B replies, P packs (a prompt with its replies), T tokens, D width of the trunk, H heads.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from drirl.errors import DrirlError, nearest
from drirl.packs import Pack
from drirl.records import BENIGN, read_json, write_json
from drirl.reward.bank import ALL, Head, RewardBank, check_tokens, load_trunk, read_arguments
from drirl.reward.items import HARM_CATEGORIES
from drirl.reward.settings import AdapterSettings, RewardSettings

__all__ = [
    "AdapterBank",
    "SeparateBank",
    "SharedBank",
    "cost_of",
    "load_shared",
    "make_rewards",
    "make_static",
]

DESCRIPTION = "sharing.json"


class SharedBank(RewardBank, ABC):
    """A bank whose columns have weights of their own beyond the head.

    Asked for all columns it reads every reply once per column; :meth:`score` asks for each prompt's own only.
    """

    kind = ""

    def forward(self, packs: Sequence[Pack], columns: Sequence[int] | None = None) -> Tensor:
        """As :meth:`RewardBank.forward`; with ``columns`` (one per pack) all other entries are NaN."""
        if columns is None:
            every = [self(packs, [h] * len(packs))[:, h] for h in range(len(self.heads))]
            return torch.stack(every, 1)  # (B, H)
        inputs, spans = self._layout(packs)
        raw = self._read_heads(self._hidden(inputs, columns), spans)  # (B, H)
        own = torch.tensor([columns[row] for row, _, _ in spans], device=self.device)  # (B,)
        other = own[:, None] != torch.arange(len(self.heads), device=self.device)[None]  # (B, H)
        return raw.masked_fill(other, torch.nan)

    @abstractmethod
    def _hidden(self, inputs: dict[str, Any], columns: Sequence[int]) -> Tensor:
        """Return the last hidden states of every row under its own column's weights, (P, T, D)."""

    def score(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        finished: Sequence[bool],
        categories: Sequence[int],
        calibrated: bool = True,
    ) -> Tensor:
        """As :meth:`RewardBank.score`; every reply is read once, under its own category."""
        if not prompts or not len(prompts) == len(answers) == len(finished) == len(categories):
            return super().score(prompts, answers, finished, categories, calibrated)  # the error
        columns = self.columns(categories).tolist()
        replies = self.reply_ids(answers, finished)
        packs: list[Pack] = []
        owners: list[int] = []
        order: list[int] = []
        for column in sorted(set(columns)):
            mine = [i for i, own in enumerate(columns) if own == column]
            some, place = self._packs([prompts[i] for i in mine], [replies[i] for i in mine])
            packs += some
            owners += [column] * len(some)
            order += [mine[k] for k in place]
        raw = self.raw_all(packs, columns=owners)  # (B, H)
        scores = torch.zeros(len(prompts))
        index = torch.tensor(columns)
        scores[order] = raw[torch.arange(len(order)), index[order]]
        if calibrated:
            scores = (scores - self.mu.cpu()[index]) / self.scale.cpu()[index]
        if not torch.isfinite(scores).all():
            row = int((~torch.isfinite(scores)).nonzero()[0])
            raise DrirlError(
                f"the reward of head {self.heads[columns[row]]} is not finite for the reply "
                f"'{answers[row][:40]}'; the weights are damaged or training diverged (lower reward.lr)"
            )
        return scores

    def snapshot(self) -> RewardBank:
        """Return an independent copy that shares only the tokenizer."""
        return copy.deepcopy(self, {id(self.tokenizer): self.tokenizer}).eval()

    def describe(self) -> dict[str, Any]:
        """Return what ``sharing.json`` holds besides the kind."""
        return {}

    def _write_trunk(self, folder: Path) -> None:
        write_json(folder / DESCRIPTION, {"kind": self.kind, **self.describe()})


class AdapterBank(SharedBank):
    """One frozen trunk, a LoRA adapter and a head per column; a mixed batch goes through in one pass."""

    kind = "adapters"

    def __init__(
        self,
        trunk: Any,
        tokenizer: Any,
        heads: Sequence[Head],
        input_mode: str = "answer",
        info: dict[str, Any] | None = None,
        adapters: AdapterSettings | None = None,
        seed: int = 0,
    ) -> None:
        """Put fresh adapters on ``trunk``: they change nothing until they are trained."""
        from peft import LoraConfig, get_peft_model

        settings = adapters or AdapterSettings()
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=0.0,
            target_modules=settings.targets,
        )
        super().__init__(trunk, tokenizer, heads, input_mode, info)
        self.adapters = settings
        self.names = [f"column{h}" for h in range(len(self.heads))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self.trunk = get_peft_model(trunk, config, adapter_name=self.names[0])
            except ValueError as error:
                raise DrirlError(f"reward.adapters.targets '{settings.targets}': {error}") from None
            for name in self.names[1:]:
                self.trunk.add_adapter(name, config)
        for name, weight in self.trunk.named_parameters():
            weight.requires_grad_(".lora_" in name)  # all adapters learn, not the active one alone

    def train(self, mode: bool = True) -> AdapterBank:
        """Set the mode; the trunk stays in evaluation mode, in which rows may name their adapter."""
        super().train(mode)
        self.trunk.eval()
        return self

    def _hidden(self, inputs: dict[str, Any], columns: Sequence[int]) -> Tensor:
        names = [self.names[column] for column in columns]
        hidden: Tensor = self.trunk(**inputs, use_cache=False, adapter_names=names).last_hidden_state
        return hidden

    def snapshot(self) -> RewardBank:
        """Return an independent copy that shares the tokenizer and the frozen trunk."""
        frozen = [w for w in self.trunk.parameters() if not w.requires_grad]
        shared = {id(part): part for part in [self.tokenizer, *frozen, *self.trunk.buffers()]}
        return copy.deepcopy(self, shared).eval()

    def describe(self) -> dict[str, Any]:
        """Return rank, alpha and targets of the adapters."""
        return {"adapters": self.adapters.model_dump()}

    def _write_trunk(self, folder: Path) -> None:
        super()._write_trunk(folder)
        state = self.trunk.state_dict()
        plain = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): weight
            for name, weight in state.items()
            if ".lora_" not in name
        }
        self.trunk.get_base_model().save_pretrained(folder, state_dict=plain, safe_serialization=True)
        lora = {name: w.cpu().contiguous() for name, w in state.items() if ".lora_" in name}
        save_file(lora, folder / "adapters.safetensors")

    def load_adapters(self, path: Path) -> None:
        """Read the adapters from a file.

        Raises:
            DrirlError: its weights are not those of this bank.
        """
        tensors = load_file(path)
        own = {name: weight for name, weight in self.trunk.state_dict().items() if ".lora_" in name}
        if {n: w.shape for n, w in own.items()} != {n: w.shape for n, w in tensors.items()}:
            raise DrirlError(
                f"{path}: these adapters do not fit the trunk beside them; copy the folder again"
            )
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(tensors[name])


class _Trunks(nn.Module):
    """Full models, one per column."""

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.config = models[0].config


class SeparateBank(SharedBank):
    """A full model and a head per column. H times the memory of a trunk; a row is read by its own model."""

    kind = "separate"

    def __init__(
        self,
        trunk: Any,
        tokenizer: Any,
        heads: Sequence[Head],
        input_mode: str = "answer",
        info: dict[str, Any] | None = None,
    ) -> None:
        """Copy ``trunk`` for every head; a list of models is taken as it is."""
        models = trunk if isinstance(trunk, list) else [copy.deepcopy(trunk) for _ in heads]
        super().__init__(_Trunks(models), tokenizer, heads, input_mode, info)

    def _hidden(self, inputs: dict[str, Any], columns: Sequence[int]) -> Tensor:
        parts, order = [], []
        for column in sorted(set(columns)):
            mine = [row for row, own in enumerate(columns) if own == column]
            index = torch.tensor(mine, device=self.device)
            some = {name: None if value is None else value[index] for name, value in inputs.items()}
            parts.append(self.trunk.models[column](**some, use_cache=False).last_hidden_state)
            order += mine
        back = torch.tensor(order, device=self.device).argsort()
        return torch.cat(parts)[back]  # (P, T, D)

    def _write_trunk(self, folder: Path) -> None:
        super()._write_trunk(folder)
        for name, model in zip(self.heads, self.trunk.models):
            model.save_pretrained(folder / f"trunk{name}", safe_serialization=True)


def make_rewards(
    path: str | Path,
    settings: RewardSettings,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    seed: int = 0,
    heads: Sequence[Head] | None = None,
) -> RewardBank:
    """Return the rewards that ``reward.sharing`` and ``reward.loss`` ask for, on a policy's weights.

    Every score is 0 until they are fitted.

    Args:
        heads: what the rewards are for; default: benign prompts and the harm categories, or all at once.

    Raises:
        DrirlError: ``path`` is not a transformers model, or adapters do not fit it.
    """
    if heads is None:
        heads = [ALL] if settings.sharing == "single" else [BENIGN, *HARM_CATEGORIES]
    options: dict[str, Any] = {"device": device, "revision": revision, "input_mode": settings.input_mode}
    if settings.loss == "implicit":
        from drirl.reward.implicit import ImplicitBank

        return ImplicitBank.from_reference(path, heads, beta=settings.implicit.beta, **options)
    if settings.sharing in ("heads", "single"):
        return RewardBank.from_policy(path, heads, **options)
    plain = RewardBank.from_policy(path, heads, device="cpu", revision=revision)
    arguments = (plain.trunk, plain.tokenizer, heads, settings.input_mode, plain.info)
    bank = (
        AdapterBank(*arguments, adapters=settings.adapters, seed=seed)
        if settings.sharing == "adapters"
        else SeparateBank(*arguments)
    )
    return bank.to(device).eval()


def make_static(
    path: str | Path,
    settings: RewardSettings,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    seed: int = 0,
) -> RewardBank:
    """Return a bank for the one static reward: an adapter if the category rewards are adapters, else a model.

    Raises:
        DrirlError: as :func:`make_rewards`.
    """
    if settings.sharing != "adapters":
        settings = settings.model_copy(update={"sharing": "single", "loss": "logistic"})
    return make_rewards(path, settings, device=device, revision=revision, seed=seed, heads=[ALL])


def load_shared(path: str | Path, device: str | torch.device = "cpu") -> RewardBank:
    """Read a folder with a ``sharing.json``; use ``RewardBank.load``, which reads every folder of rewards.

    Raises:
        DrirlError: the folder is incomplete, of an unknown kind, or its parts do not fit each other.
    """
    folder = Path(path)
    arguments = read_arguments(folder, DESCRIPTION)
    about, (tokenizer, heads, *_) = read_json(folder / DESCRIPTION), arguments
    bank: RewardBank
    if about["kind"] == "adapters":
        adapters = AdapterSettings.model_validate(about["adapters"])
        trunk = load_trunk(folder)
        check_tokens(folder, tokenizer, trunk)
        bank = AdapterBank(trunk, *arguments, adapters=adapters)
        bank.load_adapters(folder / "adapters.safetensors")
    elif about["kind"] == "separate":
        trunks = [load_trunk(folder / f"trunk{head}") for head in heads]
        check_tokens(folder, tokenizer, *trunks)
        bank = SeparateBank(trunks, *arguments)
    elif about["kind"] == "implicit":
        from drirl.reward.implicit import ImplicitBank, load_causal

        policy, reference = load_causal(folder), load_causal(folder / "reference")
        check_tokens(folder, tokenizer, policy, reference)
        bank = ImplicitBank(policy, *arguments, reference=reference, beta=float(about["beta"]))
    else:
        known = nearest(str(about["kind"]), ["adapters", "implicit", "separate"])
        raise DrirlError(f"{folder}/{DESCRIPTION}: unknown kind of rewards '{about['kind']}'; {known}")
    bank.load_heads(folder / "heads.safetensors")
    return bank.to(device).eval()


def cost_of(bank: RewardBank) -> dict[str, int]:
    """Return what a bank holds: ``parameters``, those that ``trained``, ``bytes`` of them all, ``passes``:
    how often a reply is read for all columns.
    """
    weights = list(bank.parameters())
    return {
        "parameters": sum(w.numel() for w in weights),
        "trained": sum(w.numel() for w in weights if w.requires_grad),
        "bytes": sum(w.numel() * w.element_size() for w in weights),
        "passes": len(bank.heads) if isinstance(bank, SharedBank) else 1,
    }
