"""Two latent layers: p(z2) p(z1|z2) p(x|z1), with the bottom-up guide q(z1|x) q(z2|z1).

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..guides.diagonal import Diagonal
from ..nn.likelihoods import Likelihood
from ..nn.networks import mlp
from ..priors.standard import StandardNormal
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Layer(nn.Module):
    """One stochastic layer: the distribution that a head makes of the features of a network."""

    def __init__(self, net: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = head

    def forward(self, a: Tensor) -> Any:
        return self.head(self.net(a))


class Model(nn.Module):
    """z2 ~ N(0, I); z1 ~ N(mu(z2), diag sigma(z2)^2); x ~ likelihood(decoder(z1))."""

    def __init__(self, latent2: int, down: nn.Module, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = StandardNormal(latent2)
        self.down = down
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.down(z2))
            return pyro.sample("x", self.likelihood(self.decoder(z1)), obs=x)


class Guide(nn.Module):
    """z1 ~ head(encoder(x)); z2 ~ up(z1)."""

    def __init__(self, encoder: nn.Module, head: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.up = up

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            z1 = pyro.sample("z1", self.head(self.encoder(x)))
            return pyro.sample("z2", self.up(z1))


@with_networks
def hierarchical(
    networks: Networks,
    *,
    latent: Sequence[int] = (100, 50),
    hidden2: Sequence[int] = (100, 100),
    guide: Choice = "diagonal",
) -> Pair:
    """The two-layer model of the IWAE paper.

    Args:
        latent: dimensions of z1 and z2.
        hidden2: widths between z1 and z2.
        guide: family of q(z1|x) and of q(z2|z1): diagonal, full, flow or mixture.

    Example:
        $ ppl-vae train hierarchical --latent 20,10 --hidden2 50 --epochs 50 --batch-size 64 --lr 2e-3
            --schedule linear --num-samples 1000
    """
    if len(latent) != 2 or not hidden2:
        raise UserError(
            f"latent={tuple(latent)}, hidden2={tuple(hidden2)}: give two latent sizes, such as (100, 50), and at least "
            f"one layer between them"
        )
    latent1, latent2 = latent
    p, encoder, decoder = networks.make(latent1)
    act = networks.activation
    down = Layer(mlp((latent2,), None, hidden2[::-1], act), Diagonal(hidden2[0], latent1))
    up_net = mlp((latent1,), None, hidden2, act)
    up = Layer(up_net, construct("guide", guide, hidden2[-1], latent2, instance=False))
    head = construct("guide", guide, encoder.features, latent1)
    return Pair(Model(latent2, down, decoder, p), Guide(encoder, head, up))
