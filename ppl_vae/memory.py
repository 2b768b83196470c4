"""Memory that tensors free on a CPU, kept for the next ones."""

from __future__ import annotations

import functools

import torch


@functools.cache
def keep_freed() -> None:
    """Let glibc keep up to 62 MiB of freed memory, as it does in any program that has freed one block of 31 MiB.

    It gives back what is free beyond twice the largest block (of at most 32 MiB) that was ever freed. The tensors of a
    chunk come and go together, so in a process whose blocks are small, all of their pages are given back, asked for
    and zeroed again at every chunk.

    Example:
        >>> keep_freed()
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # never written: it costs no memory
