"""A small OpenAI-compatible server in a thread: what it answers is a function of the messages.

with fake_endpoint(lambda messages: "hello") as url:
    connect(url, tmp_path).chat(say("hi"))
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from r1kit.config import EndpointConfig
from r1kit.sampling.http import Endpoint
from r1kit.types import Message


class Refusal(NamedTuple):
    """An error status with headers, such as Refusal(429, {"Retry-After": "2"})."""

    status: int
    headers: dict[str, str]
    message: str = "refused"


class Received(NamedTuple):
    """One request as it came in."""

    body: dict[str, Any]
    headers: dict[str, str]


Answer = str | bytes | int | Exception | Refusal | dict[str, Any]
"""str: the content of a right answer. dict: the whole JSON body (see `reply_body`). bytes: the raw body, not JSON
perhaps. int: an error status. Exception (returned or raised): the connection is dropped without an answer."""


@contextmanager
def fake_endpoint(
    answer: Callable[[list[dict[str, str]]], Answer], received: list[Received] | None = None
) -> Iterator[str]:
    """The base URL (http://127.0.0.1:PORT/v1) of a server that answers /chat/completions with `answer(messages)`.

    `answer` is called from the server's threads. Every request is appended to `received`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if received is not None:
                received.append(Received(body, {name.lower(): value for name, value in self.headers.items()}))
            if self.path != "/v1/chat/completions":
                return self._send(404, _error(f"no such path {self.path}"), {})
            try:
                given = answer(body["messages"])
            except Exception as error:
                given = error
            match given:
                case Exception():
                    self.close_connection = True
                    return None
                case Refusal(status, headers, message):
                    return self._send(status, _error(message), headers)
                case int():
                    return self._send(given, _error("refused"), {})
                case str():
                    return self._send(200, json.dumps(reply_body(given)).encode(), {})
                case dict():
                    return self._send(200, json.dumps(given).encode(), {})
                case bytes():
                    return self._send(200, given, {})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # the client waits no longer
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply_body(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion of 7 prompt tokens and as many completion tokens as `content` has words."""
    return {
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": len((content or "").split())},
    }


class Script:
    """Answers one after the other, the last one for ever; counts the calls."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.calls = list(answers), 0

    def __call__(self, messages: list[dict[str, str]]) -> Answer:
        del messages
        self.calls += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def echo(messages: list[dict[str, str]]) -> str:
    """An answer: the last message in capitals."""
    return messages[-1]["content"].upper()


def connect(url: str, tmp_path: Path, **settings: Any) -> Endpoint:
    """An endpoint whose cache is in `tmp_path` and whose pauses between tries are short."""
    return Endpoint(EndpointConfig(url=url, model="m", **settings), tmp_path / "cache", first_pause=0.001)


def say(*texts: str) -> list[list[Message]]:
    """Conversations of one message each."""
    return [[Message("user", text)] for text in texts]


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()
