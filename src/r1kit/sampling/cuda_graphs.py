"""Decoding steps recorded as CUDA graphs: one launch for all kernels of a step, which otherwise wait for Python.

A graph repeats its kernels on the same memory, so it serves one number of rows and one attended length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[int, int], Tensor]


class GraphedStep:
    """`step(rows, window)`, recorded when a shape comes a second time and replayed from then on.

    `step` must read and write the same memory at every call and never ask the device for a value. The first call of a
    shape runs as it is: it warms up what the kernels need, and a shape that comes once is not worth recording.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, rows: int, window: int) -> Tensor:
        shape = (rows, window)
        if shape not in self.graphs:
            self.graphs[shape] = None
            return self.step(rows, window)
        recorded = self.graphs[shape]
        if recorded is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                result = self.step(rows, window)  # recorded, not run
            recorded = self.graphs[shape] = (graph, result)
        recorded[0].replay()
        return recorded[1]
