"""vLLM behind HTTP, played by a small server: completions, failures, and a process that does not start."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from r1kit.config import VllmConfig
from r1kit.sampling import vllm_server
from r1kit.sampling.vllm_engine import Piece
from r1kit.sampling.vllm_server import Server, ServerError, ask
from r1kit.types import Prompt, SamplingParams

PROMPTS = [Prompt((5, 6, 7), seed=1), Prompt((8, 9), seed=2)]


@contextmanager
def serving(answer: Callable[[str, Any], tuple[int, Any]]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            rank = self.headers.get("X-data-parallel-rank")
            self.reply(body if rank is None else {**body, "rank": rank})

        def reply(self, body: Any) -> None:
            status, data = answer(self.path, body)
            raw = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def plain_answers(path: str, body: Any) -> tuple[int, Any]:
    match path:
        case "/v1/models":
            return 200, {"data": [{"id": "m"}]}
        case "/collective_rpc":
            return 200, {"results": [{"method": body["method"]}]}
        case "/get_world_size":
            return 200, {"world_size": 2}
        case "/reset_prefix_cache":
            return 200, {"success": True}
        case "/v1/completions" if body["prompt"] == [8, 9]:
            return 400, {"error": "no"}
        case "/v1/completions" if "prompt_logprobs" in body:
            rows = [None, *({str(token): {"logprob": -float(body["rank"])}} for token in body["prompt"][1:])]
            return 200, {"choices": [{"prompt_logprobs": rows}]}
        case "/v1/completions":
            assert body["model"] == "m" and body["return_token_ids"]
            choice = {"token_ids": [4, 3], "logprobs": {"token_logprobs": [-0.5, -0.25]}, "finish_reason": "stop"}
            return 200, {"choices": [{"index": i, **choice} for i in reversed(range(body["n"]))]}
    return 404, {}


def test_completions_of_a_server_and_a_prompt_that_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm_server.time, "sleep", lambda seconds: None)
    seen: list[tuple[int, int]] = []
    with serving(plain_answers) as url:
        server = Server(url, timeout=10.0)
        assert server.clear_cache()
        assert server.call("r1kit_state") == [{"method": "r1kit_state"}]
        assert server.replicas == 2
        assert [server.score([5, 6, 7], replica) for replica in range(2)] == [[0, 0], [-1, -1]]
        good, bad = server.complete(
            PROMPTS, SamplingParams(), 2, logprobs=True, on_progress=lambda *done: seen.append(done)
        )
        with pytest.raises(ServerError, match="no completion could be made: .*HTTP 400"):
            server.complete(PROMPTS[1:], SamplingParams(), 2, logprobs=True, on_progress=None)
    assert good == [Piece((4, 3), (-0.5, -0.25), "stop")] * 2
    assert [(piece.finish, piece.tokens) for piece in bad] == [("error", ())] * 2
    assert "HTTP 400" in bad[0].error
    assert seen == [(2, 4), (4, 4)]


def test_a_server_that_takes_no_weights_is_refused_and_none_is_an_error():
    with (
        serving(lambda path, body: plain_answers(path, body) if path == "/v1/models" else (404, {})) as url,
        pytest.raises(ValueError, match="does not take weights .*VLLM_SERVER_DEV_MODE=1"),
    ):
        Server(url, timeout=10.0)
    with pytest.raises(ServerError, match="/health: ConnectionRefusedError"):
        ask(url, "GET", "/health", timeout=5.0)


def test_a_server_that_does_not_start_shows_the_end_of_its_log():
    process = vllm_server.ServerProcess(VllmConfig(), {"model": "nowhere"})  # without vLLM, or without the model
    folder = process.folder
    try:
        assert folder.stat().st_mode & 0o77 == 0, "others could reach the server's socket"
        with pytest.raises(RuntimeError, match=r"ended with status \d+. The end of its log:\n(.|\n)*(vllm|nowhere)"):
            process.wait(60.0)
    finally:
        process.close()
    assert not folder.exists()
    assert not os.path.exists(process.address)
