"""Networks from x to parameters of q and from z to parameters of p; any leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..common.choices import Choice, construct, record
from ..common.errors import UserError

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
    """x of shape (*batch, *event) as (*batch, numbers in an event); an example of shape () is one number.

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
    """Several linear maps of the same features in one product, each with its Glorot weights, and zero biases."""
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
        for a, b in pairwise(sizes):
            layers += [construct("activation", act), nn.Linear(a, b)]
        super().__init__(*layers[1:])
        glorot(self)


class Mirror(nn.Module):
    """The layers of a coder backwards: its weights, transposed, under the biases of a decoder of the mirrored widths.

    Args:
        coder: linear layers from x to the code.
        decoder: linear layers from the code to x, of which the biases are taken.
        act: the activation between them.

    Raises:
        UserError: the two are not linear layers of mirrored widths.

    Example:
        >>> import torch
        >>> coder = MLP((4, 8, 2))
        >>> Mirror(coder, MLP((2, 8, 4)))(torch.zeros(5, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(self, coder: nn.Module, decoder: nn.Module, act: Choice = "tanh") -> None:
        super().__init__()
        there, back = ([m for m in net.modules() if isinstance(m, nn.Linear | _ConvNd)] for net in (coder, decoder))
        if [m.weight.shape for m in there[::-1]] != [m.weight.shape[::-1] for m in back]:
            raise UserError(
                "tied weights: the decoder's layers are the encoder's, transposed, so they need the network mlp and "
                "one output for each number of x; leave tied out, or choose another network or likelihood"
            )
        self.layers = nn.ModuleList(there[::-1])
        self.biases = nn.ParameterList(m.bias for m in back)
        self.act = construct("activation", act)

    def forward(self, z: Tensor) -> Tensor:
        for i, (layer, bias) in enumerate(zip(self.layers, self.biases, strict=True)):
            z = nn.functional.linear(self.act(z) if i else z, cast(Tensor, layer.weight).T, bias)
        return z


def mlp(in_shape: Shape, out_shape: Shape | None, hidden: Shape, act: Choice) -> nn.Module:
    """Fully connected layers: (B, *in_shape) to (B, numbers in out_shape), or to features of width ``hidden[-1]``."""
    widths = (math.prod(in_shape), *hidden)
    if out_shape is not None:
        return MLP((*widths, math.prod(out_shape)), act)
    return nn.Sequential(MLP(widths, act), construct("activation", act)) if hidden else nn.Identity()


class Encoder(nn.Module):
    """x (*, *data_shape), and labels (*, C) where given, to features (*, features).

    Args:
        data_shape: shape of one example.
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
            raise UserError(
                f"x has shape {tuple(x.shape)}, which is no batch of examples of shape {self.data_shape}: give x of "
                f"shape ({', '.join(map(str, ('N', *self.data_shape)))}), or build the pair with data_shape="
                f"{tuple(x.shape[1:])}"
            )
        if self.joins_data:
            h = flat(x, self.event_dim)
            out: Tensor = self.net(h if extra is None else cat(h, extra))
            return out
        h = over_batch(self.net, x, self.event_dim)
        return h if extra is None else cat(h, extra)


class Decoder(nn.Module):
    """z (*, latent) to ``multiple`` numbers for each coordinate of an example: (*, multiple, *data_shape).

    Args:
        latent: width of z (with labels joined, where there are any).
        data_shape: shape of one example.
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

        A convolution has one bias a channel, which takes the mean over its pixels. A network that
        does not end in a bias that fits is not changed.
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
