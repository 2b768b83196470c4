"""MADE: an autoregressive model with no latents; its guide is empty and log p(x) is exact.

Germain, Gregor, Murray, Larochelle: MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.choices import Choice
from ..common.errors import UserError
from ..nn.autoregressive import Autoregressive, Steps
from ..nn.masked import Made
from .base import Pair, data_plate


class Model(nn.Module):
    """x ~ prod_i p(x_i | x_<i)."""

    def __init__(self, net: nn.Module, steps: Steps) -> None:
        super().__init__()
        self.net = net
        self.steps = steps

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            return pyro.sample("x", Autoregressive(self.net, self.steps), obs=x)


class Guide(nn.Module):
    """No latents, so no sites."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        return None


def made(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    hidden: Sequence[int] = (500,),
    levels: int = 2,
    num_masks: int = 1,
    order: str = "raster",
    activation: Choice = "relu",
) -> Pair:
    r"""An autoregressive model of binary data, or of numbers of a few levels, by masked linear layers.

    With several masks p(x) is the average of their models, exact; a step of training takes one of them, whose loss is
    on average an upper bound of that of p(x).

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data; sets the output bias of binary data.
        hidden: widths of the layers.
        levels: values of one number: 2 for binary data, 256 for 8-bit pixels.
        num_masks: masks, each with its own connections, and its own order where that is random.
        order: raster or random.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.

    Raises:
        UserError: an unknown activation or order, or no mask.

    Example:
        $ ppl-vae train made --hidden 200 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
    """
    size = math.prod(data_shape)
    if order not in ("raster", "random") or num_masks < 1:
        raise UserError(
            f"order={order!r}, num_masks={num_masks}: the order is raster or random, with at least one mask"
        )
    raster = torch.arange(size)
    orders = torch.rand(num_masks, size).argsort(1) if order == "random" else raster.repeat(num_masks, 1)
    steps = Steps(data_shape, raster.unsqueeze(1), levels)
    net = Made(orders, levels, hidden, activation)
    if data_mean is not None and levels == 2:
        net.last.bias.data.copy_(torch.logit(data_mean.flatten().clamp(1e-3, 1 - 1e-3)))
    return Pair(Model(net, steps), Guide())
