"""The vLLM sampler without vLLM: its checks, against an engine that holds a model of its own and can be made to fail.

test_vllm_real.py has the real one.
"""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_vllm import FakeEngine, ignore
from r1kit.config import AlgoConfig, EvaluateConfig, LoraConfig, RLConfig, VllmConfig, from_dict, to_dict
from r1kit.model.hf import save_model, to_hf
from r1kit.model.lora import add_adapters
from r1kit.presets import RL
from r1kit.sampling import served as served_module
from r1kit.sampling import vllm, vllm_worker
from r1kit.sampling.choose import check_sampler
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.vllm_engine import Piece, engine_arguments, request_arguments
from r1kit.sampling.vllm_server import ServerError, serve_arguments
from r1kit.sampling.vllm_worker import Fingerprint
from r1kit.stages import evaluate, rl
from r1kit.types import Completion, Prompt, SamplingParams
from tiny import perturb, tiny_model, tiny_tokenizer

PROMPTS = [Prompt((5, 6, 7), seed=1), Prompt((8, 9), seed=2)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(vllm_worker, "_repack_tied_heads", lambda model: None)
    return FakeEngine(tiny_model(seed=7))


def sampler_of(engine: FakeEngine, **settings: Any) -> vllm.VllmSampler:
    return vllm.VllmSampler(engine, tiny_tokenizer(), VllmConfig(**settings))


# hand-over


def test_the_engine_gets_the_learners_weights_and_its_completions_carry_the_version(engine: FakeEngine, tmp_path: Path):
    sampler, learner = sampler_of(engine, folder=tmp_path), tiny_model(seed=1)
    local = LocalSampler(tiny_tokenizer())
    params = SamplingParams(max_new_tokens=20, stop_tokens=(3,))
    for version in (1, 2):
        perturb(learner, seed=version, scale=0.05)
        logged = sampler.load_weights(learner, version)
        assert logged["probe/difference"] == 0
        assert logged["seconds/hand_over"] > 0
        local.load_weights(learner, version)
        assert sampler.generate(PROMPTS, params, 3) == local.generate(PROMPTS, params, 3)
    assert engine.cleared == 2
    assert list(tmp_path.iterdir()) == [], "the file of the weights stays behind"


def test_adapters_are_handed_over_merged(engine: FakeEngine):
    learner = tiny_model(seed=1)
    before = {name: tensor.clone() for name, tensor in to_hf(learner).items()}
    adapters = add_adapters(learner, LoraConfig(rank=2), seed=0, base="tiny")
    assert adapters is not None
    perturb(torch.nn.ParameterList(adapters.parameters()), scale=0.5)
    sampler = sampler_of(engine)
    assert sampler.load_weights(learner, 1)["probe/difference"] < 1e-4
    held = to_hf(engine.worker.model)
    assert held.keys() == before.keys()
    assert not torch.allclose(
        held["model.layers.1.mlp.down_proj.weight"], before["model.layers.1.mlp.down_proj.weight"]
    )
    assert torch.equal(held["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_weights_that_arrive_otherwise_are_noticed(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    def flip_a_bit(*arguments: Any) -> tuple[Path, str]:
        path, fingerprint = write(*arguments)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        return path, fingerprint

    write = vllm.write_weights
    monkeypatch.setattr(vllm, "write_weights", flip_a_bit)
    with pytest.raises(RuntimeError, match="version 4: vLLM read other weights than the learner handed over"):
        sampler_of(engine).load_weights(tiny_model(seed=1), 4)


def test_a_hand_over_that_is_skipped_is_noticed(engine: FakeEngine):
    """Even by an engine that says it has the weights."""
    sampler, learner = sampler_of(engine), tiny_model(seed=1)
    sampler.load_weights(learner, 1)
    engine.worker.reload_weights = ignore
    perturb(learner, scale=1e-6)
    with pytest.raises(RuntimeError, match="version 2: vLLM read the new weights but computes with older ones"):
        sampler.load_weights(learner, 2)


def test_copies_that_are_not_made_again_are_noticed_by_the_probe(engine: FakeEngine):
    """As on a CPU, where vLLM keeps packed copies only and there are no weights to look at."""
    engine.worker.reload_weights = ignore
    engine.tamper = lambda reply: {**reply, "resident": ""}
    with pytest.raises(RuntimeError, match="version 1: the log-probs of a fixed text differ by"):
        sampler_of(engine).load_weights(tiny_model(seed=1), 1)


def test_log_probs_that_are_not_numbers_are_no_agreement(engine: FakeEngine):
    engine.score = lambda tokens, replica: [float("nan")] * (len(tokens) - 1)
    with pytest.raises(RuntimeError, match="differ by nan"):
        sampler_of(engine, tolerance=100.0).load_weights(tiny_model(seed=1), 1)


def test_every_replica_proves_itself(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    """With data parallelism only the first one's workers answer to the hand-over."""
    engine.replicas, engine.shift = 3, [0.0, 0.001, 0.0]
    sampler, learner = sampler_of(engine), tiny_model(seed=1)
    assert sampler.load_weights(learner, 1)["probe/difference"] == pytest.approx(0.001)
    perturb(learner, seed=1, scale=1e-4)
    with monkeypatch.context() as patched:  # below what log-probs can tell: the replica itself must say it
        patched.setattr(engine.worker, "reload_weights", ignore)
        with pytest.raises(
            RuntimeError, match="version 2, GPU none: vLLM read the new weights but computes with older"
        ):
            sampler.load_weights(learner, 2)
    with pytest.raises(RuntimeError, match="version 2, GPU none: OSError|FileNotFoundError|No such file"):
        engine.worker.r1kit_load(2, {"file": "/nowhere"}, "a fingerprint")
    engine.shift[2] = 0.1
    with pytest.raises(RuntimeError, match="version 2: the log-probs of a fixed text differ by 0.1"):
        sampler.load_weights(learner, 2)


def test_a_layout_of_its_own_is_accepted_until_it_stops_changing(engine: FakeEngine):
    """As with tensor parallelism: not the fingerprint of what was handed over, and a new one each time."""
    sampler, learner = sampler_of(engine), tiny_model(seed=1)
    engine.tamper = lambda reply: {**reply, "resident": f"{reply['resident'][::-1]}"}
    sampler.load_weights(learner, 1)
    sampler.load_weights(learner, 1)  # the same weights may have the same fingerprint
    perturb(learner, scale=1e-3)
    sampler.load_weights(learner, 2)
    engine.tamper = lambda reply: {**reply, "resident": sampler._resident[0]}
    perturb(learner, scale=1e-3)
    with pytest.raises(RuntimeError, match="computes with older ones"):
        sampler.load_weights(learner, 3)


def test_keys_and_values_of_older_weights_must_go(engine: FakeEngine):
    engine.refuses_to_clear = True
    with pytest.raises(RuntimeError, match="did not clear its prefix cache"):
        sampler_of(engine).load_weights(tiny_model(seed=1), 1)


def test_an_error_of_the_worker_is_told(engine: FakeEngine):
    engine.worker.r1kit_load(0, {"file": "/nowhere"})
    with pytest.raises(RuntimeError, match="version 1: vLLM could not load the weights: KeyError"):
        wrong = tiny_model(seed=1, tie=True)
        wrong.head = torch.nn.Linear(wrong.config.hidden, wrong.config.vocab_size, bias=False)
        engine.worker.model = tiny_model(tie=True)
        sampler_of(engine).load_weights(wrong, 1)


def test_another_run_on_the_same_server_is_noticed(engine: FakeEngine):
    first, second = sampler_of(engine), sampler_of(engine)
    params = SamplingParams(max_new_tokens=4)
    first.load_weights(tiny_model(seed=1), 1)
    first.generate(PROMPTS, params, 1)
    second.load_weights(tiny_model(seed=2), 1)
    with pytest.raises(RuntimeError, match="does another run use the same server"):
        first.generate(PROMPTS, params, 1)


def test_without_a_hand_over_the_engines_own_weights_are_sampled(engine: FakeEngine):
    local = LocalSampler(tiny_tokenizer())
    local.load_weights(engine.worker.model, 0)
    params = SamplingParams(max_new_tokens=8)
    assert sampler_of(engine).generate(PROMPTS, params, 2) == local.generate(PROMPTS, params, 2)


# a server that runs already, and samples the weights that it has

URL = "http://127.0.0.1:1"


@pytest.fixture
def served(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the engine's own model; the engine is behind URL."""
    monkeypatch.setattr(vllm, "Server", lambda *_: engine)
    save_model(engine.worker.model, tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def complete(folder: Path, **settings: Any) -> list[list[Completion]]:
    where: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "rows": 4, "handed": False}
    with vllm.open_vllm(VllmConfig(url=URL, **settings), tiny_tokenizer(), folder, **where) as sampler:
        return sampler.generate(PROMPTS, SamplingParams(max_new_tokens=4), 1)


def test_a_server_with_the_folders_weights_is_sampled_and_stderr_says_so(
    served: Path, capsys: pytest.CaptureFixture[str]
):
    assert len(complete(served)) == len(PROMPTS)
    assert (
        f"{URL} has the weights of {served}: the log-probs of a fixed text differ by 0 nats" in capsys.readouterr().err
    )


@pytest.mark.parametrize("other", ["another checkpoint", "nothing loaded", "no numbers"])
def test_a_server_with_other_weights_is_refused(served: Path, engine: FakeEngine, other: str):
    if other == "no numbers":
        engine.score = lambda tokens, replica: [float("nan")] * (len(tokens) - 1)
    else:
        perturb(engine.worker.model, seed=9, scale=0.02 if other == "another checkpoint" else 1.0)
    with pytest.raises(
        ValueError, match=rf"{URL} does not have the weights of .*model: .* differ by .* above 0.005. St"
    ):
        complete(served)
    assert engine.closed


def test_every_replica_of_a_server_is_compared_and_the_bound_can_be_raised(served: Path, engine: FakeEngine):
    engine.replicas, engine.shift = 2, [0.0, 0.03]
    with pytest.raises(ValueError, match="differ by 0.03 nats a token"):
        complete(served)
    complete(served, tolerance=0.04)


def test_a_server_that_does_not_know_the_tokens_is_refused(served: Path, engine: FakeEngine):
    def refuse(tokens: Any, replica: int) -> list[float]:
        raise ServerError("/v1/completions: HTTP 400 out of vocabulary")

    engine.score = refuse
    with pytest.raises(ValueError, match="cannot score the tokens of .*HTTP 400 out of vocabulary.*of this model"):
        complete(served)


@pytest.mark.parametrize("why", ["gpt-of-tomorrow", "on the CPU, where 0.0 GiB are free"])
def test_what_cannot_be_compared_is_said(
    served: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
):
    if why.startswith("gpt"):
        config = json.loads((served / "config.json").read_text())
        (served / "config.json").write_text(json.dumps({**config, "model_type": why}))
    else:
        monkeypatch.setattr(served_module, "free_memory", lambda: 1000)
    complete(served)
    said = capsys.readouterr().err
    assert f"warning: NOT CHECKED whether the vLLM server at {URL} has the weights of {served}" in said and why in said


def test_weights_that_a_server_is_given_meanwhile_are_noticed(served: Path, engine: FakeEngine):
    call, asked = engine.call, []

    def state_of_another_run(method: str, *arguments: Any) -> list[dict[str, Any]]:
        asked.append(method)
        return [{**state, "version": 3} for state in call(method)] if len(asked) > 2 else call(method, *arguments)

    engine.call = state_of_another_run
    with pytest.raises(RuntimeError, match="version 3 .* found version -1 .*does another run use the same server"):
        complete(served)


def test_the_weights_that_are_handed_over_need_not_be_the_servers_first_ones(served: Path, engine: FakeEngine):
    perturb(engine.worker.model, seed=9, scale=1.0)
    settings: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "rows": 4, "handed": True}
    with vllm.open_vllm(VllmConfig(url=URL), tiny_tokenizer(), served, **settings) as sampler:
        sampler.load_weights(tiny_model(seed=1), 1)


def test_nothing_is_scored_with_other_weights(served: Path, engine: FakeEngine, tmp_path: Path):
    perturb(engine.worker.model, seed=9, scale=0.02)
    cfg = EvaluateConfig(
        model=str(served), tasks=("countdown",), num_problems=2, num_samples=1, max_new_tokens=8, sampler="vllm",
        vllm=VllmConfig(url=URL), out=tmp_path / "out", device="cpu", dtype="fp32",
    )  # fmt: skip
    with pytest.raises(ValueError, match="does not have the weights"):
        evaluate.main(cfg)
    assert not (tmp_path / "out").exists()


def test_memory_is_what_the_machine_and_the_container_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served_module, "CGROUP", tmp_path)
    monkeypatch.setattr(served_module, "MEMINFO", tmp_path / "meminfo")
    assert served_module.free_memory() > 2**20
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:  1000 kB\n")
    assert served_module.free_memory() == 1000 * 1024
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 999999\n")
    for limit, free in (("max", 1000 * 1024), ("500000", 200_000), ("9000000", 1000 * 1024)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert served_module.free_memory() == free


# completions


def test_log_probs_that_the_learner_cannot_compare_are_left_out(engine: FakeEngine):
    sampler = sampler_of(engine)
    for params, kept in (
        (SamplingParams(temperature=0.7, max_new_tokens=4), True),
        (SamplingParams(temperature=0, top_p=0.9, max_new_tokens=4), True),
        (SamplingParams(top_p=0.9, max_new_tokens=4), False),
        (SamplingParams(top_k=5, max_new_tokens=4), False),
    ):
        ((completion,),) = sampler.generate(PROMPTS[:1], params, 1)
        assert len(completion.tokens) == 4
        assert len(completion.sampler_logprobs) == (4 if kept else 0)


def test_the_stop_token_is_kept_and_not_shown_and_a_failure_is_an_error(engine: FakeEngine):
    ids = tiny_tokenizer()("apples 23", add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    engine.pieces = [
        [
            Piece((*ids, 3), (0.0,) * (len(ids) + 1), "stop"),
            Piece(tuple(ids), (0.0,) * len(ids), "length"),
            Piece((), (), "error", "HTTP 500"),
            Piece((4,), (0.0,), "abort"),
        ]
    ]
    stopped, cut, failed, aborted = sampler_of(engine).generate(
        PROMPTS[:1], SamplingParams(max_new_tokens=9, stop_tokens=(3,)), 4
    )[0]
    assert (stopped.text, stopped.finish_reason, stopped.tokens[-1]) == ("apples 23", "stop", 3)
    assert (cut.text, cut.finish_reason) == ("apples 23", "length")
    assert (failed.finish_reason, failed.error, failed.tokens) == ("error", "HTTP 500", ())
    assert (aborted.finish_reason, aborted.error) == ("error", "vLLM ended the completion: abort")


def test_prompts_that_vllm_would_refuse_are_named_first(engine: FakeEngine):
    sampler = sampler_of(engine)
    with pytest.raises(
        ValueError, match="longest prompt 3 .* exceed the 128 .* to 125 or less, or raise --vllm.max-len"
    ):
        sampler.generate(PROMPTS, SamplingParams(max_new_tokens=126), 1)
    too_long = [Prompt((5,) * 140, seed=1)]
    with pytest.raises(ValueError, match="prompt alone is too long: .*--filter.max-prompt-tokens 118, or raise --vllm"):
        sampler.generate(too_long, SamplingParams(max_new_tokens=10), 1)
    with pytest.raises(ValueError, match="no tokens"):
        sampler.generate([Prompt((), seed=1)], SamplingParams(), 1)
    assert sampler.generate([], SamplingParams(), 1) == []


def test_nothing_is_left_to_vllms_defaults():
    params = SamplingParams(temperature=0.5, max_new_tokens=9, stop_tokens=(3, 4))
    body = request_arguments(Prompt((1,), seed=2**63 - 1), params, 8, logprobs=True)
    assert body["seed"] == (2**63 - 1) % 2**62 and body["seed"] + 8 < 2**63
    assert (body["n"], body["temperature"], body["max_tokens"], body["stop_token_ids"]) == (8, 0.5, 9, [3, 4])
    assert (body["ignore_eos"], body["repetition_penalty"], body["min_p"], body["logprobs"]) == (True, 1.0, 0.0, 0)
    assert request_arguments(Prompt((1,), seed=0), params, 1, logprobs=False)["logprobs"] is None


def test_a_server_with_other_log_probs_is_refused(engine: FakeEngine):
    engine.worker.vllm_config.model_config.logprobs_mode = "raw_logprobs"
    with pytest.raises(ValueError, match="returns raw_logprobs.*--logprobs-mode processed_logprobs"):
        sampler_of(engine, url="http://127.0.0.1:1")


# fingerprints and transfer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_knows_weights_however_they_are_stacked(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    a, b = torch.randn(6, 4).to(dtype), torch.randn(2, 4).to(dtype)
    one = str(Fingerprint([a, b]))
    assert len(one) == 32
    assert str(Fingerprint([b, a])) == str(Fingerprint([torch.cat((a, b))])) == one
    assert str(Fingerprint([torch.cat((b, torch.zeros(3, 4, dtype=dtype), a)).T])) == one
    monkeypatch.setattr(vllm_worker, "CHUNK", 5)
    assert str(Fingerprint([a, b])) == one
    changed = a.clone()
    integers = changed.view(torch.int16 if dtype == torch.bfloat16 else torch.int32)
    integers[0, 0] += 1
    integers[0, 1] -= 1  # the sum of the bits stays the same
    assert str(Fingerprint([changed, b])) != one


def test_a_description_of_cuda_memory_survives_json():
    values = (torch.Tensor, torch.Size((2, 3)), (3, 1), 0, torch.UntypedStorage, torch.bfloat16, 0, b"\x00\xff", 12)
    sent = json.loads(json.dumps([vllm_worker._plain(value) for value in values]))
    got = [vllm_worker._from_plain(value) for value in sent]
    assert got == [None, [2, 3], [3, 1], 0, None, torch.bfloat16, 0, b"\x00\xff", 12]


def test_ipc_needs_one_gpu(monkeypatch: pytest.MonkeyPatch):
    state = {"gpu": "GPU-1", "workers": 1, "host": "here"}
    with pytest.raises(ValueError, match="--vllm.transfer ipc needs the learner .cpu."):
        vllm.choose_transfer(VllmConfig(transfer="ipc"), state, torch.device("cpu"))
    assert vllm.choose_transfer(VllmConfig(), state, torch.device("cpu")) == "file"
    monkeypatch.setattr(vllm, "gpu_of", lambda device: "GPU-1")
    gpu, here = torch.device("cuda"), {**state, "host": socket.gethostname()}
    assert vllm.choose_transfer(VllmConfig(), here, gpu) == "ipc"
    assert vllm.choose_transfer(VllmConfig(transfer="file"), here, gpu) == "file"
    assert vllm.choose_transfer(VllmConfig(), here, gpu, made=True) == "file", "no second model on the learner's GPU"
    assert vllm.choose_transfer(VllmConfig(transfer="ipc"), here, gpu, made=True) == "ipc"
    for other in (state, {**here, "gpu": "GPU-2"}, {**here, "workers": 2}):
        assert vllm.choose_transfer(VllmConfig(), other, gpu) == "file"


# settings


def test_the_engines_settings_are_those_that_rl_needs(tmp_path: Path):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    cfg = VllmConfig(args=("tensor_parallel_size=2", "attention-backend=TRITON", "enable_prefix_caching=false"))
    made = engine_arguments(tmp_path, cfg, dtype=torch.bfloat16, device=gpu, rows=8, handed=True)
    assert (made["load_format"], made["logprobs_mode"]) == ("dummy", "processed_logprobs")
    assert (made["generation_config"], made["dtype"], made["max_num_seqs"]) == ("vllm", "bfloat16", 8)
    assert (made["tensor_parallel_size"], made["attention_backend"]) == (2, "TRITON")
    assert made["enable_prefix_caching"] is False
    assert "enforce_eager" not in made and "kv_cache_memory_bytes" not in made
    made = engine_arguments(tmp_path, VllmConfig(max_len=64), dtype=torch.float32, device=cpu, rows=8, handed=False)
    assert (made["load_format"], made["enable_prefix_caching"]) == ("auto", True)
    assert (made["enforce_eager"], made["kv_cache_memory_bytes"], made["max_model_len"]) == (True, 2**30, 64)


def test_settings_become_flags():
    made = serve_arguments({"model": "a b", "max_num_seqs": 8, "enforce_eager": True, "x_y": False, "z": {"a": 1}})
    assert made == ["--model", "a b", "--max-num-seqs", "8", "--enforce-eager", "--no-x-y", "--z", '{"a": 1}']


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "give an address such as http"),
        ({"url": "http://a:1", "python": "/x"}, "leave out --vllm.python"),
        ({"memory": 1.5}, "--vllm.memory is 1.5"),
        ({"max_len": -1}, "--vllm.max-len is -1"),
        ({"args": ("tensor_parallel_size",)}, "give NAME=VALUE"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        VllmConfig(**settings)


def test_rl_with_vllm_needs_log_probs_and_weighs_by_them():
    with pytest.raises(ValueError, match="--top-p 0.9 and --top-k 0.*use --top-p 1"):
        RLConfig(sampler="vllm", top_p=0.9)
    assert RLConfig(top_p=0.9).truncated_is == 0
    assert RLConfig(sampler="vllm").truncated_is == 2
    assert RLConfig(sampler="vllm", vllm=VllmConfig(truncated_is=0)).truncated_is == 0
    assert RLConfig(sampler="vllm", algo=AlgoConfig(truncated_is=3)).truncated_is == 3
    assert replace(RL["demo"][1], sampler="vllm").truncated_is == 2
    cfg = RLConfig(sampler="vllm", vllm=VllmConfig(args=("a=1",), folder=Path("/x")))
    assert from_dict(RLConfig, json.loads(json.dumps(to_dict(cfg)))) == cfg


def test_a_missing_vllm_is_named_with_the_command_before_anything_is_loaded(tmp_path: Path):
    if vllm_is_here():
        pytest.skip("vLLM is installed")
    where = {"run": tmp_path / "run", "model": str(tmp_path / "no-such-model")}
    with pytest.raises(ModuleNotFoundError, match="--sampler vllm needs vLLM.*pip install vllm"):
        rl.main(replace(RL["tiny"][1], sampler="vllm", **where))
    with pytest.raises(ModuleNotFoundError, match="pip install vllm"):
        evaluate.main(EvaluateConfig(model=where["model"], sampler="vllm"))
    with pytest.raises(ModuleNotFoundError, match="has no vLLM: .* -m pip install vllm"):
        check_sampler(RLConfig(sampler="vllm", vllm=VllmConfig(python=sys.executable)))
    with pytest.raises(FileNotFoundError, match="--vllm.python /no/python"):
        check_sampler(RLConfig(sampler="vllm", vllm=VllmConfig(python="/no/python")))
    assert not (tmp_path / "run").exists()


def vllm_is_here() -> bool:
    from importlib.util import find_spec

    return find_spec("vllm") is not None
