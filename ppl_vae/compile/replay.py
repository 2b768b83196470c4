"""A compiled graph of a GPU as one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Replayed:
    """A compiled graph as a CUDA graph: one launch, on buffers with fixed addresses.

    The first call runs the compiled graph, which warms the kernels up; the second is recorded. An argument whose
    address has changed is copied into a buffer from then on; one with a fixed address, such as all the data, is read in
    place. The results are overwritten by the next call. A graph with a kernel that waits for the device, as some
    factorisations of matrices do, can't be recorded: it is launched kernel by kernel, and ``failure`` says why.
    """

    def __init__(self, run: Callable[..., tuple[Tensor, ...]], held: list[Tensor]) -> None:
        self.run = run
        self.held = held
        self.graph: Any = None
        self.failure: str | None = None
        self.args: list[Tensor] = []  # those that the graph reads
        self.copied: set[int] = set()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        args = inputs[len(self.held) :]
        if not self.args:
            self.args = list(args)
            return tuple(self.run(*inputs))
        changed = {i for i, (a, b) in enumerate(zip(args, self.args, strict=True)) if a.data_ptr() != b.data_ptr()}
        if self.failure is None and (self.graph is None or not changed <= self.copied):
            self.copied |= changed
            self._record(args)
        if self.failure is not None:
            return tuple(self.run(*inputs))
        for i in self.copied:
            self.args[i].copy_(args[i])
        self.graph.replay()
        return self.results

    def _record(self, args: Sequence[Tensor]) -> None:
        self.args = [a.clone() if i in self.copied else a for i, a in enumerate(args)]
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.results = tuple(self.run(*self.held, *self.args))
        except RuntimeError as error:
            self.failure = str(error.__context__ or error).splitlines()[0]
            self.graph = None
            # the generator would refuse every draw, still told to be in a recording: one that succeeds ends that
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                torch.zeros((), device=self.args[0].device)
