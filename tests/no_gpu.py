"""Code for a GPU on a machine without one: torch's compiler is told of an H100, and Triton writes for its architecture.

What would ask the driver is answered here; what computes on the GPU raises. The answers stay in caches of torch, so
this is used in a process of its own: ``pytest tests/gpu_code.py``. It follows the insides of torch 2.14.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule

from ppl_vae.compile import decompositions
from ppl_vae.compile.inductor import INDUCTOR, ON_GPU, replaced

GPU = torch.device("cuda", 0)
H100 = {
    "name": "H100", "major": 9, "minor": 0, "warp_size": 32, "multi_processor_count": 132, "L2_cache_size": 50 << 20,
    "max_threads_per_multi_processor": 2048, "max_threads_per_block": 1024, "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 49152, "shared_memory_per_block_optin": 232448, "total_memory": 80 << 30,
}  # fmt: skip
HINTS = ("warp_size", "multi_processor_count", "major", "max_threads_per_multi_processor", "max_threads_per_block",
         "regs_per_multiprocessor")  # fmt: skip


class Kernel(NamedTuple):
    """A kernel of Triton: how many configurations a stopwatch on the GPU would choose from, and its size in bytes."""

    name: str
    reduces: bool
    configurations: int
    size: int


class Code(NamedTuple):
    """What inductor made of a graph."""

    program: str
    kernels: list[Kernel]


def code_of(module: GraphModule, inputs: list[Tensor], *, binary: bool = False) -> Code:
    """The code of a graph that was traced on a CPU, as if its tensors were on the GPU; ``binary`` compiles kernels."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile as inductor
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    module = replaced(module, inputs, decompositions.GPU)
    for node in module.graph.nodes:
        if "device" in node.kwargs:  # what moves to the CPU would be lost here; no program does, as it is traced on one
            node.kwargs = {**node.kwargs, "device": GPU}
    module.recompile()
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with torch.no_grad(), told_of_a_gpu(binary) as (programs, kernels), tracing(TracingContext(mode)):
        with mode:
            fake = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=GPU) for t in inputs]
        # a fold of constants is computed on the GPU, and no file of this must serve a real one
        ours = {"joint_graph_constant_folding": False, "force_disable_caches": True, "compile_threads": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's compiler about itself
            inductor(module, fake, options={**INDUCTOR, **ON_GPU, **ours})
    return Code("\n".join(programs), kernels)


@contextmanager
def told_of_a_gpu(binary: bool) -> Iterator[tuple[list[str], list[Kernel]]]:
    """Collects the programs that inductor writes and the kernels that it loads."""
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.fx_passes import fuse_attention
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime.hints import DeviceProperties
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    programs: list[str] = []
    kernels: list[Kernel] = []
    properties = SimpleNamespace(**H100)
    patterns = fuse_attention._sfdp_init
    hints = DeviceProperties(type="cuda", index=0, cc=90, **{name: H100[name] for name in HINTS})

    def loaded(kernel: Any) -> None:
        sizes = [Path(made.kernel.cubin_path).stat().st_size for made in kernel.compile_results]
        reduces = any(word in str(kernel.heuristic_type).lower() for word in ("reduction", "scan"))
        kernels.append(Kernel(kernel.fn.__name__, reduces, len(kernel.configs or sizes), sum(sizes)))
        kernel.launchers = [None]

    answers: dict[str, Any] = {
        "is_available": True, "current_device": 0, "device_count": 1, "get_device_properties": properties,
        "get_device_capability": (9, 0), "is_initialized": False, "_lazy_init": None, "synchronize": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "set_rng_state": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
    }  # fmt: skip
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stack.enter_context(mock.patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": folder}))

        def answer(where: Any, name: str, how: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, how))

        for name, value in answers.items():
            answer(torch.cuda, name, _always(value))
        answer(CudaInterface, "get_device_properties", staticmethod(_always(properties)))
        answer(CudaInterface.Worker, "get_device_properties", staticmethod(_always(properties)))
        # the patterns of attention are made from tensors with gradients, which ask the driver
        answer(fuse_attention, "_sfdp_init", lambda *_: patterns(torch.device("cpu")))
        answer(DeviceProperties, "create", _always(hints))
        answer(triton_helpers, "set_driver_to_gpu", _always(None))
        answer(GraphLowering, "save_output_code", staticmethod(programs.append))
        answer(CachingAutotuner, "_make_launchers", loaded)
        if not binary:
            answer(CachingAutotuner, "_precompile_worker", lambda self: setattr(self, "compile_results", []))
        answer(triton.runtime.driver, "_active", Driver())
        yield programs, kernels


class Driver:
    """What Triton asks of a GPU when it compiles; anything else fails."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return GPU

    def get_current_device(self) -> int:
        return 0


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value
