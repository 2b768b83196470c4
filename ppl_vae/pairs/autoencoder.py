"""The autoencoder as a pair: a Delta guide under a masked prior, so the ELBO is the reconstruction log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..nn import likelihoods
from ..nn.networks import MLP, Encoder
from .base import Pair, StandardNormal, data_plate, encoder_decoder
from .vae import Model


class Free(StandardNormal):
    """N(0, I) to sample from, masked out of every score: z is free."""

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


def autoencoder(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    latent: int = 20,
    hidden: Sequence[int] = (200, 200),
    likelihood: str = "bernoulli",
    sigma: float = 1.0,
    network: str = "mlp",
    activation: str = "tanh",
) -> Pair:
    """A deterministic autoencoder, trained by ``Trace_ELBO`` on log p(x | z = f(x)).

    Args:
        data_shape: shape of one datum.
        data_mean: mean of the training data; sets the output bias.
        latent: width of the code.
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
    return Pair(Model(Free(latent), decoder, p), Guide(encoder, latent))
