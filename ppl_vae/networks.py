"""Networks from x to parameters of q and from z to parameters of p; any leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
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
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
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
        hidden: widths of the layers; for ``"conv"``, channels of 3x3 convolutions with stride 2.
        act: the name of the activation.
        network: ``"mlp"`` or ``"conv"`` (for data of shape (C, H, W)).
        extra: width of the labels joined to the data (``"mlp"``) or to the features (``"conv"``).
    """

    def __init__(
        self, data_shape: Sequence[int], hidden: Sequence[int], act: str, network: str = "mlp", extra: int = 0
    ) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.conv = _is_conv(network, data_shape, hidden)
        self.net: nn.Module
        if self.conv:
            channels, sizes = _pyramid(data_shape, hidden)
            layers: list[nn.Module] = []
            for a, b in pairwise(channels):
                layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), activation(act)]
            self.net = glorot(nn.Sequential(*layers, nn.Flatten()))
            self.features = channels[-1] * math.prod(sizes[-1]) + extra
        else:
            widths = (math.prod(data_shape) + extra, *hidden)
            self.net = nn.Sequential(MLP(widths, act), activation(act)) if hidden else nn.Identity()
            self.features = widths[-1]

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        if self.conv:
            h = over_batch(self.net, x, self.event_dim)
            return h if extra is None else cat(h, extra)
        h = x.flatten(x.dim() - self.event_dim)
        out: Tensor = self.net(h if extra is None else cat(h, extra))
        return out


class Decoder(nn.Module):
    """z (*, latent) to ``multiple`` numbers for each coordinate of a datum: (*, multiple, *data_shape).

    Args:
        latent: width of z (with labels joined, where there are any).
        data_shape: shape of one datum.
        hidden: widths of the layers, from the latent outwards; for ``"conv"``, channels.
        act: the name of the activation.
        network: ``"mlp"`` or ``"conv"``.
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
        if _is_conv(network, data_shape, hidden):
            channels, sizes = _pyramid(data_shape, hidden[::-1])
            self.net = _Upward(latent, channels[::-1], sizes[::-1], act, multiple)
        else:
            self.net = MLP((latent, *hidden, math.prod(self.out_shape)), act)

    def forward(self, z: Tensor) -> Tensor:
        return over_batch(self.net, z, 1).reshape(*z.shape[:-1], *self.out_shape)

    @property
    def last(self) -> nn.Linear | nn.ConvTranspose2d:
        """The layer whose bias is the output at the centre of the latent space."""
        last = list(self.net.modules())[-1]
        assert isinstance(last, nn.Linear | nn.ConvTranspose2d)
        return last

    @torch.no_grad()
    def set_output(self, value: Tensor) -> None:
        """Set the output bias so that features of zero give ``value`` (multiple, *data_shape).

        A convolution has one bias a channel, which takes the mean over its pixels.
        """
        bias = self.last.bias
        assert bias is not None
        if isinstance(self.last, nn.Linear):
            bias.copy_(value.flatten())
        else:
            bias.copy_(value.flatten(0, 1).flatten(1).mean(1))


class _Upward(nn.Module):
    """The mirror of a convolutional encoder: features to a grid, then strided transposed convolutions."""

    def __init__(
        self, latent: int, channels: Sequence[int], sizes: Sequence[tuple[int, int]], act: str, multiple: int
    ) -> None:
        super().__init__()
        self.grid = (channels[0], *sizes[0])
        self.first = nn.Linear(latent, math.prod(self.grid))
        layers: list[nn.Module] = []
        steps = list(zip(channels[:-1], channels[1:], sizes[:-1], sizes[1:], strict=True))
        for i, (a, b, small, large) in enumerate(steps):
            out = b * multiple if i == len(steps) - 1 else b
            extra = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))  # 0 or 1: undo the rounding
            layers += [activation(act), nn.ConvTranspose2d(a, out, 3, stride=2, padding=1, output_padding=extra)]
        self.up = nn.Sequential(*layers)
        glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.up(self.first(z).reshape(-1, *self.grid))
        return out


def _is_conv(network: str, data_shape: Sequence[int], hidden: Sequence[int]) -> bool:
    if network not in ("mlp", "conv"):
        raise UserError(f"network={network!r}: choose 'mlp' or 'conv'")
    if network == "conv" and (len(data_shape) != 3 or not hidden):
        raise UserError(
            f"network='conv' needs data of shape (channels, height, width) and at least one hidden layer; "
            f"found data_shape={tuple(data_shape)}, hidden={tuple(hidden)}; use network='mlp'"
        )
    return network == "conv"


def _pyramid(data_shape: Sequence[int], hidden: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Channels and (height, width) at each level of a stack of stride-2 convolutions."""
    channels, sizes = [data_shape[0]], [(data_shape[1], data_shape[2])]
    for width in hidden:
        h, w = sizes[-1]
        if min(h, w) < 2:
            raise UserError(f"network='conv': {len(hidden)} halvings are too many for {tuple(data_shape)} data")
        channels.append(width)
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return channels, sizes
