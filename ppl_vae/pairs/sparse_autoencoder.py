r"""An autoencoder whose code has gates, with a price on the expected number of open ones: an L0 penalty.

.. math:: g = \min(1, \max(0, s (\zeta - \gamma) + \gamma)), \qquad
    s = \sigma((\log u - \log(1 - u) + a) / \tau), \qquad P(g > 0) = \sigma(a - \tau \log(-\gamma / \zeta))

Louizos, Welling, Kingma: Learning Sparse Neural Networks through L0 Regularization, 2017, arXiv:1712.01312; here with
gates on the code of an example, a = a(x).
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice
from ..common.errors import UserError
from ..nn.networks import Encoder, linears
from .autoencoder import prior_of_codes
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3  # gamma, zeta and tau of the paper
OPEN = 3.0  # where a(x) starts: gates that start half closed all close before the code is of use


def hard_concrete(a: Tensor, draw: bool) -> Tensor:
    """Gates in [0, 1], drawn, or without noise: exactly 0 and exactly 1 have a probability."""
    u = torch.rand_like(a).clamp(1e-6, 1 - 1e-6) if draw else None
    s = torch.sigmoid(a if u is None else (torch.logit(u) + a) / TEMPERATURE)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def p_open(a: Tensor) -> Tensor:
    """P(gate > 0)."""
    return torch.sigmoid(a - TEMPERATURE * math.log(-LOW / HIGH))


class Guide(nn.Module):
    """z = f(x) g(x), with a factor: the price of the gates that are open."""

    def __init__(self, encoder: Encoder, latent: int, weight: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = linears(encoder.features, latent, latent)
        with torch.no_grad():
            self.head.bias[latent:].fill_(OPEN)
        self.weight = weight

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        value, a = self.head(self.encoder(x)).chunk(2, -1)  # (B, latent) each
        with data_plate(x, 1):
            # the ELBO has minus the factors of a guide
            pyro.factor("open_gates", self.weight * p_open(a).sum(-1), has_rsample=True)
            return pyro.sample("z", dist.Delta(value * hard_concrete(a, self.training), event_dim=1))


@with_networks
def sparse_autoencoder(networks: Networks, *, latent: int = 50, weight: float = 0.4, prior: Choice = "fitted") -> Pair:
    """An autoencoder with gates on its code, each of which has a price while it is open.

    On small data the same gates stay open for every example: the price then chooses the width of the code.

    Args:
        latent: width of the code.
        weight: price of an open gate, in nats.
        prior: as of the autoencoder.

    Raises:
        UserError: a negative weight, or a prior that learns.

    Example:
        $ ppl-vae train sparse_autoencoder --latent 50 --weight 0.4 --epochs 40 --batch-size 64 --lr 2e-3
            --schedule linear
    """
    if not weight >= 0:
        raise UserError(f"weight={weight}: the price of an open gate is at least 0 nats")
    p, encoder, decoder = networks.make(latent)
    return Pair(Model(prior_of_codes(prior, latent), decoder, p), Guide(encoder, latent, weight))
