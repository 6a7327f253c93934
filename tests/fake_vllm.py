"""vLLM without vLLM: its worker (`WeightReceiver` around r1kit's own decoder), and engines that have one."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from r1kit.model.hf import to_hf
from r1kit.model.transformer import Transformer
from r1kit.sampling import vllm_worker
from r1kit.sampling.base import OnProgress
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.vllm import text_logprobs
from r1kit.sampling.vllm_engine import Piece
from r1kit.sampling.vllm_worker import WeightReceiver
from r1kit.types import Prompt, SamplingParams
from tiny import tiny_model, tiny_tokenizer


class Worker(WeightReceiver):
    """What vLLM's worker offers to `WeightReceiver`, around r1kit's own decoder."""

    def __init__(self, model: Transformer) -> None:
        self.device, self.model = model.embed.weight.device, model
        self.model_runner = SimpleNamespace(get_model=lambda: self.model)
        dtype = model.embed.weight.dtype
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=128, dtype=dtype, logprobs_mode="processed_logprobs"),
            cache_config=SimpleNamespace(enable_prefix_caching=True),
            parallel_config=SimpleNamespace(world_size=1),
        )

    @torch.no_grad()
    def reload_weights(self, weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        mine = to_hf(self.model)
        for name, tensor in weights_iterator:
            mine[name].copy_(tensor)


def ignore(weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Read the weights and go on with those that are there."""
    for _ in weights_iterator:
        pass


class FakeEngine:
    """vLLM's part, played by the local sampler."""

    def __init__(self, model: Transformer) -> None:
        self.worker, self.sampler = Worker(model), LocalSampler(tiny_tokenizer())
        self.replicas, self.shift = 1, [0.0]
        self.cleared, self.closed = 0, False
        self.refuses_to_clear = False
        self.tamper: Callable[[dict[str, Any]], dict[str, Any]] = lambda reply: reply
        self.pieces: list[list[Piece]] | None = None

    def complete(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, *, logprobs: bool,
        on_progress: OnProgress | None,
    ) -> list[list[Piece]]:  # fmt: skip
        if self.pieces is not None:
            return self.pieces
        self.sampler.load_weights(self.worker.model, 0)
        return [
            [Piece(c.tokens, c.sampler_logprobs if logprobs else (), c.finish_reason) for c in group]
            for group in self.sampler.generate(prompts, params, n, on_progress)
        ]

    def score(self, tokens: Sequence[int], replica: int) -> list[float]:
        return (text_logprobs(self.worker.model, tokens) + self.shift[replica]).tolist()

    def call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        match method:
            case "r1kit_state":
                return [self.worker.r1kit_state()]
            case "r1kit_load":
                return [self.tamper(self.worker.r1kit_load(*arguments))]
        raise AssertionError(method)

    def clear_cache(self) -> bool:
        self.cleared += 1
        return not self.refuses_to_clear

    def close(self) -> None:
        self.closed = True


class OtherProcess:
    """An engine whose worker is in a process of its own. Only JSON goes there and back, as with a server of vLLM's."""

    replicas = 1

    def __init__(self, connection: Any) -> None:
        self.sources: list[str] = []
        """What each hand-over came as: "file" or "ipc"."""
        self._connection = connection

    def call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        if method == "r1kit_load":
            self.sources += arguments[1].keys()
        return [self.ask(method, *arguments)]

    def score(self, tokens: Sequence[int], replica: int) -> list[float]:
        assert replica == 0
        return self.ask("score", tokens)

    def ask(self, method: str, *arguments: Any) -> Any:
        self._connection.send_bytes(json.dumps([method, arguments]).encode())
        if not self._connection.poll(100.0):
            raise TimeoutError(f"no answer to {method}")
        return json.loads(self._connection.recv_bytes())

    def complete(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, *, logprobs: bool,
        on_progress: OnProgress | None,
    ) -> list[list[Piece]]:  # fmt: skip
        raise NotImplementedError("it takes weights and scores text")

    def clear_cache(self) -> bool:
        return True  # it has none

    def close(self) -> None: ...


@contextmanager
def other_process(device: str, dtype: torch.dtype) -> Iterator[OtherProcess]:
    """A process that has a worker from `ask("start", tie)` on; it ends with the block."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, device, dtype), daemon=True)
    process.start()
    theirs.close()
    try:
        yield OtherProcess(mine)
    finally:
        mine.close()
        process.join(20.0)
        process.kill()


def work(connection: Any, device: str, dtype: torch.dtype) -> None:
    """Answer until nobody asks."""
    vllm_worker._repack_tied_heads = lambda model: None  # vLLM's packed copies on a CPU: there are none
    worker: Any = None
    while True:
        try:
            method, arguments = json.loads(connection.recv_bytes())
        except EOFError:
            return
        reply: Any = {}
        match method:
            case "start":
                worker = Worker(tiny_model(seed=7, tie=arguments[0]).to(device, dtype))
            case "go_on_with_old_weights":
                worker.reload_weights = ignore
            case "fingerprint":
                reply = str(vllm_worker.Fingerprint(worker.model.parameters()))
            case "score":
                reply = text_logprobs(worker.model, *arguments).tolist()
            case "r1kit_state":
                reply = worker.r1kit_state()
            case "r1kit_load":
                reply = worker.r1kit_load(*arguments)
            case _:
                raise AssertionError(method)
        connection.send_bytes(json.dumps(reply).encode())
