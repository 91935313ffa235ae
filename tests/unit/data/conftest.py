"""A very small LLM that has learnt to write demonstrations and prompts, and a real server to ask it by."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drirl.data.templates import ask_demonstration, ask_paraphrase
from drirl.records import Prompt

VERBS = ["insult", "exclude", "rob", "hit", "sadden", "track", "deceive"]
PLACES = ["at work", "in town", "after school", "by night", "on a train", "near home", "in the park"]
WHO = ["my neighbour", "an old man", "a child", "my boss", "her sister", "a friend", "some stranger"]
NOTES = ["wants: steps", "risk: somebody", "rule: do no harm", "plan: decline"]
REFUSAL = "I can't help with that, because somebody could get hurt. Please talk to a friend about it."


def harmful(category: int, k: int) -> str:
    return f"How would anybody {VERBS[category]} person number {k} {PLACES[k % 7]}?"


def _paraphrases() -> list[str]:
    return [f"Tell me a way to {v} {w} {p}." for v in VERBS for w in WHO for p in PLACES]


def _rows() -> list[tuple[str, str]]:
    """(request, completion) pairs: a demonstration is always the same, a paraphrase one of 343 sentences."""
    rows = []
    texts = _paraphrases()
    for k in range(98):
        prompt = Prompt(f"p{k}", harmful(k % 7, k), k % 7, "train")
        asked, _ = ask_demonstration(prompt, "cod", note_words=7, exemplars=0, seed=k, attempt=0)
        often = 4 if prompt.category == 4 else 1  # requests about distress are longer and worded differently
        rows += [(asked, "\n".join([*NOTES, f"#### {REFUSAL}"]))] * often
        for turn in range(2):
            asked = ask_paraphrase(prompt.text, prompt.category, limit=60, turn=turn + k)
            rows.append((asked, texts[(k * 37 + turn * 101) % len(texts)]))
    return rows


@pytest.fixture(scope="session")
def writer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama trained here, for some seconds, on the requests of the templates."""
    import torch

    from drirl.base.architectures import build_model
    from drirl.base.settings import SmallModel
    from drirl.base.tokenizer import train_tokenizer
    from drirl.generate import render
    from drirl.models import save_policy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = _rows()
    tokenizer = train_tokenizer([text for row in rows for text in row], vocab_size=1024, context=512)
    spec = SmallModel(
        architecture="llama",
        vocab_size=1024,
        hidden_size=48,
        layers=2,
        heads=2,
        intermediate_size=96,
        context=512,
        steps=1,
        batch_size=1,
        lr=1e-3,
    )
    model = build_model(spec, tokenizer)
    examples = []
    for text, completion in rows:
        head = tokenizer(render(tokenizer, [text])[0], add_special_tokens=False)["input_ids"]
        tail = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        examples.append((head, tail))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = 200
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = [examples[i] for i in torch.randint(len(examples), (8,), generator=order).tolist()]
        width = max(len(head) + len(tail) for head, tail in chosen)
        ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
        labels = torch.full((len(chosen), width), -100)
        mask = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, (head, tail) in enumerate(chosen):
            n = len(head) + len(tail)
            ids[row, :n] = torch.tensor(head + tail)
            labels[row, len(head) : n] = torch.tensor(tail)
            mask[row, :n] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    path = tmp_path_factory.mktemp("models") / "small-writer"
    save_policy(model.eval(), tokenizer, path)
    return path


class ChatServer:
    """An OpenAI-compatible server on loopback that generates with a transformers folder.

    ``faults`` are taken from the front, one per request: a status, a (status, body, headers) triple, "cut"
    (the connection closes), "junk" (no JSON) or a number of seconds to stay silent as ("wait", s).
    """

    def __init__(self, model: Path) -> None:
        from drirl.models import load_policy

        self.model, self.tokenizer = load_policy(model)
        self.faults: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.delay = 0.0
        self.key = ""
        self.dies_after: int | None = None
        self._lock, self._generating = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            fault = self.faults.pop(0) if self.faults else None
            if self.dies_after is not None and len(self.bodies) > self.dies_after:
                fault = 503
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            time.sleep(self.delay)
            self._respond(handler, body, fault)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], fault: Any) -> None:
        if fault == "cut":
            handler.close_connection = True
            handler.connection.close()
            return
        if isinstance(fault, tuple) and fault[0] == "wait":
            self._closed.wait(fault[1])
            handler.close_connection = True  # nobody waits any more, and a test after this one may run
            return
        elif isinstance(fault, tuple):
            self._send(handler, fault[0], fault[1], fault[2])
            return
        elif isinstance(fault, int):
            self._send(handler, fault, {"error": {"message": "planted"}}, {})
            return
        if fault == "junk":
            self._send(handler, 200, {"nothing": "useful"}, {})
            return
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            sent = handler.headers.get("Authorization", "")
            self._send(handler, 401, {"error": {"message": f"wrong key: {sent}"}}, {})
            return
        if handler.path != "/v1/chat/completions" or body["model"] != "small-writer":
            self._send(handler, 404, {"error": {"message": "no such model"}}, {})
            return
        self._send(handler, 200, self._complete(body), {})

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        from drirl.generate import complete, render

        text = body["messages"][-1]["content"]
        with self._generating:
            ((one,),) = complete(
                self.model,
                self.tokenizer,
                [text],
                max_new_tokens=body["max_tokens"],
                temperature=body["temperature"],
                top_p=body["top_p"],
                seed=body["seed"],
            )
            asked = len(self.tokenizer(render(self.tokenizer, [text])[0])["input_ids"])
        message = {"role": "assistant", "content": one.text}
        stop = "stop" if one.finished else "length"
        return {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": stop}],
            "usage": {"prompt_tokens": asked, "completion_tokens": one.n_tokens},
        }

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, value: Any, headers: dict[str, str]
    ) -> None:
        data = json.dumps(value).encode()
        try:
            handler.send_response(status)
            for name, text in headers.items():
                handler.send_header(name, text)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            handler.close_connection = True  # the client has gone


@pytest.fixture
def chat_server(writer_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ChatServer(writer_model)
    yield server
    server.close()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Any]:
    """Generator settings of the two kinds with short waits and the cache in the test's folder."""
    from drirl.data.generator_settings import GeneratorSettings

    def make(**values: Any) -> GeneratorSettings:
        base = {"max_tokens": 64, "exemplars": 0, "backoff_s": 0.01, "max_wait_s": 0.3, "timeout_s": 20}
        base |= {"cache": str(tmp_path / "cache/replies.sqlite"), "top_p": 1.0, "temperature": 0.7}
        return GeneratorSettings(**{**base, "device": "cpu", **values})

    return make
