"""The autoencoder as a pair: a Delta guide under a masked prior, so the ELBO is the reconstruction log-likelihood.

Hinton, Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, 2006.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..nn.networks import MLP, Encoder
from ..priors.standard import StandardNormal
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


class Free(StandardNormal):
    """N(0, I) for sampling, masked in every density: z is unconstrained in training."""

    def forward(self) -> Any:
        return super().forward().mask(False)


class Guide(nn.Module):
    """z = f(x)."""

    def __init__(self, encoder: Encoder, latent: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = MLP((encoder.features, latent))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", dist.Delta(self.code(self.encoder(x)), event_dim=1))


@with_networks
def autoencoder(networks: Networks, *, latent: int = 20) -> Pair:
    """A deterministic autoencoder, trained by ``Trace_ELBO`` on log p(x | z = f(x)).

    Args:
        latent: width of the code.

    Example:
        $ ppl-vae train autoencoder --latent 2 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
    """
    p, encoder, decoder = networks.make(latent)
    return Pair(Model(Free(latent), decoder, p), Guide(encoder, latent))
