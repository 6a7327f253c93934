"""Which GPUs the vLLM server of a run sees, and what it is told: a program in vLLM's place writes both down."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from r1kit.config import RLConfig, VllmConfig, from_dict, to_dict
from r1kit.presets.models import MODEL_REJECT, MODEL_RL
from r1kit.sampling.choose import check_sampler
from r1kit.sampling.vllm import open_vllm
from tiny import tiny_tokenizer

FAKE = """#!{python}
import http.server, json, os, socketserver, sys

if sys.argv[1] == "-c":  # asked whether it has vLLM
    sys.exit(0)
told = {{"argv": sys.argv[2:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}}
json.dump(told, open({record!r}, "w"))
STATE = {{"version": -1, "received": "", "host": "here", "gpu": "", "workers": 1, "max_len": 9, "dtype": "bfloat16",
         "logprobs_mode": "processed_logprobs", "prefix_caching": True}}
ANSWERS = {{"/health": None, "/v1/models": {{"data": [{{"id": "m"}}]}}, "/collective_rpc": {{"results": [STATE]}},
           "/get_world_size": {{"world_size": 2}}}}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        raw = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def log_message(self, *args):
        pass


socketserver.UnixStreamServer(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
"""
TWO = VllmConfig(gpus=(1, 2), args=("data_parallel_size=2",))


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def told(cfg: VllmConfig, folder: Path, rows: int = 8) -> dict[str, Any]:
    """What a run's server sees and is told."""
    program, record = folder / "python", folder / "told.json"
    program.write_text(FAKE.format(python=sys.executable, record=str(record)))
    program.chmod(0o700)
    opened = open_vllm(
        replace(cfg, python=str(program)), tiny_tokenizer(), folder, dtype=torch.bfloat16, device=torch.device("cuda"),
        rows=rows, handed=True,
    )  # fmt: skip
    with opened as sampler:
        assert sampler.state["host"] == "here"
    return json.loads(record.read_text())


def value_of(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("ours", "expected"),
    [(None, "1,2"), ("0,1,2,3", "1,2"), ("7,5,3,1", "5,3"), ("GPU-a, GPU-b, GPU-c", "GPU-b,GPU-c")],
)
def test_the_server_sees_its_own_gpus_of_those_that_the_run_sees(
    ours: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if ours is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
    found = told(TWO, tmp_path)
    assert found["gpus"] == expected
    assert value_of(found["argv"], "--data-parallel-size") == "2"
    assert "--tensor-parallel-size" not in found["argv"]


@pytest.mark.usefixtures("four_gpus")
def test_without_a_choice_it_sees_what_the_run_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert told(VllmConfig(mode="server"), tmp_path)["gpus"] is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert told(VllmConfig(mode="server"), tmp_path)["gpus"] == "3"


@pytest.mark.parametrize(
    ("table", "gpus"), [(MODEL_RL, "1,2,3,4,5,6,7"), (MODEL_REJECT, "0,1,2,3,4,5,6,7")], ids=["rl", "reject"]
)
def test_a_nodes_preset_starts_a_copy_of_the_model_on_each_gpu(
    table: dict[str, tuple[str, Any]], gpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stage = "r1-zero" if table is MODEL_RL else "cold-start"
    cfg = table[f"{stage}-llama-3.1-8b-node"][1]
    found = told(cfg.vllm, tmp_path, cfg.rows)
    assert found["gpus"] == gpus
    flags = ("--data-parallel-size", "--gpu-memory-utilization", "--max-model-len", "--max-num-seqs", "--dtype")
    longest = cfg.max_new_tokens + 1024
    expected = [str(gpus.count(",") + 1), "0.85", str(longest), str(cfg.rows), "bfloat16"]
    assert [value_of(found["argv"], flag) for flag in flags] == expected


@pytest.mark.usefixtures("four_gpus")
def test_gpus_that_are_not_there_are_named_before_anything_starts():
    cfg = RLConfig(sampler="vllm", vllm=VllmConfig(gpus=(1, 4), args=("data_parallel_size=2",)))
    with pytest.raises(ValueError, match="--vllm.gpus has 4, and this program sees 4 GPUs, numbered from 0"):
        check_sampler(cfg)


def test_gpus_mean_a_server_and_are_kept_in_the_runs_config():
    assert VllmConfig().in_process and not TWO.in_process
    assert from_dict(VllmConfig, to_dict(TWO)) == TWO
    assert not VllmConfig(gpus=(2,)).in_process, "one GPU needs no argument"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gpus": (1, 1)}, "--vllm.gpus is 1 1; give each GPU once"),
        ({"gpus": (-1,)}, "--vllm.gpus is -1; give each GPU once, counted from 0"),
        ({"gpus": (1, 2, 3)}, "names 3 GPUs and --vllm.args uses 1; .* data_parallel_size=3"),
        ({"gpus": (1, 2, 3), "args": ("data_parallel_size=2",)}, "names 3 GPUs and --vllm.args uses 2"),
        ({"gpus": (1, 2), "url": "http://127.0.0.1:8000"}, "leave out --vllm.gpus"),
    ],
)
def test_gpus_that_the_arguments_do_not_share_are_refused(settings: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        VllmConfig(**settings)
    four = VllmConfig(gpus=(0, 1, 2, 3), args=("data-parallel-size=2", "tensor_parallel_size=2"))
    assert four.engine_args() == {"data_parallel_size": 2, "tensor_parallel_size": 2}
