"""Networks from x to parameters of q and from z to parameters of p; any leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
}


CONVOLUTIONS: dict[int, tuple[Any, Any]] = {  # by the number of dimensions: down and up
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


def activation(name: str) -> nn.Module:
    """An activation by name.

    Raises:
        UserError: no such name.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation={name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


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


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (*, in) -> (*, out).

    Args:
        sizes: the widths (in, hidden ..., out).
        act: the name of the activation.

    Example:
        >>> import torch
        >>> MLP((4, 8, 2))(torch.zeros(5, 3, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, sizes: Sequence[int], act: str = "tanh") -> None:
        if min(sizes) < 1:
            raise UserError(f"layer widths {tuple(sizes)}: each must be at least 1")
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(a, b)] if i == 0 else [activation(act), nn.Linear(a, b)]
        super().__init__(*layers)
        glorot(self)


class GaussianHead(nn.Module):
    """Two linear maps, in one product, from features to a diagonal Gaussian: sigma = exp(linear).

    Args:
        features: width of the features (*, features).
        latent: width of the Gaussian, event shape (latent,).
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        if latent < 1:
            raise UserError(f"latent={latent}: at least one latent dimension is needed")
        self.linear = nn.Linear(features, 2 * latent)  # the mean, then log sigma
        nn.init.zeros_(self.linear.bias)
        for weight in self.linear.weight.chunk(2):
            nn.init.xavier_uniform_(weight)

    def forward(self, h: Tensor) -> Any:
        loc, log_scale = self.linear(h).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class Encoder(nn.Module):
    """x (*, *data_shape), and labels (*, C) where given, to features (*, features).

    Args:
        data_shape: shape of one datum.
        hidden: widths of the layers; for ``"conv"``, channels of convolutions of width 3 and stride 2.
        act: the name of the activation.
        network: ``"mlp"``, ``"conv"``, or ``"conv1d"``, ``"conv2d"``, ``"conv3d"``: see :func:`grid`.
        extra: width of the labels joined to the data (``"mlp"``) or to the features (``"conv"``).
    """

    def __init__(
        self, data_shape: Sequence[int], hidden: Sequence[int], act: str, network: str = "mlp", extra: int = 0
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.event_dim = len(data_shape)
        self.grid = grid(network, data_shape, hidden)
        self.net: nn.Module
        if self.grid is not None:
            channels, sizes = _pyramid(self.grid, hidden)
            conv = CONVOLUTIONS[len(sizes[0])][0]
            layers: list[nn.Module] = []
            for a, b in pairwise(channels):
                layers += [conv(a, b, 3, stride=2, padding=1), activation(act)]
            self.net = glorot(nn.Sequential(*layers, nn.Flatten()))
            self.features = channels[-1] * math.prod(sizes[-1]) + extra
        else:
            widths = (math.prod(data_shape) + extra, *hidden)
            self.net = nn.Sequential(MLP(widths, act), activation(act)) if hidden else nn.Identity()
            self.features = widths[-1]

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        if x.dim() <= self.event_dim or x.shape[x.dim() - self.event_dim :] != self.data_shape:
            sizes = ", ".join(map(str, ("N", *self.data_shape)))
            raise UserError(
                f"x has shape {tuple(x.shape)}, which is no batch of data of shape {self.data_shape}, that this "
                f"network was made for: give x of shape ({sizes}), or build the pair with the shape of one datum, "
                f"data_shape={tuple(x.shape[1:])}"
            )
        if self.grid is not None:
            if self.event_dim < len(self.grid):  # no channels: there is one
                x = x.unsqueeze(-1 - self.event_dim)
            h = over_batch(self.net, x, len(self.grid))
            return h if extra is None else cat(h, extra)
        h = flat(x, self.event_dim)
        out: Tensor = self.net(h if extra is None else cat(h, extra))
        return out


class Decoder(nn.Module):
    """z (*, latent) to ``multiple`` numbers for each coordinate of a datum: (*, multiple, *data_shape).

    Args:
        latent: width of z (with labels joined, where there are any).
        data_shape: shape of one datum.
        hidden: widths of the layers, from the latent outwards; for ``"conv"``, channels.
        act: the name of the activation.
        network: as for :class:`Encoder`.
        multiple: numbers that the likelihood needs for each coordinate.
    """

    def __init__(
        self,
        latent: int,
        data_shape: Sequence[int],
        hidden: Sequence[int],
        act: str,
        network: str = "mlp",
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.out_shape = (multiple, *data_shape)
        self.net: nn.Module
        on = grid(network, data_shape, hidden)
        if on is not None:
            channels, sizes = _pyramid(on, hidden[::-1])
            self.net = _Upward(latent, channels[::-1], sizes[::-1], act, multiple)
        else:
            self.net = MLP((latent, *hidden, math.prod(self.out_shape)), act)

    def forward(self, z: Tensor) -> Tensor:
        return over_batch(self.net, z, 1).reshape(*z.shape[:-1], *self.out_shape)

    @property
    def last(self) -> nn.Linear | _ConvNd:
        """The layer whose bias is the output at the centre of the latent space."""
        last = list(self.net.modules())[-1]
        assert isinstance(last, nn.Linear | _ConvNd)
        return last

    @torch.no_grad()
    def set_output(self, value: Tensor) -> None:
        """Set the output bias so that features of zero give ``value`` (multiple, *data_shape).

        A convolution has one bias a channel, which takes the mean over its pixels.
        """
        bias = self.last.bias
        assert bias is not None
        bias.copy_(value.reshape(len(bias), -1).mean(1))


class _Upward(nn.Module):
    """The mirror of a convolutional encoder: features to a grid, then strided transposed convolutions."""

    def __init__(
        self, latent: int, channels: Sequence[int], sizes: Sequence[tuple[int, ...]], act: str, multiple: int
    ) -> None:
        super().__init__()
        self.grid = (channels[0], *sizes[0])
        self.first = nn.Linear(latent, math.prod(self.grid))
        layers: list[nn.Module] = []
        conv = CONVOLUTIONS[len(sizes[0])][1]
        steps = list(zip(channels[:-1], channels[1:], sizes[:-1], sizes[1:], strict=True))
        for i, (a, b, small, large) in enumerate(steps):
            out = b * multiple if i == len(steps) - 1 else b
            extra = tuple(n - (2 * m - 1) for m, n in zip(small, large, strict=True))  # 0 or 1: undo the rounding
            layers += [activation(act), conv(a, out, 3, stride=2, padding=1, output_padding=extra)]
        self.up = nn.Sequential(*layers)
        glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.up(self.first(z).reshape(-1, *self.grid))
        return out


def grid(network: str, data_shape: Sequence[int], hidden: Sequence[int]) -> tuple[int, ...] | None:
    """Channels and sizes of the grid that a network convolves over; None for ``"mlp"``.

    ``"conv"`` takes data of shape (length,), (channels, length), (height, width), (channels, height, width) and
    (channels, depth, height, width). Of two numbers the first is channels where the second is at least four times as
    large. ``"conv1d"``, ``"conv2d"`` and ``"conv3d"`` say over how many dimensions: the last ones; another one before
    them is channels.

    Raises:
        UserError: no such network, or data that have no such grid.

    Example:
        >>> grid("conv", (2, 100), (8,)), grid("conv", (28, 28), (8,)), grid("conv3d", (16, 16, 16), (8,))
        ((2, 100), (1, 28, 28), (1, 16, 16, 16))
    """
    shape = tuple(data_shape)
    if network == "mlp":
        return None
    if network not in ("conv", "conv1d", "conv2d", "conv3d"):
        raise UserError(f"network={network!r}: choose mlp, conv, conv1d, conv2d or conv3d")
    if min(hidden, default=1) < 1:
        raise UserError(f"hidden holds {min(hidden)}: each number of channels must be at least 1")
    signal = len(shape) == 2 and 4 * shape[0] <= shape[1]
    dims = {1: 1, 2: 1 if signal else 2, 3: 2, 4: 3}.get(len(shape), 0) if network == "conv" else int(network[4])
    if not hidden:
        raise UserError(f"network={network!r} needs at least one hidden layer; found hidden=(); use network='mlp'")
    if dims == 0 or len(shape) not in (dims, dims + 1):
        fits = [f"conv{n}d" for n in CONVOLUTIONS if len(shape) in (n, n + 1)]
        sizes = {1: "one size", 2: "two sizes", 3: "three sizes"}.get(dims, "one to three sizes")
        raise UserError(
            f"network={network!r} needs data of {sizes}, with channels before or not; found data_shape={shape}, which "
            f"network={' or '.join(map(repr, [*fits, 'mlp']))} takes"
        )
    return shape if len(shape) > dims else (1, *shape)


def _pyramid(on: Sequence[int], hidden: Sequence[int]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Channels and sizes at each level of a stack of stride-2 convolutions; a size of 1 stays 1."""
    channels, sizes = [on[0], *hidden], [tuple(on[1:])]
    for _ in hidden:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return channels, sizes
