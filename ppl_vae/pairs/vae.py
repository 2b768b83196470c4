"""The variational autoencoder: z ~ N(0, I), x ~ p(x | decoder(z)), q(z|x) a family of distributions.

Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.
"""

from __future__ import annotations

from typing import Any

import pyro
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..nn.likelihoods import Likelihood
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Model(nn.Module):
    """z ~ prior; x ~ likelihood(decoder(z))."""

    pictured = "auto"  # how the figures draw an example

    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())  # (*, latent)
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(nn.Module):
    """z ~ head(encoder(x)), where the head is a family of ``guides``."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.head(self.encoder(x)))


@with_networks
def vae(networks: Networks, *, latent: int = 50, guide: Choice = "diagonal", prior: Choice = "standard") -> Pair:
    """A VAE with fully connected or convolutional networks.

    Args:
        latent: latent dimensions.
        guide: family of q(z|x): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, vamp, flow or laplace.

    Example:
        $ ppl-vae train vae --latent 10 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear --num-samples 1000
    """
    p, encoder, decoder = networks.make(latent)
    head = construct("guide", guide, encoder.features, latent)
    prior = make_prior(prior, latent, nn.Sequential(encoder, head), networks.data_shape, networks.data_mean)
    return Pair(Model(prior, decoder, p), Guide(encoder, head))
