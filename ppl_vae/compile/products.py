"""Matrix products: the routine that computes them, and their precision."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..common import ranks
from ..common.errors import UserError

PRECISIONS = ("float32", "bf16")

aten = torch.ops.aten
_PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default,
    aten.convolution.default, aten.convolution_backward.default,
}  # fmt: skip


class _Bf16(TorchDispatchMode):
    """Products and convolutions of float32 tensors on bfloat16 copies, forwards and backwards."""

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
    """Use oneDNN's float32 products on a CPU where they are known to be faster and are measured to be as exact.

    torch multiplies by MKL, and by oneDNN under ``torch.set_float32_matmul_precision("medium")``. The choice
    depends on the processor and on the error of a product, never on time, so that the same machine always gives the
    same bits. Ranks use oneDNN only where all of them can. The setting of the process is restored.

    Args:
        device: the device that computes; on a GPU nothing is changed.
        setting: the choice with which the work began, used again unless it is less exact here; None chooses.
    """
    before, chosen = torch.get_float32_matmul_precision(), choose(device, setting)
    if chosen == before:
        yield before
        return
    torch.set_float32_matmul_precision(chosen)
    try:
        yield chosen
    finally:
        torch.set_float32_matmul_precision(before)


def choose(device: torch.device, setting: str | None = None) -> str:
    """The setting that :func:`fast_products` takes."""
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu":
        return before
    chosen = setting or faster(before)
    if chosen == "medium" and not as_exact(before):  # the work began on another machine
        chosen = before
    return before if ranks.all_reduce_any(chosen == before)[0] else chosen


def faster(before: str) -> str:
    """``"medium"`` where oneDNN multiplies float32 matrices faster at the same error, else ``before``.

    MKL is slow on AMD's processors with AVX-512; elsewhere oneDNN is as slow, or less exact.
    """
    slow = torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in processor()
    return "medium" if slow and as_exact(before) else before


@functools.cache
def as_exact(before: str) -> bool:
    """Whether products under ``"medium"`` have at most three times the error of those under ``before``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float32) for shape in ((128, 512), (512, 512)))
    wanted = a.double() @ b.double()
    now = torch.get_float32_matmul_precision()
    errors = {}
    try:
        for name in (before, "medium"):
            torch.set_float32_matmul_precision(name)
            errors[name] = float(((a @ b).double() - wanted).norm())
    finally:
        torch.set_float32_matmul_precision(now)
    return errors["medium"] <= 3 * errors[before]


@functools.cache
def processor() -> str:
    """The vendor and the model of the processor, as the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip(): value.strip() for key, value in found.items()}
    return f"{named.get('vendor_id', '')} {named.get('model name', '')}".strip()
