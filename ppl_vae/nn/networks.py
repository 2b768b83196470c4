"""Networks from x to parameters of q and from z to parameters of p; any leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..common.choices import Choice, construct, record
from ..common.errors import UserError

CONVOLUTIONS: dict[int, tuple[Any, Any]] = {  # by the number of dimensions: down and up
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
Shape = Sequence[int]


def over_batch(f: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """Apply ``f``, which takes one batch dimension, to x of shape (*batch, *event); returns (*batch, *out).

    Example:
        >>> import torch
        >>> over_batch(torch.nn.Conv2d(1, 2, 3), torch.zeros(5, 4, 1, 8, 8), event_dim=3).shape
        torch.Size([5, 4, 2, 6, 6])
    """
    batch, event = x.shape[: x.dim() - event_dim], x.shape[x.dim() - event_dim :]
    out = f(x.reshape(-1, *event))
    return out.reshape(*batch, *out.shape[1:])


def flat(x: Tensor, event_dim: int) -> Tensor:
    """x of shape (*batch, *event) as (*batch, numbers in an event); a datum of shape () is one number.

    Example:
        >>> import torch
        >>> flat(torch.zeros(5, 4, 2, 3), event_dim=2).shape, flat(torch.zeros(5), event_dim=0).shape
        (torch.Size([5, 4, 6]), torch.Size([5, 1]))
    """
    batch = x.shape[: x.dim() - event_dim]
    return x.reshape(*batch, math.prod(x.shape[len(batch) :]))


def cat(*parts: Tensor) -> Tensor:
    """Join along the last dimension after broadcasting the batch dimensions: labels (B, C) to z (K, B, L).

    Example:
        >>> import torch
        >>> cat(torch.zeros(7, 3, 2), torch.zeros(3, 4)).shape
        torch.Size([7, 3, 6])
    """
    batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*batch, p.shape[-1]) for p in parts], dim=-1)


def glorot(module: nn.Module) -> nn.Module:
    """Glorot-uniform weights and zero biases, in place.

    Source: Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, 2010.
    """
    for m in module.modules():
        if isinstance(m, nn.Linear | _ConvNd):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


def linears(features: int, *sizes: int) -> nn.Linear:
    """Several linear maps of the same features in one product, each with its own Glorot weights, and zero biases."""
    layer = nn.Linear(features, sum(sizes))
    nn.init.zeros_(layer.bias)
    for weight in layer.weight.split(sizes):
        nn.init.xavier_uniform_(weight)
    return layer


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (*, in) -> (*, out).

    Args:
        sizes: the widths (in, hidden ..., out).
        act: the activation: a name, a class or a module.

    Example:
        >>> import torch
        >>> MLP((4, 8, 2))(torch.zeros(5, 3, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, sizes: Shape, act: Choice = "tanh") -> None:
        if min(sizes) < 1:
            raise UserError(f"layer widths {tuple(sizes)}: each must be at least 1")
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(a, b)] if i == 0 else [construct("activation", act), nn.Linear(a, b)]
        super().__init__(*layers)
        glorot(self)


def mlp(in_shape: Shape, out_shape: Shape | None, hidden: Shape, act: Choice) -> nn.Module:
    """Fully connected layers: (B, *in_shape) to (B, numbers in out_shape), or to features of width ``hidden[-1]``."""
    widths = (math.prod(in_shape), *hidden)
    if out_shape is not None:
        return MLP((*widths, math.prod(out_shape)), act)
    return nn.Sequential(MLP(widths, act), construct("activation", act)) if hidden else nn.Identity()


def conv(
    in_shape: Shape, out_shape: Shape | None, hidden: Shape, act: Choice, dims: int | None = None, blocks: int = 0
) -> nn.Module:
    """Convolutions of width 3 and stride 2 over a grid, and their mirror from a code to the grid.

    Args:
        in_shape: shape of one data point, or (latent,).
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


class Encoder(nn.Module):
    """x (*, *data_shape), and labels (*, C) where given, to features (*, features).

    Args:
        data_shape: shape of one datum.
        hidden: widths of the layers, or channels.
        act: the activation.
        network: a name of ``registry.NETWORKS``, or a callable ``(in_shape, out_shape, hidden, act)`` that makes a
            module from (B, *in_shape) to (B, features); ``out_shape`` is None here.
        extra: width of the labels, joined to the data (``"mlp"``) or to the features (all others).
    """

    def __init__(
        self, data_shape: Shape, hidden: Shape, act: Choice = "tanh", network: Choice = "mlp", extra: int = 0
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.event_dim = len(data_shape)
        self.joins_data = record(network) in ("mlp", {"name": "mlp"})
        in_shape = (math.prod(data_shape) + extra,) if self.joins_data else tuple(data_shape)
        self.net = construct("network", network, in_shape, None, tuple(hidden), act, instance=False)
        self.features = width_of(self.net, in_shape) + (0 if self.joins_data else extra)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        if x.dim() <= self.event_dim or x.shape[x.dim() - self.event_dim :] != self.data_shape:
            sizes = ", ".join(map(str, ("N", *self.data_shape)))
            raise UserError(
                f"x has shape {tuple(x.shape)}, which is no batch of data of shape {self.data_shape}, that this "
                f"network was made for: give x of shape ({sizes}), or build the pair with the shape of one example, "
                f"data_shape={tuple(x.shape[1:])}"
            )
        if self.joins_data:
            h = flat(x, self.event_dim)
            out: Tensor = self.net(h if extra is None else cat(h, extra))
            return out
        h = over_batch(self.net, x, self.event_dim)
        return h if extra is None else cat(h, extra)


class Decoder(nn.Module):
    """z (*, latent) to ``multiple`` numbers for each coordinate of a datum: (*, multiple, *data_shape).

    Args:
        latent: width of z (with labels joined, where there are any).
        data_shape: shape of one datum.
        hidden: widths of the layers, or channels, from the latent outwards.
        act: the activation.
        network: as for :class:`Encoder`; a callable's module maps (B, latent) to (B, *out_shape), with ``out_shape``
            (multiple, *data_shape).
        multiple: numbers that the likelihood needs for each coordinate.
    """

    def __init__(
        self,
        latent: int,
        data_shape: Shape,
        hidden: Shape,
        act: Choice = "tanh",
        network: Choice = "mlp",
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.out_shape = (multiple, *data_shape)
        self.net = construct("network", network, (latent,), self.out_shape, tuple(hidden), act, instance=False)

    def forward(self, z: Tensor) -> Tensor:
        return over_batch(self.net, z, 1).reshape(*z.shape[:-1], *self.out_shape)

    @property
    def last(self) -> nn.Linear | _ConvNd | None:
        """The layer whose bias is the output at the centre of the latent space, where the network ends in one."""
        last = list(self.net.modules())[-1]
        return last if isinstance(last, nn.Linear | _ConvNd) else None

    @torch.no_grad()
    def set_output(self, value: Tensor) -> None:
        """Set the output bias so that features of zero give ``value`` (multiple, *data_shape).

        A convolution has one bias a channel, which takes the mean over its pixels. A network of another kind, which
        does not end in a bias that fits, is left as it is.
        """
        bias = None if self.last is None else self.last.bias
        if bias is not None and value.numel() % len(bias) == 0:
            bias.copy_(value.reshape(len(bias), -1).mean(1))


@torch.no_grad()
def width_of(net: nn.Module, in_shape: Shape) -> int:
    """Features that a network gives for one example, by a pass over zeros.

    Raises:
        UserError: it does not give a vector for each example.
    """
    was = net.training
    like = next(net.parameters(), torch.empty(0))
    out = net.eval()(like.new_zeros(2, *in_shape))
    net.train(was)
    if out.dim() != 2 or len(out) != 2:
        raise UserError(f"network: an encoder gives (B, features); found {tuple(out.shape)} for B = 2")
    return int(out.shape[1])


class Residual(nn.Module):
    """h + gain f(h), f two convolutions of width 3; the gain is learned and starts small: stable when deep.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385. Bachlechner et
    al.: ReZero is All You Need: Fast Convergence at Large Depth, 2020, arXiv:2003.04887.
    """

    def __init__(self, channels: int, dims: int, act: Choice) -> None:
        super().__init__()
        make = CONVOLUTIONS[dims][0]
        convs = [make(channels, channels, 3, padding=1) for _ in range(2)]
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
        steps = list(zip(channels[:-1], channels[1:], sizes[:-1], sizes[1:], strict=True))
        for i, (a, b, small, large) in enumerate(steps):
            out = b * multiple if i == len(steps) - 1 else b
            extra = tuple(n - (2 * m - 1) for m, n in zip(small, large, strict=True))  # 0 or 1: undo the rounding
            layers += [Residual(a, dims, act) for _ in range(blocks)]
            layers += [construct("activation", act)]
            layers += [CONVOLUTIONS[dims][1](a, out, 3, stride=2, padding=1, output_padding=extra)]
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
    if min(hidden, default=1) < 1:
        raise UserError(f"hidden holds {min(hidden)}: each number of channels must be at least 1")
    signal = len(shape) == 2 and 4 * shape[0] <= shape[1]
    over = {1: 1, 2: 1 if signal else 2, 3: 2, 4: 3}.get(len(shape), 0) if dims is None else dims
    name = "conv" if dims is None else f"conv{dims}d"
    if not hidden:
        raise UserError(f"network={name!r} needs at least one hidden layer; found hidden=(); use network='mlp'")
    if over not in CONVOLUTIONS or len(shape) not in (over, over + 1):
        fits = [f"conv{n}d" for n in CONVOLUTIONS if len(shape) in (n, n + 1)]
        sizes = {1: "one size", 2: "two sizes", 3: "three sizes"}.get(over, "one to three sizes")
        raise UserError(
            f"network={name!r} needs data of {sizes}, with channels before or not; found data_shape={shape}, which "
            f"network={' or '.join(map(repr, [*fits, 'mlp']))} takes"
        )
    return shape if len(shape) > over else (1, *shape)


def _pyramid(on: Shape, hidden: Shape) -> tuple[list[int], list[tuple[int, ...]]]:
    """Channels and sizes at each level of a stack of stride-2 convolutions; a size of 1 stays 1."""
    channels, sizes = [on[0], *hidden], [tuple(on[1:])]
    for _ in hidden:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return channels, sizes
