"""Scores that are already known: the per-prompt records of one policy on one task, by what they depend on.

lm-eval's own ``use_cache`` knows no model identity, so that two policies would share answers; it is not used.
The key here is a hash over the weights and tokenizer of the policy, the task's files and items, the source
files that make and judge the records, the settings that matter, the rewards, package versions, device and
number format. An entry is one file, written whole as soon as its task is scored. Within a task the tokens of
each batch are kept until then, so that an interrupted run loses at most one batch of each policy. The folder
may be deleted whenever nothing is being scored.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import drirl
from drirl.records import EvalItem, atomic_write

__all__ = [
    "Batches",
    "Entry",
    "ScoreCache",
    "digest",
    "rewards_digest",
    "scoring_key",
    "sources",
    "sources_digest",
    "task_digest",
    "tokenizer_digest",
]

PACKAGE = Path(drirl.__file__).parent


@dataclass(frozen=True)
class Entry:
    """The records of one policy on one task, and what they cost: tokens, seconds, bytes."""

    items: list[EvalItem]
    generated_tokens: int
    cost: dict[str, float]


class Batches:
    """Generated tokens of the batches of one task and one run, kept until the task is scored.

    HFLM forms the same batches whenever it is given the same requests, so a batch is generated again as a
    whole or not at all, and what is read from here has the bits that it had.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> list[list[int]] | None:
        """Return the rows of token ids of a batch; None if they are not there or damaged."""
        try:
            value = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            rows: list[list[int]] = value["rows"]
            return rows if value["sha256"] == digest(rows) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, rows: list[list[int]]) -> None:
        """Store the rows of token ids of a batch, atomically.

        Raises:
            DrirlError: it cannot be written.
        """
        with atomic_write(self.folder / f"{key}.json") as temporary:
            temporary.write_text(json.dumps({"rows": rows, "sha256": digest(rows)}), encoding="utf-8")

    def clear(self) -> None:
        """Remove them."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ScoreCache:
    """A folder of entries. A damaged entry counts as none and is written anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, None if there is none that is whole."""
        try:
            head, _, body = self._path(key).read_text(encoding="utf-8").partition("\n")
            about = json.loads(head)
            if about["key"] != key or about["sha256"] != _sha(body):
                return None
            items = [EvalItem(**json.loads(line)) for line in body.splitlines()]
            return Entry(items, about["generated_tokens"], about["cost"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Store an entry, atomically.

        Raises:
            DrirlError: it cannot be written.
        """
        body = "".join(json.dumps(asdict(item), sort_keys=True) + "\n" for item in entry.items)
        about = {"key": key, "sha256": _sha(body), "generated_tokens": entry.generated_tokens}
        head = json.dumps(about | {"cost": entry.cost}, sort_keys=True)
        with atomic_write(self._path(key)) as temporary:
            temporary.write_text(f"{head}\n{body}", encoding="utf-8")

    def batches(self, key: str, run: str) -> Batches:
        """Return the place for the batches of a key's task, for as long as it has no entry.

        Each run has its own: policies with the same weights (seeds of a method that does not train, arms
        whose setting changes nothing) share keys, are scored side by side, and the first that ends clears
        its batches.

        Args:
            run: names the run, the same when it goes on and no other's.
        """
        return Batches(self.folder / "batches" / f"{key}-{_sha(run)[:16]}")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.jsonl"


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as sorted JSON; what JSON lacks counts by its text."""
    return _sha(json.dumps(value, sort_keys=True, default=str))


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a hash over vocabulary, rules, special tokens and chat template of a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)  # the last call's, no property of the tokenizer
        rules.pop("truncation", None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest([rules, special, tokenizer.chat_template, tokenizer.padding_side])


def task_digest(task: Any, yaml: Path, benchmarks: Path) -> str:
    """Return a hash over a task: the files of its folder, its settings in force, and every item.

    Args:
        yaml: the task's file. All files beside and below it count, README.md excepted.
        benchmarks: folder of task folders; of a task that lies right in it, only its file and the Python
            beside it count.
    """
    folder = yaml.parent
    loose = folder.resolve() == Path(benchmarks).resolve()
    found = [yaml, *folder.glob("*.py")] if loose else [p for p in folder.rglob("*") if p.is_file()]
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.name != "README.md" and "__pycache__" not in path.parts
    }
    config = {name: value for name, value in task.dump_config().items() if name != "metadata"}
    about = dict(task.config.metadata or {})
    kept = {name: about.get(name) for name in ("version", "judge")}  # the rest chose the items, with paths
    return digest([files, config, kept, list(task.eval_docs)])


def rewards_digest(bank: Any) -> str:
    """Return a hash over the weights, calibration and tokenizer of a reward bank; "" for None."""
    if bank is None:
        return ""
    import torch

    found = hashlib.sha256(digest([bank.heads, bank.input_mode, tokenizer_digest(bank.tokenizer)]).encode())
    for name, tensor in sorted(bank.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def sources(roots: Iterable[Path], package: Path = PACKAGE) -> list[Path]:
    """Return ``roots`` and every module of the package that they import, directly or not.

    Imports are read, not run, wherever they stand in a file.
    """
    waiting, seen = [Path(root) for root in roots], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        stat = path.stat()
        for name in _imports(path, stat.st_mtime_ns, stat.st_size):
            place = package.joinpath(*name.split(".")[1:])
            waiting += [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()]
    return sorted(seen)


def sources_digest(roots: Iterable[Path], package: Path = PACKAGE) -> str:
    """Return a hash over the bytes of :func:`sources`; where they lie does not count."""
    return digest(sorted(_sha(path.read_text(encoding="utf-8")) for path in sources(roots, package)))


@functools.lru_cache(maxsize=512)
def _imports(path: Path, _modified: int, _size: int) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(name for name in names if name.split(".")[0] == "drirl"))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def scoring_key(parts: Mapping[str, Any]) -> str:
    """Return the key of what ``parts`` describe, 64 hex digits."""
    return digest(dict(parts))
