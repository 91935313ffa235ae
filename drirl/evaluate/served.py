"""Score a model behind an OpenAI-compatible server, on tasks that generate.

The client is that of the data room (:mod:`drirl.data.server`): several requests at once, tries again after
failures that may pass, timeouts, a rate limit, the key in the header alone. Every reply is kept in a file
beside the output as soon as it is there; an interrupted run goes on from it, and it is deleted when the
records are written: what a server calls a model may be another one tomorrow, so its scores are not reused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from drirl.config import Params, project_root
from drirl.data.generator_settings import GeneratorSettings
from drirl.data.generators import Generator, Keep, Reply, ReplyCache, Request, TextGenerator
from drirl.data.server import Server
from drirl.errors import DrirlError
from drirl.evaluate.harness import Subject, Tasks, load_tasks, score_model
from drirl.evaluate.items import GENERATES
from drirl.evaluate.stage import record_config, write_records

__all__ = ["ServedLM", "evaluate_served"]

_NAMES = {
    "check url, model, key_env and extra under data.generator": "check --server, --model and --key-env",
    "data.generator.url": "--server",
    "data.generator.model": "--model",
    "data.generator.key_env": "--key-env",
    "data.generator.cache": "--output",
    "the variable of key_env": "the variable that --key-env names",
    "data.generator": "--server",
}
"""What the client's messages call its settings, and what they are called here; the longer come first."""


class ServedLM(LM):
    """A served model as lm-eval sees it, decoding greedily; the server applies its own chat template."""

    def __init__(self, settings: GeneratorSettings, replies: Path, *, progress: bool = False) -> None:
        """Check address and key; nothing is sent yet.

        Raises:
            DrirlError: the address or the key is wrong, or the file of replies cannot be used.
        """
        super().__init__()
        self.generated_tokens = 0
        self.replies: dict[tuple[str, str], Reply] = {}
        self._progress = progress
        try:
            self._server = _Shown(Server(settings))
            self._client = TextGenerator(self._server, settings, ReplyCache(replies))
        except DrirlError as error:
            raise _renamed(error) from None

    @property
    def tokenizer_name(self) -> str:
        return self._client.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the text of the one user message; its template is the server's affair.

        Raises:
            DrirlError: a task with a system prompt, examples or the beginning of the reply.
        """
        if [turn["role"] for turn in chat_history] != ["user"] or not add_generation_prompt:
            raise DrirlError("--server: only tasks of one user message can be sent, without system prompt")
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Complete every request.

        Raises:
            DrirlError: the server cannot be reached, stays silent or answers nonsense, after all tries.
        """
        asked = [_request(*request.args) for request in requests]
        title = str(requests[0].task_name) if requests else ""
        with tqdm(total=len(asked), desc=title, disable=not self._progress) as bar:
            self._server.bar = bar
            try:
                found = self._client.replies(asked)
            except DrirlError as error:
                raise _renamed(error) from None
        for request, reply in zip(requests, found, strict=True):
            self.replies[_key(*request.args)] = reply
            self.generated_tokens += reply.completion_tokens
        return [reply.text for reply in found]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise DrirlError(_not_served(sorted({str(request.task_name) for request in requests})))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise DrirlError(_not_served(sorted({str(request.task_name) for request in requests})))

    def check(self, requests: Sequence[Instance]) -> None:
        """Nothing can be known before asking: how long a prompt may be is the server's affair."""

    def finished(self, context: str, gen_kwargs: dict[str, Any]) -> bool:
        """Return whether the server's ``finish_reason`` was anything but ``length``."""
        return self.replies[_key(context, gen_kwargs)].stop != "length"

    def flags(self, *arguments: Any) -> dict[str, Any]:
        """Return ``blocked`` if a content filter of the server answered instead of the model."""
        return {"blocked": True} if self.replies[_key(*arguments)].stop == "blocked" else {}


class _Shown:
    """A generator that moves a progress bar; replies that were kept earlier do not pass here."""

    def __init__(self, server: Generator) -> None:
        self._server = server
        self.name, self.identity = server.name, server.identity
        self.bar: Any = None

    def groups(self, count: int) -> list[range]:
        return self._server.groups(count)

    def generate(self, requests: Sequence[Request], keep: Keep) -> None:
        self.bar.update(self.bar.total - len(requests))

        def shown(index: int, reply: Reply) -> None:
            keep(index, reply)
            self.bar.update(1)

        self._server.generate(requests, shown)


def evaluate_served(
    params: Params,
    *,
    server: str,
    model: str,
    tasks: Sequence[str],
    output: Path,
    key_env: str = "",
    concurrency: int = 4,
    requests_per_minute: float | None = None,
    timeout_s: float = 120.0,
    retries: int = 5,
) -> None:
    """Score a served model and write its records, as method ``served`` and seed 0.

    Args:
        server: address that ends before ``/chat/completions``.
        model: the name the server gives the model.
        key_env: name of the environment variable that holds the API key; empty: no key.
        concurrency: requests under way at once, at most.
        requests_per_minute: rate limit, retries included; None: none.
        timeout_s: longest silence of the server, seconds.
        retries: further tries after a failure that may pass.
    Raises:
        DrirlError: an unknown task, one that needs log-likelihoods, or as :class:`ServedLM`.
    """
    settings = params.evaluate.model_copy(
        update={"tasks": list(tasks), "mean_reward": False, "chat_template": True}
    )
    loaded = load_tasks(
        settings, benchmarks=project_root() / "benchmarks", out=params.run.out, data_root=params.data.root
    )
    _check_served(loaded)
    client = GeneratorSettings(
        kind="server",
        url=server,
        model=model,
        key_env=key_env,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        timeout_s=timeout_s,
        retries=retries,
    )
    kept = output.parent / f".{output.name}.replies.sqlite"
    lm = ServedLM(client, kept, progress=sys.stderr.isatty())
    config = record_config(params, settings) | {"dtype": None, "served_as": model}
    subject = Subject(model.rstrip("/").rpartition("/")[2], "served", 0, "", config)
    scored = score_model(lm, subject, settings, loaded, template_hash="server", device="server")
    write_records(output, [(scored.items, scored.runs)])
    kept.unlink(missing_ok=True)


def _check_served(tasks: Tasks) -> None:
    names = [name for name, task in sorted(tasks.tasks.items()) if task.OUTPUT_TYPE != GENERATES]
    if names:
        raise DrirlError(_not_served(names))


def _not_served(names: Sequence[str]) -> str:
    return (
        f"--server: {', '.join(names)} compare log-likelihoods, which a chat server does not give; "
        "leave them out with --tasks"
    )


def _request(context: str, gen_kwargs: dict[str, Any]) -> Request:
    if gen_kwargs.get("until"):
        raise DrirlError("--server: only tasks with 'until: []' are sent; a server has its own end tokens")
    return Request(context, seed=0, temperature=0.0, top_p=1.0, max_tokens=int(gen_kwargs["max_gen_toks"]))


def _key(context: str, gen_kwargs: dict[str, Any]) -> tuple[str, str]:
    return context, json.dumps(gen_kwargs, sort_keys=True)


def _renamed(error: DrirlError) -> DrirlError:
    text = str(error)
    for old, new in _NAMES.items():
        text = text.replace(old, new)
    return DrirlError(text)
