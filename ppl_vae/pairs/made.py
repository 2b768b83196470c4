"""MADE: an autoregressive model of binary data with no latents; its guide is empty and log p(x) is exact.

Germain, Gregor, Murray, Larochelle: MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from ..common.choices import Choice, construct
from ..nn.networks import flat, glorot, over_batch
from .base import Pair, data_plate


class MaskedLinear(nn.Linear):
    """A linear layer whose output i depends on input j only where degree_out[i] > degree_in[j] (>= if not strict)."""

    mask: Tensor

    def __init__(self, degree_in: Tensor, degree_out: Tensor, strict: bool) -> None:
        super().__init__(len(degree_in), len(degree_out))
        allowed = degree_out[:, None] > degree_in if strict else degree_out[:, None] >= degree_in
        self.register_buffer("mask", allowed.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.mask, self.bias)


class Autoregressive(TorchDistribution):
    """p(x) = prod_i Bernoulli(x_i; logits_i(x_<i)), event shape (D,) reshaped to ``data_shape``."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, net: nn.Module, data_shape: Sequence[int], batch_shape: Any = ()) -> None:
        self.net = net
        super().__init__(torch.Size(batch_shape), torch.Size(data_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """Binary, over the whole event."""
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        return Autoregressive(self.net, self.event_shape, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        x = flat(value, len(self.event_shape))
        log_p = -binary_cross_entropy_with_logits(over_batch(self.net, x, 1), x, reduction="none").sum(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        start = next(self.net.parameters())
        x = start.new_zeros(shape[: len(shape) - len(self.event_shape)].numel(), math.prod(self.event_shape))
        with torch.no_grad():
            for i in range(x.shape[1]):  # one pass for each coordinate
                x[:, i] = torch.bernoulli(torch.sigmoid(self.net(x)[:, i]))
        return x.reshape(shape)


class Model(nn.Module):
    """x ~ prod_i p(x_i | x_<i)."""

    def __init__(self, net: nn.Module, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.data_shape = tuple(data_shape)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            return pyro.sample("x", Autoregressive(self.net, self.data_shape), obs=x)


class Guide(nn.Module):
    """No latents, so no sites."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        return None


def made(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    hidden: Sequence[int] = (500,),
    activation: Choice = "relu",
) -> Pair:
    """An autoregressive model of binary data, in raster order.

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data; sets the output bias.
        hidden: widths of the layers.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.

    Raises:
        UserError: an unknown activation.

    Example:
        $ ppl-vae train made --hidden 200 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
    """
    size = math.prod(data_shape)
    inputs = torch.arange(size)
    degrees = [inputs, *(torch.arange(width) * max(size - 1, 1) // width for width in hidden)]
    layers: list[nn.Module] = []
    for a, b in pairwise(degrees):
        layers += [MaskedLinear(a, b, strict=False), construct("activation", activation)]
    last = MaskedLinear(degrees[-1], inputs, strict=True)
    net = glorot(nn.Sequential(*layers, last))
    if data_mean is not None:
        last.bias.data.copy_(torch.logit(data_mean.flatten().clamp(1e-3, 1 - 1e-3)))
    return Pair(Model(net, data_shape), Guide())
