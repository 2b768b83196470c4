"""A device that is none: its tensors hold their numbers on the CPU, and meet those of the CPU as a GPU's would.

An operation on tensors of both raises, but for a CPU's single number, which a GPU takes too. ``READS`` counts what a
GPU would have to be waited for. Importing this registers the device ``"sham"`` for the whole process, so it is done in
a process of its own: ``pytest tests/on_device.py --device sham``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

BETWEEN = {"aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_"}  # takes both devices, as CUDA does
WAITS = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2"}
READS: list[str] = []  # the operations whose result the host had to wait for


def gru_cell(i: Tensor, h: Tensor, state: Tensor, bias_i: Tensor | None = None, bias_h: Tensor | None = None) -> Any:
    """The next state, and what the gradient needs: a kernel that only GPUs have; gates (B, 3 H), state (B, H)."""
    i_r, i_z, i_n = (i if bias_i is None else i + bias_i).chunk(3, 1)
    h_r, h_z, h_n = (h if bias_h is None else h + bias_h).chunk(3, 1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return n + z * (state - n), torch.cat([r, z, n, state, h_n], 1)


def gru_cell_backward(slope: Tensor | None, kept: Tensor, has_bias: bool) -> Any:
    """The slopes of both gates, of the state, and of both biases."""
    if slope is None:
        return (None,) * 5
    r, z, n, state, h_n = kept.chunk(5, 1)
    to_z, to_n = slope * (state - n) * z * (1 - z), slope * (1 - z) * (1 - n * n)
    to_r = to_n * h_n * r * (1 - r)
    to_i, to_h = torch.cat([to_r, to_z, to_n], 1), torch.cat([to_r, to_z, to_n * r], 1)
    return to_i, to_h, slope * z, *((to_i.sum(0), to_h.sum(0)) if has_bias else (None, None))


KERNELS = {"aten::_thnn_fused_gru_cell": gru_cell, "aten::_thnn_fused_gru_cell_backward": gru_cell_backward}


class Sham(Tensor):
    """A tensor of the device, by the tensor of the CPU that has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> Sham:
        made: Sham = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device("sham", 0), layout=held.layout, requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def untyped_storage(self) -> Any:
        """That of the numbers: one for all views."""
        return self.held.untyped_storage()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Sham({self.held!r})"


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation, done on the CPU."""
    name = func.name().partition(".")[0]
    given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    ours = {id(v.held): v for v in given if isinstance(v, Sham)}
    if ours and name not in BETWEEN and any(not isinstance(v, Sham) and v.dim() for v in given):
        raise RuntimeError(f"{func.name()}: tensors of two devices, {[str(v.device) for v in given]}")
    to_cpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    into_cpu = name == "aten::copy_" and not isinstance(args[0], Sham)
    masks = name == "aten::index" and any(v.dtype == torch.bool for v in given[1:])
    if ours and (name in WAITS or to_cpu or into_cpu or masks):
        READS.append(name)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    args, kwargs = tree_map(lambda v: v.held if isinstance(v, Sham) else v, (args, kwargs))
    if name == "aten::copy_":
        args[0].copy_(args[1])
        return next(iter(given))
    if torch.Tag.inplace_view in func.tags:  # the shape that torch knows of changes too
        with no_dispatch(), meta_kernels():
            func(given[0], *args[1:], **kwargs)
    out = KERNELS.get(name, func)(*args, **kwargs)

    def of_device(v: Any) -> Any:
        return ours.get(id(v)) if id(v) in ours else Sham(v) if isinstance(v, Tensor) and not to_cpu else v

    return tree_map(of_device, out)


@contextmanager
def meta_kernels() -> Iterator[None]:
    """Operations change the shapes of tensors and no numbers."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        yield
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)


class Generator(torch.Generator):
    """One of the CPU, whatever device it is asked for."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, "cpu" if torch.device(device).type == "sham" else device)


class Made(TorchFunctionMode):
    """Tensors are made on the CPU and moved to the device: torch resizes some of those that it makes there."""

    def __enter__(self) -> Any:
        self.generator, torch.Generator = torch.Generator, Generator  # type: ignore[misc]
        return super().__enter__()

    def __exit__(self, *about: Any) -> None:
        torch.Generator = self.generator  # type: ignore[misc]
        super().__exit__(*about)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.tolist, Tensor.untyped_storage, Tensor.data_ptr) and isinstance(args[0], Sham):
            READS.extend(["tolist"] * (func is Tensor.tolist))
            return func(args[0].held)
        if getattr(func, "__name__", "") == "new_tensor":
            like, *args = args
            func, kwargs = torch.tensor, {"dtype": like.dtype, "device": like.device, **kwargs}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and isinstance(args[0], Sham):
            there = args[0].to(device or args[0].device, kwargs.get("dtype") or args[0].dtype)
            return there.clone() if func is torch.tensor else there
        if device is None or func not in _device_constructors() or torch.device(device).type != "sham":
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


_setup_privateuseone_for_python_backend("sham")
LIBRARY = torch.library.Library("_", "IMPL")  # kept for as long as the process
LIBRARY.fallback(run, "PrivateUse1")
