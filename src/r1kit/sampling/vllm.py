"""Sampling with vLLM: the learner's weights are handed over after every policy step, and the hand-over is proved.

Four things must agree before a completion is made: the bits that arrived, the weights that vLLM then holds, the
log-probs of a fixed text, and, before and after every rollout, the version. The log-probs of sampled tokens are vLLM's
own; the loss weighs their difference to the learner's (`--algo.truncated-is`). docs/vllm.md has the details.

Shapes: T tokens of the probe, V vocabulary, R replicas.
"""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1kit.config import VllmConfig
from r1kit.model.transformer import Decoder, PackedAttention
from r1kit.sampling.base import OnProgress, shorter
from r1kit.sampling.handover import layout_of, named_weights, weights_folder, write_weights
from r1kit.sampling.served import NotOpened, open_served
from r1kit.sampling.vllm_engine import Engine, InProcess, Piece, check_vllm, engine_arguments
from r1kit.sampling.vllm_server import Server, ServerError, ServerProcess
from r1kit.sampling.vllm_worker import Fingerprint, export_tensor, gpu_of, stale
from r1kit.types import Completion, FinishReason, Metrics, Prompt, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "User: Make 24 from 8, 3, 1.\nAssistant: <think>8 * 3 = 24, and 24 * 1 = 24.</think> The answer is 8 * 3 * 1."
"""Text whose log-probs sampler and learner compare after every hand-over."""
TOLERANCE = {"float32": 0.005, "bfloat16": 0.2, "float16": 0.05}
"""Largest mean difference of the probe's log-probs, nats, that the two programs' rounding explains."""


class VllmSampler:
    """`Sampler` by vLLM. Without `load_weights` it samples the weights that the engine started with."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, cfg: VllmConfig) -> None:
        self.version = 0
        self._engine, self._tokenizer, self._cfg = engine, tokenizer, cfg
        self.state = engine.call("r1kit_state")[0]
        """How vLLM is set up, as `WeightReceiver.r1kit_state` says."""
        self._handed = ""
        """Fingerprint of the weights handed over last; empty before that."""
        self._resident: list[str] = []
        """Fingerprint of each worker's model after that; empty where vLLM does not keep the weights as they are."""
        self._found: tuple[int, str] | None = None
        """Version and fingerprint of the weights that a server had when these were compared with a folder's."""
        if not self.state["logprobs_mode"].endswith("processed_logprobs"):
            raise ValueError(
                f"the vLLM server at {cfg.url} returns {self.state['logprobs_mode']}, which the learner's log-probs "
                f"cannot be compared with; start it with --logprobs-mode processed_logprobs"
            )

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        """As in `Sampler`. With top-p or top-k vLLM's log-probs are of the distribution that these have cut, which the
        learner cannot compare: `sampler_logprobs` is then empty. RuntimeError when vLLM has other weights by now."""
        if not prompts:
            return []
        if min(len(prompt.tokens) for prompt in prompts) == 0:
            raise ValueError("a prompt has no tokens; give at least one (a template or a BOS token)")
        longest, context = max(len(prompt.tokens) for prompt in prompts), self.state["max_len"]
        if longest + params.max_new_tokens > context:
            way = shorter(longest, params.max_new_tokens, context)
            raise ValueError(
                f"longest prompt {longest} + --max-new-tokens {params.max_new_tokens} tokens exceed the {context} that "
                f"vLLM was started with; {way}, or raise --vllm.max-len"
            )
        comparable = params.temperature == 0 or (params.top_p == 1 and params.top_k == 0)
        self._check_held()
        groups = self._engine.complete(prompts, params, n, logprobs=comparable, on_progress=on_progress)
        self._check_held()
        return [[self._completion(piece, params) for piece in group] for group in groups]

    def load_weights(self, source: Decoder, version: int) -> Metrics:
        """Hand the model's weights over; completions carry `version` from now on.

        RuntimeError, naming what disagrees, unless vLLM computes with these weights. Returns the seconds that it took
        and the mean difference of the probe's log-probs, nats a token.
        """
        start = time.perf_counter()
        with self._offered(source, version) as (offer, handed):
            proof = [handed] if self._engine.replicas > 1 else []
            replies = self._engine.call("r1kit_load", version, offer, *proof)
        for reply, before in zip(replies, self._resident or [""] * len(replies), strict=True):
            self._check_reply(reply, version, handed, before)
        if not self._engine.clear_cache():
            raise RuntimeError(
                f"policy version {version}: vLLM did not clear its prefix cache, which holds keys and values of older "
                f"weights; does somebody else use the server?"
            )
        self._handed, self._resident, self.version = handed, [reply["resident"] for reply in replies], version
        difference = self._probe(source, version)
        return {"seconds/hand_over": time.perf_counter() - start, "probe/difference": difference}

    def check_served(self, folder: Path) -> None:
        """ValueError unless the server computes with the weights of `folder`: nothing was handed over that proves it.

        stderr says what was found, and where the model cannot be computed here, that nothing was.
        """
        self._found = (self.state["version"], self.state["received"])
        try:
            model = open_served(folder, getattr(torch, self.state["dtype"]))
        except NotOpened as error:
            print(
                f"warning: NOT CHECKED whether the vLLM server at {self._cfg.url} has the weights of {folder}, because "
                f"that model could not be opened here: {error}. See to it that it was started with this model, and "
                f"without --load-format dummy",
                file=sys.stderr,
            )
            return
        try:
            difference, tolerance = self._difference(model)
        except ServerError as error:
            raise ValueError(
                f"the vLLM server at {self._cfg.url} cannot score the tokens of {folder} ({error}); is it a server of "
                f"this model? Start it with the model that is asked for"
            ) from None
        if not difference <= tolerance:
            raise ValueError(
                f"the vLLM server at {self._cfg.url} does not have the weights of {folder}: the log-probs of a fixed "
                f"text differ by {difference:.4g} nats a token, above {tolerance:g}. Start it with this model and "
                f"without --load-format dummy, or leave out --vllm.url; --vllm.tolerance raises the bound, where "
                f"rounding explains it"
            )
        print(
            f"the vLLM server at {self._cfg.url} has the weights of {folder}: the log-probs of a fixed text differ by "
            f"{difference:.2g} nats a token",
            file=sys.stderr,
        )

    def close(self) -> None:
        """End vLLM, unless it was there before."""
        self._engine.close()

    def _check_reply(self, reply: Mapping[str, Any], version: int, handed: str, before: str) -> None:
        """`before` is the fingerprint of this worker's model at the hand-over before this one."""
        if "error" in reply:
            raise RuntimeError(f"policy version {version}: vLLM could not load the weights: {reply['error']}")
        fault = stale(reply["received"], reply["resident"], handed, (self._handed, before))
        if reply["version"] != version:
            fault = f"vLLM says that it has version {reply['version']}"
        if fault:
            raise RuntimeError(f"policy version {version}: {fault}; sampling would be stale")

    def _probe(self, source: Decoder, version: int) -> float:
        """Compare the log-probs of a fixed text: what vLLM computes with, and not only what it stores."""
        difference, tolerance = self._difference(source)
        if not difference <= tolerance:  # NaN is no agreement
            raise RuntimeError(
                f"policy version {version}: the log-probs of a fixed text differ by {difference:.4g} nats a "
                f"token between vLLM and the learner, above {tolerance:g}: vLLM computes with other weights, or the "
                f"model differs between the two. --vllm.tolerance raises the bound, where rounding explains it"
            )
        return difference

    def _difference(self, model: Decoder) -> tuple[float, float]:
        """Mean difference of the probe's log-probs between `model` and vLLM, nats a token, of the replica where it is
        largest (NaN if any is); and the largest that rounding explains."""
        tokens = self._tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        assert isinstance(tokens, list)
        mine_T = text_logprobs(model, tokens)
        scored = [self._engine.score(tokens, replica) for replica in range(self._engine.replicas)]
        difference_RT = (torch.tensor(scored, dtype=torch.float64) - mine_T).abs()
        return difference_RT.mean(-1).max().item(), self._cfg.tolerance or TOLERANCE[self.state["dtype"]]

    def _check_held(self) -> None:
        """The weights handed over last, or found at the start, are those that vLLM has: another run may share it."""
        expected, how = self._found, "found"
        if self._handed:
            expected, how = (self.version, self._handed), "handed over"
        for state in self._engine.call("r1kit_state"):
            if expected and (state["version"], state["received"]) != expected:
                raise RuntimeError(
                    f"vLLM has weights of version {state['version']} (fingerprint {state['received']}), this run "
                    f"{how} version {expected[0]} ({expected[1]}); does another run use the same server?"
                )

    @contextmanager
    def _offered(self, source: Decoder, version: int) -> Iterator[tuple[dict[str, Any], str]]:
        """What tells vLLM's workers where the weights are, valid while this is open; and the weights' fingerprint."""
        state = {**self.state, "workers": self.state["workers"] * self._engine.replicas}
        device, layout = source.embed.weight.device, layout_of(source)
        if choose_transfer(self._cfg, state, device, made=layout.made) == "ipc":
            held = {name: tensor.contiguous() for name, tensor in named_weights(source).items()}
            handed = str(Fingerprint(held.values()))
            torch.cuda.synchronize(device)
            try:
                yield {"ipc": {name: export_tensor(tensor) for name, tensor in held.items()}}, handed
            finally:
                torch.cuda.ipc_collect()
            return
        folder = weights_folder(self._cfg, layout.size)
        try:
            path, handed = write_weights(source, layout, folder, version)
            yield {"file": str(path)}, handed
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _completion(self, piece: Piece, params: SamplingParams) -> Completion:
        finish: FinishReason = "length" if piece.finish == "length" else "stop" if piece.finish == "stop" else "error"
        if finish == "error":
            error = piece.error or f"vLLM ended the completion: {piece.finish}"
            return Completion((), (), "", "error", self.version, error)
        shown = piece.tokens[:-1] if finish == "stop" else piece.tokens
        text = self._tokenizer.decode(list(shown))
        assert isinstance(text, str)
        return Completion(piece.tokens, piece.logprobs, text, finish, self.version)


@contextmanager
def open_vllm(
    cfg: VllmConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rows: int,
    handed: bool,
) -> Iterator[VllmSampler]:
    """A sampler of the model in `folder`; vLLM ends with the block. `handed`: its weights come by `load_weights`; else
    a server that runs already must have them, and ValueError says when it does not."""
    check_vllm(cfg)
    arguments = engine_arguments(folder, cfg, dtype=dtype, device=device, rows=rows, handed=handed)
    engine: Engine | None = None
    process: ServerProcess | None = None
    try:
        if cfg.url:
            engine = Server(cfg.url, cfg.timeout)
        elif cfg.in_process:
            engine = InProcess(arguments)
        else:
            process = ServerProcess(cfg, arguments)
            process.wait(cfg.timeout)
            engine = Server(process.address, cfg.timeout, process)
        sampler = VllmSampler(engine, tokenizer, cfg)
        if cfg.url and not handed:
            sampler.check_served(folder)
        yield sampler
    finally:
        if engine is not None:
            engine.close()
        elif process is not None:
            process.close()


@torch.no_grad()
def text_logprobs(model: Decoder, tokens: Sequence[int]) -> Tensor:
    """Log-probs [T - 1] at temperature 1 of every token but the first, by the learner's module; float64, on the CPU."""
    tokens_T = torch.tensor(tokens, device=model.embed.weight.device)
    attention = PackedAttention([len(tokens)], tokens_T.device)
    hidden_TD = model(tokens_T, attention.positions_T, attention)
    logprobs_TV = model.unembed(hidden_TD[:-1]).log_softmax(-1)
    return logprobs_TV.gather(-1, tokens_T[1:, None]).squeeze(-1).double().cpu()


def choose_transfer(cfg: VllmConfig, state: Mapping[str, Any], device: torch.device, *, made: bool = False) -> str:
    """CUDA IPC when the learner's GPU is vLLM's one GPU, else a file. ValueError for IPC that cannot be.

    `made`: the weights are not the learner's own tensors, and by IPC all of them would be a second model on its GPU.
    """
    shared = (
        device.type == "cuda"
        and state["gpu"] == gpu_of(device)
        and state["workers"] == 1
        and state["host"] == socket.gethostname()
    )
    if cfg.transfer == "ipc" and not shared:
        raise ValueError(
            f"--vllm.transfer ipc needs the learner ({device}) and one vLLM worker ({state['workers']} on "
            f"{state['gpu'] or 'a CPU'} of {state['host']}) on the same GPU; use --vllm.transfer file"
        )
    if cfg.transfer == "auto" and made:
        return "file"
    return "file" if cfg.transfer == "file" or not shared else "ipc"
