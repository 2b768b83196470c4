"""A traced graph as code, by torch's inductor."""

from __future__ import annotations

import logging
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..common.rng import forked
from .decompositions import fast
from .guards import UncapturableError, reason_of

INDUCTOR = {
    "fallback_random": True,  # noise by torch's kernels: the same numbers as in the program, and faster on a CPU
    "reorder_for_locality": False,  # two draws would change places, and with them their numbers
    "reorder_for_peak_memory": False,
}
# on a GPU a stopwatch would choose how sums are split and whether products are padded, so a seed would end in other
# digits in the next process
ON_GPU = {"deterministic": True, "shape_padding": False}


def compile_graph(module: GraphModule, inputs: list[Tensor], again: bool = True) -> Callable[..., tuple[Tensor, ...]]:
    """What inductor makes of a graph.

    Args:
        module: takes ``inputs``.
        inputs: tensors of the shapes and types that it is compiled for.
        again: compile once more where a killed process left half a file in the compiler's cache.

    Raises:
        UncapturableError: it can't be compiled, or there is no compiler; says why.
    """
    try:
        with torch.no_grad(), _quiet():
            from torch._inductor import compile as inductor

            device = next((t.device for t in inputs if t.device.type != "cpu"), torch.device("cpu"))
            graph = replaced(module, inputs, fast(device))
            with _cached_on_disk(inputs) as (fake, options):
                run: Callable[..., tuple[Tensor, ...]] = inductor(graph, fake, options={**INDUCTOR, **options})
            return run
    except Exception as error:
        broken = re.search(r"(/\S+\.so): file too short", str(error))
        if broken and again:  # left in the compiler's cache by a process that was killed during compilation
            Path(broken[1]).unlink(missing_ok=True)
            return compile_graph(module, inputs, again=False)
        what = "there is no C++ compiler" if "Cxx" in f"{type(error).__name__} {error}" else None
        raise UncapturableError(what or f"the compiler failed: {reason_of(error)}") from error


def replaced(module: GraphModule, inputs: list[Tensor], replacements: dict[Any, Any]) -> GraphModule:
    """The graph traced again, with operations in terms of others.

    Also without any, since torch 2.14 fails on some first traces with checks of ``torch.linalg``.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with forked(inputs[0].device if inputs else "cpu"):
        return make_fx(module, decomposition_table=replacements, tracing_mode="fake")(*inputs)


@contextmanager
def _cached_on_disk(inputs: list[Tensor]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Inputs without values, and options, with which inductor keeps a whole graph in its cache on disk.

    Without them it keeps the kernels alone, and finds out again in every process which ones a graph needs: 3 s of 5.
    What code on a CPU is made for, the number of threads and the width of its vectors, is part of the options.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv())
    fake = [mode.from_tensor(t, static_shapes=True) for t in inputs]
    devices = {t.device.type for t in inputs}
    width = pick_vec_isa().bit_width() if "cpu" in devices else 0
    options = {"cpp.threads": torch.get_num_threads()} | ({"cpp.simdlen": width} if width else {})
    options |= ON_GPU if "cuda" in devices else {}
    with tracing(TracingContext(mode)):
        yield fake, options


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C: a terminal sends it to the compiler's processes too, which inherit the blocked signal."""
    before = signal.getsignal(signal.SIGINT)
    alone = threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_sigmask")
    if not alone or before is None:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))  # another thread may receive it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if caught:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's compiler warns of: of itself, and of settings of the process, which are the user's."""
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
