"""Operations on data that are one tensor, or a dictionary or tuple of tensors with one leading size.

Values with their mask, counts with their library size, series with their lengths, several modalities: ``x`` is then
``{"values": (N, D), "mask": (N, D)}``. Its ``len`` is the number of fields: the number of examples is :func:`num_data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

X: TypeAlias = Any  # Tensor | dict[str, X] | tuple[X, ...]


def named(x: X, name: str = "x") -> Iterator[tuple[str, Tensor]]:
    """The tensors of x with names for messages: ``x``, ``x['mask']``, ``x[1]``.

    Example:
        >>> [name for name, _ in named({"values": torch.zeros(3, 2), "mask": torch.ones(3, 2)})]
        ["x['values']", "x['mask']"]
    """
    if isinstance(x, Mapping):
        for key, value in x.items():
            yield from named(value, f"{name}[{key!r}]")
    elif isinstance(x, tuple | list):
        for i, value in enumerate(x):
            yield from named(value, f"{name}[{i}]")
    else:
        yield name, x


def leaves(x: X) -> list[Tensor]:
    """The tensors of x, in order."""
    return [x] if torch.is_tensor(x) else [leaf for _, leaf in named(x)]


def each(f: Callable[[Tensor], Any], x: X) -> X:
    """``f`` of every tensor of x, in the same structure.

    Example:
        >>> each(len, {"values": torch.zeros(3, 2), "mask": torch.ones(3, 2)})
        {'values': 3, 'mask': 3}
    """
    if isinstance(x, Mapping):
        return {key: each(f, value) for key, value in x.items()}
    return tuple(each(f, value) for value in x) if isinstance(x, tuple | list) else f(x)


def filled(x: X, tensors: Iterator[Any]) -> X:
    """The structure of x with other tensors in it, taken in order."""
    return each(lambda _: next(tensors), x)


def num_data(x: X) -> int:
    """N, the leading size of every tensor of x."""
    return len(leaves(x)[0])


def device_of(x: X) -> torch.device:
    """The device of the tensors of x."""
    return leaves(x)[0].device


def rows(x: X, where: Any) -> X:
    """Some rows of every tensor: a slice, or an index (B,) int64."""
    return each(lambda t: t[where], x)


def joined(parts: list[X], dim: int = 0) -> X:
    """Blocks of rows as one; a single block is not copied."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*map(leaves, parts), strict=True)
    return filled(parts[0], (torch.cat(list(column), dim) for column in columns))


def size_of(x: X) -> int:
    """Numbers in one example, over all fields."""
    return sum(math.prod(t.shape[1:]) for t in leaves(x))


def shape_of(x: X) -> Any:
    """The shape of one example, without the leading size: a tuple, or the structure of x with tuples in it."""
    return each(lambda t: tuple(t.shape[1:]), x)


def shapes(x: X) -> str:
    """The shapes of x, for messages.

    Example:
        >>> shapes(torch.zeros(3, 2)), shapes({"a": torch.zeros(3, 2), "b": torch.zeros(3)})
        ('shape (3, 2)', 'shapes a (3, 2), b (3,)')
    """
    if torch.is_tensor(x):
        return f"shape {tuple(x.shape)}"
    names = [(name, name.removeprefix("x['").removesuffix("']"), t) for name, t in named(x)]
    short = {(name if "[" in inner else inner): tuple(t.shape) for name, inner, t in names}
    return "shapes " + ", ".join(f"{name} {shape}" for name, shape in short.items())
