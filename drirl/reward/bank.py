"""One language-model trunk with a linear reward head per category; a mixed batch is scored in one pass.

Dimension letters: B sequences, T tokens, D width of the trunk, H heads.

The reward reads the chat-formatted prompt and the reply, and takes the trunk's last hidden state. The end
token is appended only to a reply that ended by itself, so a cut-off reply is another input than a finished
one. Scores are calibrated: (r - mu) / scale per head (paper section 4, step 8).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from drirl.errors import DrirlError
from drirl.generate import render
from drirl.models import load_tokenizer
from drirl.packs import PACK, Pack, lay_out
from drirl.records import atomic_dir, read_json, write_json
from drirl.text import split_draft

__all__ = ["ALL", "Head", "RewardBank", "check_tokens", "load_trunk", "read_arguments"]

ALL = "all"
"""Name of the head of a single reward for every prompt."""
Head = int | str


class RewardBank(nn.Module):
    """Category rewards on a shared trunk.

    Attributes:
        heads: names of the heads in column order: categories (0..6, -1 for benign), or ["all"].
        mu, scale: (H,) calibration; 0 and 1 until :meth:`calibrate`.
        info: what the bank was made from; JSON-able, saved with it.
    """

    mu: Tensor
    scale: Tensor

    def __init__(
        self,
        trunk: Any,
        tokenizer: Any,
        heads: Sequence[Head],
        input_mode: str = "answer",
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise DrirlError("a reward bank needs at least one head")
        self.trunk = trunk
        self.tokenizer = tokenizer
        self.heads: list[Head] = list(heads)
        self.input_mode = input_mode
        self.info: dict[str, Any] = dict(info or {})
        self.head = nn.Linear(int(trunk.config.hidden_size), len(self.heads))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mu", torch.zeros(len(self.heads)))
        self.register_buffer("scale", torch.ones(len(self.heads)))

    # ------------------------------------------------------------------------------------------ construction

    @classmethod
    def from_policy(
        cls,
        path: str | Path,
        heads: Sequence[Head],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        input_mode: str = "answer",
    ) -> RewardBank:
        """Copy the trunk of a policy and put zero heads on it: every score starts at 0.

        Raises:
            DrirlError: ``path`` is not a transformers model with safetensors weights.
        """
        tokenizer = load_tokenizer(path, revision)
        trunk = load_trunk(path, revision)
        info = {"base": Path(path).name if Path(path).is_dir() else str(path), "revision": revision}
        return cls(trunk, tokenizer, heads, input_mode, info).to(device).eval()

    def save(self, path: Path) -> None:
        """Write the bank as a folder: a transformers trunk, ``heads.safetensors``, ``bank.json``. Atomic."""
        with atomic_dir(Path(path)) as folder:
            self._write_trunk(folder)
            self.tokenizer.save_pretrained(folder)
            tensors = {
                "weight": self.head.weight.detach(),
                "bias": self.head.bias.detach(),
                "mu": self.mu,
                "scale": self.scale,
            }
            save_file(
                {name: t.cpu().contiguous() for name, t in tensors.items()}, folder / "heads.safetensors"
            )
            write_json(
                folder / "bank.json", {"heads": self.heads, "input_mode": self.input_mode, "info": self.info}
            )

    def _write_trunk(self, folder: Path) -> None:
        self.trunk.save_pretrained(folder, safe_serialization=True)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> RewardBank:
        """Read a folder written by :meth:`save`, of whatever sharing (:mod:`drirl.reward.sharing`).

        Raises:
            DrirlError: the folder is missing, incomplete, or its heads or its tokenizer do not fit its trunk.
        """
        folder = Path(path)
        if (folder / "sharing.json").is_file():
            from drirl.reward.sharing import load_shared

            return load_shared(folder, device)
        arguments = read_arguments(folder, "config.json")
        trunk = load_trunk(folder)
        check_tokens(folder, arguments[0], trunk)
        bank = cls(trunk, *arguments)
        bank.load_heads(folder / "heads.safetensors")
        return bank.to(device).eval()

    def load_heads(self, path: Path) -> None:
        """Read the heads and their calibration from a file.

        Raises:
            DrirlError: its weights are not those of this bank.
        """
        tensors = load_file(path)
        if tensors["weight"].shape != self.head.weight.shape:
            found, expected = tuple(tensors["weight"].shape), tuple(self.head.weight.shape)
            raise DrirlError(f"{path}: weight is {found}, this trunk needs {expected}")
        with torch.no_grad():
            self.head.weight.copy_(tensors["weight"])
            self.head.bias.copy_(tensors["bias"])
            self.mu.copy_(tensors["mu"])
            self.scale.copy_(tensors["scale"])

    def snapshot(self) -> RewardBank:
        """Return an independent copy that shares only the tokenizer."""
        twin = RewardBank(copy.deepcopy(self.trunk), self.tokenizer, self.heads, self.input_mode, self.info)
        twin.load_state_dict(self.state_dict())
        return twin.to(self.device).eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.weight.device

    # ------------------------------------------------------------------------------------------------ tokens

    @property
    def context(self) -> int:
        """Longest sequence the trunk takes, tokens."""
        return int(self.trunk.config.max_position_embeddings)

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Tokenize chat-formatted prompts, ending where the reply starts; B lists of ids.

        Raises:
            DrirlError: a prompt that leaves no room for a reply in the context.
        """
        if not prompts:
            return []
        ids: list[list[int]] = self.tokenizer(render(self.tokenizer, prompts), add_special_tokens=False)[
            "input_ids"
        ]
        for text, row in zip(prompts, ids):
            if len(row) > self.context - 2:
                raise DrirlError(
                    f"a prompt has {len(row)} tokens, the context is {self.context}: '{text[:40]}...'; "
                    "shorten it or use a model with a longer context"
                )
        return ids

    def reply_ids(self, replies: Sequence[str], finished: Sequence[bool]) -> list[list[int]]:
        """Tokenize replies; the end token is appended only where ``finished``. B lists of ids, none empty."""
        if not replies:
            return []
        end = int(self.tokenizer.eos_token_id)
        ids = self.tokenizer(list(replies), add_special_tokens=False)["input_ids"]
        return [[*row, end] if done else row for row, done in zip(ids, finished)]

    # ----------------------------------------------------------------------------------------------- scoring

    def forward(self, packs: Sequence[Pack], columns: Sequence[int] | None = None) -> Tensor:
        """Return raw (uncalibrated) rewards of every head for every reply, (B, H), pack after pack.

        A pack is one prompt with any number of replies; the prompt is read once (:mod:`drirl.packs`).

        Args:
            columns: the one head column that is asked of each pack. Here all heads cost the same, so it
                changes nothing; banks whose heads have weights of their own compute that column alone.
        """
        inputs, spans = self._layout(packs)
        hidden = self.trunk(**inputs, use_cache=False).last_hidden_state  # (P, T, D)
        return self._read_heads(hidden, spans)  # (B, H)

    def _read_heads(self, hidden: Tensor, spans: Sequence[tuple[int, int, int]]) -> Tensor:
        """Apply all heads to the last token of every reply (of the prompt, if it is empty); (B, H)."""
        last = [(row, stop - 1) for row, _, stop in spans]
        row_index, token_index = torch.tensor(last, device=self.device).unbind(1)  # (B,)
        return self.head(hidden[row_index, token_index].to(self.head.weight.dtype))  # (B, H)

    def _layout(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
        """Return the inputs of the trunk, and where each reply stands; over the context, its end is lost."""
        return lay_out(
            packs,
            pad=int(self.tokenizer.pad_token_id),
            device=self.device,
            dtype=self.head.weight.dtype,
            context=self.context,
        )

    def columns(self, categories: Sequence[int]) -> Tensor:
        """Return the head column of each category, (B,); a bank with the single head "all" gives zeros.

        Raises:
            DrirlError: a category without a head.
        """
        if self.heads == [ALL]:
            return torch.zeros(len(categories), dtype=torch.long, device=self.device)
        where = {head: i for i, head in enumerate(self.heads)}
        for category in categories:
            if category not in where:
                known = ", ".join(str(head) for head in self.heads)
                raise DrirlError(f"no reward head for category {category}; this bank has {known}")
        return torch.tensor([where[c] for c in categories], dtype=torch.long, device=self.device)

    @torch.no_grad()
    def raw_all(
        self, packs: Sequence[Pack], tokens: int = 8192, columns: Sequence[int] | None = None
    ) -> Tensor:
        """Return raw rewards of every head for every reply of many packs, (B, H), pack after pack.

        Batches hold packs of similar length, about ``tokens`` tokens together. ``columns``: as in
        :meth:`forward`.
        """
        was_training = self.training
        self.eval()
        starts = [0]
        for _, replies in packs:
            starts.append(starts[-1] + len(replies))
        out = torch.zeros(starts[-1], len(self.heads))
        lengths = [len(prompt) + sum(len(reply) for reply in replies) for prompt, replies in packs]
        order = sorted(range(len(packs)), key=lambda i: (lengths[i], i))
        at = 0
        while at < len(order):
            end = at + 1
            while end < len(order) and lengths[order[end]] * (end + 1 - at) <= tokens:
                end += 1
            chosen = order[at:end]
            rows = [row for i in chosen for row in range(starts[i], starts[i + 1])]
            own = None if columns is None else [columns[i] for i in chosen]
            out[rows] = self([packs[i] for i in chosen], own).float().cpu()
            at = end
        self.train(was_training)
        return out

    def score_all(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        finished: Sequence[bool],
        calibrated: bool = True,
    ) -> Tensor:
        """Return rewards of every head, (B, H) float32 on the CPU; see :meth:`score`."""
        if not prompts:
            raise DrirlError("nothing to score: expected at least one prompt with a reply")
        if not len(prompts) == len(answers) == len(finished):
            raise DrirlError(
                f"expected as many replies and end marks as prompts; found {len(prompts)} prompts, "
                f"{len(answers)} replies, {len(finished)} end marks"
            )
        packs, order = self._packs(prompts, self.reply_ids(answers, finished))
        scores = torch.zeros(len(prompts), len(self.heads))
        scores[order] = self.raw_all(packs)
        if calibrated:
            scores = (scores - self.mu.cpu()) / self.scale.cpu()
        if not torch.isfinite(scores).all():
            row, column = (~torch.isfinite(scores)).nonzero()[0].tolist()
            raise DrirlError(
                f"the reward of head {self.heads[column]} is not finite for the reply '{answers[row][:40]}'; "
                "the bank's weights are damaged or its training diverged (lower reward.lr)"
            )
        return scores

    def _packs(self, prompts: Sequence[str], replies: Sequence[list[int]]) -> tuple[list[Pack], list[int]]:
        """Put replies to the same prompt together, at most ``PACK`` each; also say which reply stands
        where.
        """
        unique = sorted(set(prompts))
        known = dict(zip(unique, self.prompt_ids(unique)))
        where: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            where.setdefault(prompt, []).append(i)
        packs: list[Pack] = []
        order: list[int] = []
        for prompt, indices in where.items():
            for start in range(0, len(indices), PACK):
                chosen = indices[start : start + PACK]
                packs.append((known[prompt], [replies[i] for i in chosen]))
                order += chosen
        return packs, order

    def score(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        finished: Sequence[bool],
        categories: Sequence[int],
        calibrated: bool = True,
    ) -> Tensor:
        """Return the calibrated reward of each reply under its prompt's category.

        Args:
            prompts: B user messages, plain text.
            answers: B replies in the bank's input mode (without the draft if ``answer``).
            finished: B; whether the completion ended with the end token.
            categories: B; 0..6, or -1 for a benign prompt. A bank with the single head "all" ignores them.
            calibrated: False leaves the scale of the fit, which the IRL policy update is defined on.
        Returns:
            (B,) float32 on the CPU, in standard deviations of the calibration set; always finite.
        Raises:
            DrirlError: nothing to score, lengths that differ, a category without a head, a score that is
            not finite.
        """
        if len(categories) != len(prompts):
            raise DrirlError(f"expected one category per prompt; found {len(categories)} for {len(prompts)}")
        columns = self.columns(categories).cpu()
        scores = self.score_all(prompts, answers, finished, calibrated)
        return scores[torch.arange(len(columns)), columns]

    def score_completions(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finished: Sequence[bool],
        categories: Sequence[int],
        calibrated: bool = True,
    ) -> Tensor:
        """As :meth:`score`, from whole completions: in the mode ``answer`` the draft is cut off first."""
        answers = (
            [split_draft(text)[1] for text in completions] if self.input_mode == "answer" else completions
        )
        return self.score(prompts, answers, finished, categories, calibrated)

    # ------------------------------------------------------------------------------------------- calibration

    def calibrate(self, raw: Tensor, columns: Tensor) -> None:
        """Set mu and scale of each head to the mean and standard deviation of its own rows.

        Args:
            raw: (B, H) raw rewards of the calibration replies (demonstrations and samples of the val
            split). columns: (B,) head column each row belongs to. A head without rows, or whose rows do not
            vary, keeps
                scale 1.
        Source: paper section 4, step 8.
        """
        for h in range(len(self.heads)):
            values = raw[columns == h, h].double()
            if len(values) == 0:
                continue
            self.mu[h] = values.mean()
            spread = float(values.std(unbiased=False))
            self.scale[h] = spread if spread > 1e-6 else 1.0


def read_arguments(folder: Path, *more: str) -> tuple[Any, list[Head], str, dict[str, Any]]:
    """Return what a saved bank is made of besides its trunk: tokenizer, heads, input mode, info.

    Raises:
        DrirlError: a file every bank has is missing, or one of ``more``.
    """
    for name in ("bank.json", "heads.safetensors", *more):
        if not (folder / name).is_file():
            raise DrirlError(f"{folder} is not a reward bank: {name} is missing; run the stage 'reward'")
    values = read_json(folder / "bank.json")
    return load_tokenizer(folder), values["heads"], values["input_mode"], values["info"]


def check_tokens(folder: Path, tokenizer: Any, *models: Any) -> None:
    """Check that every token has a row in the embedding of each model; rows too many are padding.

    Added tokens besides the marks of beginning, end and padding are left out: some models have some that no
    chat uses, and no row for them.

    Raises:
        DrirlError: the tokenizer has tokens beyond an embedding.
    """
    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    tokens = 1 + max([tokenizer.vocab_size - 1, *(mark for mark in marks if mark is not None)])
    rows = min(len(model.get_input_embeddings().weight) for model in models)
    if tokens > rows:
        raise DrirlError(
            f"{folder}: its tokenizer has {tokens} tokens, the embedding of its trunk {rows} rows; copy "
            "tokenizer and trunk of one model, or resize the policy's embedding and run the stage 'reward'"
        )


def load_trunk(path: str | Path, revision: str | None = None) -> Any:
    """Return a language model without its output layer, in float32.

    Raises:
        DrirlError: ``path`` is not a transformers model with safetensors weights.
    """
    try:
        return AutoModel.from_pretrained(
            str(path), revision=revision, dtype=torch.float32, use_safetensors=True
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise DrirlError(f"'{path}' is not a folder or hub id of a language model: {reason}") from None
