"""Matrix products: which routine computes them, and in which precision."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import UserError

PRECISIONS = ("float32", "bf16")

aten = torch.ops.aten
_PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default,
    aten.convolution.default, aten.convolution_backward.default,
}  # fmt: skip


class _Bf16(TorchDispatchMode):
    """Products and convolutions of float32 tensors on bfloat16 copies, forwards and backwards; all else as it is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()]
        if not any(torch.is_tensor(v) and v.dtype == torch.float32 for v in given):
            return func(*args, **(kwargs or {}))
        result = func(*map(_short, args), **{k: _short(v) for k, v in (kwargs or {}).items()})
        return tuple(map(_long, result)) if isinstance(result, tuple) else _long(result)


def _short(value: Any) -> Any:
    return value.bfloat16() if torch.is_tensor(value) and value.dtype == torch.float32 else value


def _long(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value


def products(precision: str) -> AbstractContextManager[Any]:
    """Compute matrix products and convolutions of float32 tensors in this precision: ``"float32"`` or ``"bf16"``.

    bfloat16 keeps 8 bits of each factor and of the result; sums, densities, parameters and their updates stay float32.

    Raises:
        UserError: another precision.

    Example:
        >>> import torch
        >>> a = torch.full((2, 2), 1 / 3)
        >>> with products("bf16"):
        ...     low = a @ a
        >>> low.dtype, bool(((low - a @ a).abs() < 0.002).all()), torch.equal(low, a @ a)
        (torch.float32, True, False)
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    return nullcontext() if precision == "float32" else _Bf16()  # type: ignore[no-untyped-call]


@contextmanager
def fast_products(device: torch.device, setting: str | None = None) -> Iterator[str]:
    """The faster of two libraries for float32 products on a CPU, where a measured product shows the same error.

    torch multiplies by MKL, and by oneDNN under ``torch.set_float32_matmul_precision("medium")``. On some processors
    the second is twice as fast at the same error; on others (with AMX) it drops to bfloat16, and is not taken. The
    process's setting is given back.

    Args:
        device: where the work is done; on a GPU nothing is changed.
        setting: what an earlier look chose, to be taken again; None looks.
    """
    before = torch.get_float32_matmul_precision()
    chosen = setting or (before if device.type != "cpu" else faster(before))
    if chosen == before:
        yield before
        return
    torch.set_float32_matmul_precision(chosen)
    try:
        yield chosen
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def faster(before: str) -> str:
    """``"medium"`` where it multiplies float32 matrices at the same error in less time, else ``before``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((128, 512), (512, 512)))
    exact = a.double() @ b.double()
    seconds: dict[str, list[float]] = {before: [], "medium": []}
    errors = {}
    try:
        for _ in range(12):
            for name in seconds:
                torch.set_float32_matmul_precision(name)
                began = time.perf_counter()
                product = a @ b
                seconds[name].append(time.perf_counter() - began)
                errors[name] = float((product.double() - exact).norm())
    finally:
        torch.set_float32_matmul_precision(before)
    same = errors["medium"] <= 3 * errors[before]
    return "medium" if same and min(seconds["medium"]) < 0.8 * min(seconds[before]) else before
