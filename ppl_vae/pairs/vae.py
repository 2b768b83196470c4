"""The variational autoencoder: z ~ N(0, I), x ~ p(x | decoder(z)), q(z|x) a diagonal Gaussian.

Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ..nn import likelihoods
from ..nn.networks import Encoder, GaussianHead
from .base import Pair, StandardNormal, data_plate, encoder_decoder


class Model(nn.Module):
    """z ~ prior; x ~ likelihood(decoder(z))."""

    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: likelihoods.Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())  # (*, latent)
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(nn.Module):
    """z ~ N(mu(x), diag sigma(x)^2)."""

    def __init__(self, encoder: Encoder, latent: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = GaussianHead(encoder.features, latent)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.head(self.encoder(x)))


def vae(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    latent: int = 50,
    hidden: Sequence[int] = (200, 200),
    likelihood: str = "bernoulli",
    sigma: float = 1.0,
    network: str = "mlp",
    activation: str = "tanh",
) -> Pair:
    """A VAE with MLP or convolutional networks.

    Args:
        data_shape: shape of one datum.
        data_mean: mean of the training data; sets the output bias, which is worth about 1 nat on MNIST.
        latent: latent dimensions.
        hidden: widths (or channels) from the data inwards; the decoder mirrors them.
        likelihood: bernoulli, gaussian, gaussian_learned, gaussian_diagonal,
            gaussian_network, continuous_bernoulli or discretized.
        sigma: the fixed, or the first, standard deviation of a Gaussian likelihood.
        network: mlp, or conv (conv1d, conv2d, conv3d say over how many dimensions).
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.

    Raises:
        UserError: a name that is not known, or a size that does not fit.
    """
    p = likelihoods.make(likelihood, data_shape, sigma)
    encoder, decoder = encoder_decoder(p, data_shape, latent, hidden, network, activation, data_mean)
    return Pair(Model(StandardNormal(latent), decoder, p), Guide(encoder, latent))
