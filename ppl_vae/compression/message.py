"""The format of a message: the magic bytes, a JSON header with its length, the coded data, a checksum."""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from typing import Any, NamedTuple

import torch

from ..common.errors import RunError

MAGIC = b"ppl_vae bits-back 1\n"
BLOCK = 64  # examples in one pass of the networks, at most
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float32", "float64", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64",
    )
}  # fmt: skip

Grid = dict[str, tuple[list[int], int, int]]  # by site: bins of width 2^-e for each coordinate; first and last bin


class Layout(NamedTuple):
    """How the data lie in a message.

    Attributes:
        n: examples.
        shape: of one example.
        dtype: of the data.
        sizes: examples of each block, in the order of the data.
        grid: of the Normal latents.
    """

    n: int
    shape: list[int]
    dtype: torch.dtype
    sizes: list[int]
    grid: Grid


def write(header: dict[str, Any], payload: bytes) -> bytes:
    """The message of a header and coded data."""
    head = json.dumps(header, separators=(",", ":")).encode()
    body = MAGIC + len(head).to_bytes(4, "little") + head + payload
    return body + _checksum(body)


def read(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the coded data of a message.

    Raises:
        RunError: it is not a message of :func:`write`, or it is damaged.
    """
    if not isinstance(blob, bytes) or not blob.startswith(MAGIC):
        raise RunError("not a message of pv.compress: its first bytes differ; give the bytes that pv.compress returned")
    if len(blob) < len(MAGIC) + 20 or _checksum(blob[:-16]) != blob[-16:]:
        raise RunError("the message is truncated or damaged: its checksum does not match; restore it from a copy")
    at = len(MAGIC) + 4
    size = int.from_bytes(blob[len(MAGIC) : at], "little")
    try:
        header = json.loads(blob[at : at + size])
    except ValueError:
        header = None
    if not isinstance(header, dict) or "pair" not in header or (len(blob) - 16 - at - size) % 4:
        raise RunError("the header of the message can't be read: it was edited; restore it from a copy")
    return header, blob[at + size : -16]


def layout(header: dict[str, Any]) -> Layout:
    """The layout that a header describes.

    Raises:
        RunError: it is impossible.
    """
    try:
        n, shape, runs = int(header["n"]), [int(d) for d in header["shape"]], header["sizes"]
        dtype = DTYPES[header["dtype"]]
        grid: Grid = {str(name): ([int(i) for i in e], int(a), int(b)) for name, (e, a, b) in header["grid"].items()}
        possible = all(0 < size <= BLOCK and 0 < count <= n for size, count in runs)
        possible &= sum(size * count for size, count in runs) == n and min(shape, default=1) > 0
        possible &= all(e and max(map(abs, e)) < 1000 and -(2**23) < a < b < 2**23 for e, a, b in grid.values())
        possible &= isinstance(header["data"], str)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        possible = False
    if not possible:
        raise RunError("the header of the message is impossible: it was edited; restore it from a copy")
    return Layout(n, shape, dtype, [size for size, count in runs for _ in range(count)], grid)


def run_lengths(sizes: list[int]) -> list[list[int]]:
    """Each size, and how often it follows itself.

    Example:
        >>> run_lengths([1, 1, 2])
        [[1, 2], [2, 1]]
    """
    return [[size, len(list(same))] for size, same in groupby(sizes)]


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:16]
