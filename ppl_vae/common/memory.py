"""Memory: freed blocks are kept on a CPU, objects that stay are not looked through, shared places are written once."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@functools.cache
def keep_freed() -> None:
    """Let glibc keep up to 62 MiB of freed memory, as it does in any program that has freed one block of 31 MiB.

    It returns what is free beyond twice the largest block (of at most 32 MiB) that was ever freed. The tensors of a
    sample chunk are freed together, so in a process whose blocks are small all their pages would be returned,
    requested and zeroed again at every chunk.

    Example:
        >>> keep_freed()
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # never written, so it takes no memory


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's search for garbage, where much is made and all of it stays: to import and run torch's compiler.

    Example:
        >>> import gc
        >>> with uncollected():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was:
            gc.enable()


def assign(target: Tensor, value: Tensor) -> None:
    """``target.copy_(value)`` in place, also where several elements of the target are one number in memory.

    Args:
        target: a tensor; expanded and overlapping ones keep their strides.
        value: the same shape, equal wherever the target has one number.

    Example:
        >>> a = torch.zeros(1).expand(3)
        >>> assign(a, torch.ones(3))
        >>> a, a.stride()
        (tensor([1., 1., 1.]), (0,))
    """
    if target.is_contiguous():
        target.copy_(value)
    elif target.numel():
        extent = 1 + sum((n - 1) * step for n, step in zip(target.shape, target.stride(), strict=True))
        flat = target.as_strided((extent,), (1,), target.storage_offset())
        at = torch.arange(extent, device=target.device).as_strided(target.shape, target.stride())
        flat[at.reshape(-1)] = value.to(flat).reshape(-1)
