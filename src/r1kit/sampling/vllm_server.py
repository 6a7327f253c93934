"""vLLM behind HTTP: a server that the run starts, on a socket of its own, or one that is there already.

Completions go through /v1/completions by token ids; weights and questions about them through /collective_rpc, which a
server offers with VLLM_SERVER_DEV_MODE=1. Whoever can reach that can run code in the server: keep it on a private
address.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from r1kit.config import VllmConfig
from r1kit.sampling import vllm_worker
from r1kit.sampling.base import OnProgress
from r1kit.sampling.vllm_engine import Piece, quiet_environment, request_arguments
from r1kit.types import Prompt, SamplingParams

CONCURRENCY = 256
"""Prompts asked for at a time; vLLM itself decides how many it computes on."""
TRIES = 3
LOG_TAIL = 3000
"""Characters of the server's log in an error."""


class ServerError(RuntimeError):
    """The server is gone, or answered with an error."""


class Server:
    """An engine behind HTTP."""

    def __init__(self, address: str, timeout: float, process: ServerProcess | None = None) -> None:
        """`address`: http://host:port, or the path of a Unix socket. Raises ValueError for a server without our
        worker extension."""
        self._address, self._timeout, self._process = address, timeout, process
        self._model = self._ask("GET", "/v1/models")["data"][0]["id"]
        try:
            workers = self.call("r1kit_state")
            self.replicas = self._ask("GET", "/get_world_size")["world_size"] // len(workers)
        except ServerError as error:
            raise ValueError(
                f"the vLLM server at {address} does not take weights ({error}); start it as docs/vllm.md says, with "
                f"VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls r1kit.sampling.vllm_worker.WeightReceiver"
            ) from None

    def complete(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, *, logprobs: bool,
        on_progress: OnProgress | None,
    ) -> list[list[Piece]]:  # fmt: skip
        """A prompt whose call fails in all its tries has failed pieces; ServerError when every prompt's does."""
        pieces: list[list[Piece]] = [[] for _ in prompts]
        finished = 0
        pool = ThreadPoolExecutor(min(CONCURRENCY, len(prompts)))
        try:
            calls = {}
            for index, prompt in enumerate(prompts):
                body = request_arguments(prompt, params, n, logprobs=logprobs)
                calls[pool.submit(self._complete, list(prompt.tokens), body)] = index
            for call in as_completed(calls):
                pieces[calls[call]] = call.result()
                finished += n
                if on_progress is not None:
                    on_progress(finished, len(prompts) * n)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        errors = [piece.error for group in pieces for piece in group]
        if all(errors):
            raise ServerError(f"no completion could be made: {errors[0]}")
        return pieces

    def _complete(self, tokens: list[int], body: dict[str, Any]) -> list[Piece]:
        body = {"model": self._model, "prompt": tokens, "return_token_ids": True, **body}
        for tried in range(TRIES):
            try:
                choices = self._ask("POST", "/v1/completions", body)["choices"]
                return [_piece(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]
            except (ServerError, KeyError, TypeError, ValueError) as error:
                if self._process is not None:
                    self._process.check()
                reason = f"{type(error).__name__}: {error}"
                if tried < TRIES - 1:
                    time.sleep(2.0**tried)
        return [Piece((), (), "error", reason)] * body["n"]

    def score(self, tokens: Sequence[int], replica: int) -> list[float]:
        body = {"model": self._model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        chosen = {"X-data-parallel-rank": str(replica)}
        rows = self._ask("POST", "/v1/completions", body, chosen)["choices"][0]["prompt_logprobs"]
        return [row[str(token)]["logprob"] for row, token in zip(rows[1:], tokens[1:], strict=True)]

    def call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        return self._ask("POST", "/collective_rpc", {"method": method, "args": arguments})["results"]

    def clear_cache(self) -> bool:
        return bool(self._ask("POST", "/reset_prefix_cache").get("success"))

    def close(self) -> None:
        if self._process is not None:
            self._process.close()

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        return ask(self._address, method, path, body, headers, timeout=self._timeout)


def ask(
    address: str, method: str, path: str, body: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None, *, timeout: float,
) -> Any:  # fmt: skip
    """The JSON that the server answers with; None for an empty answer. ServerError for anything else."""
    connection = _connection(address, timeout)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        raw = response.read()
        if response.status != 200:
            raise ServerError(f"{path}: HTTP {response.status} {raw[:1000].decode(errors='replace')}")
        return json.loads(raw) if raw else None
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{path}: {type(error).__name__}: {error}") from None
    finally:
        connection.close()


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    if address.startswith("/"):
        return _UnixConnection(address, timeout)
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.netloc, timeout=timeout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _piece(choice: dict[str, Any]) -> Piece:
    tokens = tuple(choice["token_ids"])
    logprobs = tuple(choice["logprobs"]["token_logprobs"]) if choice.get("logprobs") else ()
    return Piece(tokens, logprobs, str(choice["finish_reason"]))


class ServerProcess:
    """vLLM's server on a Unix socket that only this user can reach. It ends when this process does."""

    def __init__(self, cfg: VllmConfig, arguments: dict[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r1kit-vllm-"))
        self.address = str(self.folder / "socket")
        self._log = self.folder / "log.txt"
        # A copy: the other Python may not have r1kit, and must not find this one's packages.
        program = self.folder / "r1kit_vllm_worker.py"
        shutil.copy(vllm_worker.__file__, program)
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        added = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": os.pathsep.join(paths)}
        if cfg.gpus:
            added["CUDA_VISIBLE_DEVICES"] = visible_gpus(cfg.gpus)
        environment = {**os.environ, **quiet_environment("INFO"), **added}
        extension = {"worker_extension_cls": "r1kit_vllm_worker.WeightReceiver", "uds": self.address}
        command = [cfg.python or sys.executable, str(program), *serve_arguments({**arguments, **extension})]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        atexit.register(self.close)

    def wait(self, timeout: float) -> None:
        """Until it answers. RuntimeError, with the end of its log, when it ends or takes longer."""
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            with contextlib.suppress(ServerError):
                ask(self.address, "GET", "/health", timeout=10.0)
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the vLLM server did not start within {timeout:.0f} s: {self._tail()}")
            time.sleep(0.3)

    def check(self) -> None:
        """RuntimeError, with the end of the log, when the process has ended."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"the vLLM server ended with status {code}. The end of its log:\n{self._tail()}")

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL:] if self._log.exists() else ""

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20.0)
        self._end_children()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_children(self) -> None:
        """Those that the server left, if any: asked first, so that they give back their shared memory."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
            deadline = time.monotonic() + 10.0
            while time.monotonic() < deadline:
                self._process.poll()
                os.killpg(self._process.pid, 0)  # raises when none is left
                time.sleep(0.1)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def visible_gpus(gpus: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES of a process that is to see these of our own GPUs, which may themselves be a choice."""
    ours = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = ours.split(",") if ours else [str(gpu) for gpu in range(max(gpus) + 1)]
    return ",".join(names[gpu].strip() for gpu in gpus)


def serve_arguments(arguments: dict[str, Any]) -> list[str]:
    """{"model": "m", "enforce_eager": True, "enable_prefix_caching": False} as flags: --model m --enforce-eager
    --no-enable-prefix-caching."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        match value:
            case True:
                flags += [f"--{flag}"]
            case False:
                flags += [f"--no-{flag}"]
            case str() | int() | float():
                flags += [f"--{flag}", str(value)]
            case _:
                flags += [f"--{flag}", json.dumps(value)]
    return flags
