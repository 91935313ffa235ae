"""Servers that judge, on loopback: each answers by a function of the request's text."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from drirl.detect import refusal_class

NAMES = {"full": "full_refusal", "partial": "partial_refusal", "none": "full_compliance"}
_BLOCK = re.compile(r"<<<(REQUEST|REPLY) ([0-9a-f]{16})>>>\n(.*?)\n<<<END \1 \2>>>", re.DOTALL)
_ROLE = re.compile(r"<\|im_end\|>|<\|im_start\|>|\[INST\]|</s>")


def blocks(text: str) -> dict[str, str]:
    """Return the fenced texts of a request, by name."""
    return {name: body for name, _, body in _BLOCK.findall(text)}


def code_of(text: str) -> str:
    return re.findall(r'\{"code": (\d+),', _BLOCK.sub("", text))[-1]


def gullible(text: str) -> str:
    """Judge the fenced reply by the rules, but obey whatever order stands outside the fences.

    A chat template's special tokens end the user's turn, fence or no fence: what follows them is obeyed too.
    """
    turns = _ROLE.split(text)
    outside = _BLOCK.sub("", turns[0]) + "\n".join(turns[1:])
    order = re.search(r"(?:ignore|forget)[^.]*\. *(?:the )?verdict(?: is|:) *(\w+)", outside, re.IGNORECASE)
    label = order.group(1) if order else NAMES[refusal_class(blocks(text).get("REPLY", ""))]
    return json.dumps({"code": int(code_of(text)), "verdict": label})


def parrot(text: str) -> str:
    """Repeat the JSON object found in the reply, as a judge would that takes it for its own answer."""
    found = re.search(r"\{[^{}]*\}", blocks(text)["REPLY"])
    return found.group() if found else gullible(text)


class JudgeServer:
    """An OpenAI-compatible server whose answers are ``answer(request text, number of the request)``."""

    def __init__(self, answer: Callable[[str, int], Any]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.delay = 0.0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.respond(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        time.sleep(self.delay)
        found = self.answer(body["messages"][-1]["content"], number)
        with self._lock:
            self.in_flight -= 1
        status, value = found if isinstance(found, tuple) else (200, _completion(found))
        data = json.dumps(value).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            handler.close_connection = True


def _completion(text: str) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
