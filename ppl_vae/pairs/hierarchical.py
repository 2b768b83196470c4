"""Two latent layers: p(z2) p(z1|z2) p(x|z1), with the bottom-up guide q(z1|x) q(z2|z1).

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ..common.errors import UserError
from ..nn import likelihoods
from ..nn.networks import MLP, Encoder, GaussianHead, activation as make_activation
from .base import Pair, StandardNormal, data_plate, encoder_decoder


class GaussianLayer(nn.Module):
    """One stochastic layer: a (*, size) to a diagonal Gaussian over (latent,)."""

    def __init__(self, size: int, hidden: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        self.net = nn.Sequential(MLP((size, *hidden), activation), make_activation(activation))
        self.head = GaussianHead(hidden[-1], latent)

    def forward(self, a: Tensor) -> Any:
        return self.head(self.net(a))


class Model(nn.Module):
    """z2 ~ N(0, I); z1 ~ N(mu(z2), diag sigma(z2)^2); x ~ likelihood(decoder(z1))."""

    def __init__(self, latent2: int, down: nn.Module, decoder: nn.Module, likelihood: likelihoods.Likelihood) -> None:
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
    """z1 ~ N(mu(x), diag sigma(x)^2); z2 ~ N(mu(z1), diag sigma(z1)^2)."""

    def __init__(self, encoder: Encoder, latent1: int, up: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = GaussianHead(encoder.features, latent1)
        self.up = up

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            z1 = pyro.sample("z1", self.head(self.encoder(x)))
            return pyro.sample("z2", self.up(z1))


def hierarchical(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    latent: Sequence[int] = (100, 50),
    hidden: Sequence[int] = (200, 200),
    hidden2: Sequence[int] = (100, 100),
    likelihood: str = "bernoulli",
    sigma: float = 1.0,
    network: str = "mlp",
    activation: str = "tanh",
) -> Pair:
    """The two-layer model of the IWAE paper.

    Args:
        data_shape: shape of one datum.
        data_mean: mean of the training data; sets the output bias.
        latent: dimensions of z1 and z2.
        hidden: widths between x and z1.
        hidden2: widths between z1 and z2.
        likelihood: bernoulli, gaussian, gaussian_learned, gaussian_diagonal,
            gaussian_network, continuous_bernoulli or discretized.
        sigma: the fixed, or the first, standard deviation of a Gaussian likelihood.
        network: mlp, or conv, between x and z1 (conv1d, conv2d, conv3d say over how many dimensions).
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.

    Raises:
        UserError: a name that is not known, or a size that does not fit.
    """
    if len(latent) != 2 or not hidden2:
        raise UserError(
            f"latent={tuple(latent)}, hidden2={tuple(hidden2)}: give two latent sizes, such as (100, 50), and at least "
            f"one layer between them"
        )
    latent1, latent2 = latent
    p = likelihoods.make(likelihood, data_shape, sigma)
    encoder, decoder = encoder_decoder(p, data_shape, latent1, hidden, network, activation, data_mean)
    down = GaussianLayer(latent2, tuple(hidden2)[::-1], latent1, activation)
    up = GaussianLayer(latent1, hidden2, latent2, activation)
    return Pair(Model(latent2, down, decoder, p), Guide(encoder, latent1, up))
