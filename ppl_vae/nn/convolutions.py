"""Convolutions over a grid, from x to features and from z to the numbers of p(x | z)."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from .networks import Shape, glorot

CONVOLUTIONS: dict[int, tuple[Any, Any]] = {  # by the number of dimensions: down and up
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


def conv(
    in_shape: Shape, out_shape: Shape | None, hidden: Shape, act: Choice, dims: int | None = None, blocks: int = 0
) -> nn.Module:
    """Convolutions of width 3 and stride 2 over a grid, and their mirror from a code to the grid.

    Args:
        in_shape: shape of one example, or (latent,).
        out_shape: None for an encoder; (numbers a coordinate, *data_shape) for a decoder.
        hidden: channels.
        act: the activation.
        dims: dimensions of the grid; None finds them, see :func:`grid`.
        blocks: residual blocks after each change of size.
    """
    if out_shape is None:
        return Downward(grid(in_shape, hidden, dims), hidden, act, blocks)
    multiple, *data_shape = out_shape
    return Upward(in_shape[0], grid(data_shape, hidden, dims), hidden, act, multiple, blocks)


conv1d, conv2d, conv3d = (partial(conv, dims=n) for n in (1, 2, 3))
resnet = partial(conv, blocks=1)


class Residual(nn.Module):
    """h + gain f(h), f two convolutions of width 3; the gain is learned and starts small: stable when deep.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385. Bachlechner et
    al.: ReZero is All You Need: Fast Convergence at Large Depth, 2020, arXiv:2003.04887.
    """

    def __init__(self, channels: int, dims: int, act: Choice) -> None:
        super().__init__()
        convs = [CONVOLUTIONS[dims][0](channels, channels, 3, padding=1) for _ in range(2)]
        self.net = nn.Sequential(*(layer for c in convs for layer in (construct("activation", act), c)))
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.gain * self.net(h)
        return out


class Downward(nn.Sequential):
    """(B, *data_shape) over a grid (channels, *sizes) to (B, features): each layer halves the sizes, rounded up."""

    def __init__(self, on: Shape, hidden: Shape, act: Choice, blocks: int = 0) -> None:
        channels, sizes = _pyramid(on, hidden)
        dims = len(sizes[0])
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [CONVOLUTIONS[dims][0](a, b, 3, stride=2, padding=1)]
            layers += [Residual(b, dims, act) for _ in range(blocks)]
            layers += [construct("activation", act)]
        super().__init__(*layers, nn.Flatten())
        self.grid = tuple(on)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x.reshape(-1, *self.grid)  # with one channel where the data have none
        for layer in self:
            out = layer(out)
        return out


class Upward(nn.Module):
    """The mirror of :class:`Downward`: (B, latent) to a grid, then strided transposed convolutions."""

    def __init__(self, latent: int, on: Shape, hidden: Shape, act: Choice, multiple: int, blocks: int = 0) -> None:
        super().__init__()
        channels, sizes = _pyramid(on, hidden[::-1])
        channels, sizes = channels[::-1], sizes[::-1]
        dims = len(sizes[0])
        self.grid = (channels[0], *sizes[0])
        self.first = nn.Linear(latent, math.prod(self.grid))
        layers: list[nn.Module] = []
        outputs = [*channels[1:-1], channels[-1] * multiple]
        for a, b, (small, large) in zip(channels[:-1], outputs, pairwise(sizes), strict=True):
            extra = tuple(n - (2 * m - 1) for m, n in zip(small, large, strict=True))  # 0 or 1: undo the rounding
            layers += [Residual(a, dims, act) for _ in range(blocks)]
            layers += [construct("activation", act)]
            layers += [CONVOLUTIONS[dims][1](a, b, 3, stride=2, padding=1, output_padding=extra)]
        self.up = nn.Sequential(*layers)
        glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.up(self.first(z).reshape(-1, *self.grid))
        return out


def grid(data_shape: Shape, hidden: Shape, dims: int | None = None) -> tuple[int, ...]:
    """Channels and sizes of the grid that convolutions run over.

    Data of shape (length,), (channels, length), (height, width), (channels, height, width) and (channels, depth,
    height, width) need no ``dims``. Of two numbers the first is channels where the second is at least four times as
    large. ``dims`` says over how many dimensions: the last ones; another one before them is channels.

    Raises:
        UserError: data that have no such grid.

    Example:
        >>> grid((2, 100), (8,)), grid((28, 28), (8,)), grid((16, 16, 16), (8,), dims=3)
        ((2, 100), (1, 28, 28), (1, 16, 16, 16))
    """
    shape = tuple(data_shape)
    name = "conv" if dims is None else f"conv{dims}d"
    if min(hidden, default=0) < 1:
        found = min(hidden, default="none")
        raise UserError(f"network={name!r} needs channels, each at least 1; hidden holds {found}; or use network='mlp'")
    signal = len(shape) == 2 and 4 * shape[0] <= shape[1]
    over = {1: 1, 2: 1 if signal else 2, 3: 2, 4: 3}.get(len(shape), 0) if dims is None else dims
    if over not in CONVOLUTIONS or len(shape) not in (over, over + 1):
        fits = [f"conv{n}d" for n in CONVOLUTIONS if len(shape) in (n, n + 1)]
        sizes = dims or "one to three"
        raise UserError(
            f"network={name!r} needs data of {sizes} sizes, with channels before or not; found data_shape={shape}: use "
            f"network={' or '.join(map(repr, [*fits, 'mlp']))}"
        )
    return shape if len(shape) > over else (1, *shape)


def _pyramid(on: Shape, hidden: Shape) -> tuple[list[int], list[tuple[int, ...]]]:
    """Channels and sizes at each level of a stack of stride-2 convolutions; a size of 1 stays 1."""
    channels, sizes = [on[0], *hidden], [tuple(on[1:])]
    for _ in hidden:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return channels, sizes
