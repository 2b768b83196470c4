"""A classifier p(y | x): no latents and no p(x), for comparison with the classes of a generative pair.

Ng, Jordan: On Discriminative vs. Generative Classifiers, 2001.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..common.errors import UserError
from ..nn.networks import linears
from .base import Pair, data_plate
from .made import Guide
from .networks import Networks, with_networks


class Model(nn.Module):
    """y ~ Categorical(logits(x))."""

    pictured = "nothing"  # x is only given, so there are no samples to show

    def __init__(self, encoder: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = encoder
        self.logits = linears(features, num_classes)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        if x is None:
            raise UserError("this pair models y given x, so it draws no x; cvae and m2 draw x of each class")
        if y is None:
            raise UserError("this pair models labels given data: give labels y with the data, or use pv.classify")
        p = dist.Categorical(logits=self.logits(self.encoder(x)))
        with data_plate(x, n):
            return pyro.sample("y", p, obs=y)


@with_networks
def classifier(networks: Networks, *, num_classes: int) -> Pair:
    """A network from x to its class; ``log_likelihood`` is log p(y | x).

    Args:
        num_classes: number of labels; y holds 0 ... num_classes - 1.

    Example:
        $ ppl-vae train classifier --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
    """
    _, encoder, _ = networks.make(1)
    return Pair(Model(encoder, encoder.features, num_classes), Guide())
