"""The conditional VAE: labels in the model and in the guide, p(z)p(x|z,y) and q(z|x,y).

Sohn, Lee, Yan: Learning Structured Output Representation using Deep Conditional Generative Models, 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ..common.errors import UserError
from ..nn import likelihoods
from ..nn.networks import Encoder, GaussianHead, cat
from .base import Pair, StandardNormal, data_plate, encoder_decoder


class Model(nn.Module):
    """z ~ N(0, I); x ~ likelihood(decoder(z, y)). Without data or labels, y is drawn uniformly."""

    def __init__(self, latent: int, num_classes: int, decoder: nn.Module, likelihood: likelihoods.Likelihood) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.prior = StandardNormal(latent)
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            if x is None and y is None:
                y = torch.randint(self.num_classes, (n,), device=z.device)
            h = self.decoder(cat(z, _codes(y, self.num_classes, z)))
            return pyro.sample("x", self.likelihood(h), obs=x)


class Guide(nn.Module):
    """z ~ N(mu(x, y), diag sigma(x, y)^2)."""

    def __init__(self, encoder: Encoder, latent: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = encoder
        self.head = GaussianHead(encoder.features, latent)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.head(self.encoder(x, _codes(y, self.num_classes, x))))


def _codes(y: Tensor | None, num_classes: int, like: Tensor) -> Tensor:
    """Labels (B,) to one-hot codes (B, C)."""
    if y is None:
        raise UserError("this pair is conditional: give labels y with the data")
    try:
        return embedding(y, torch.eye(num_classes, dtype=like.dtype, device=like.device))
    except (IndexError, RuntimeError) as error:
        raise UserError(f"labels must be whole numbers from 0 to {num_classes - 1}: {error}") from None


def cvae(
    *,
    data_shape: Sequence[int],
    num_classes: int,
    data_mean: Tensor | None = None,
    latent: int = 20,
    hidden: Sequence[int] = (200, 200),
    likelihood: str = "bernoulli",
    sigma: float = 1.0,
    network: str = "mlp",
    activation: str = "tanh",
) -> Pair:
    """A VAE given labels; ``log_likelihood`` is log p(x | y).

    Args:
        data_shape: shape of one datum.
        num_classes: number of labels; y holds 0 ... num_classes - 1.
        data_mean: mean of the training data; sets the output bias.
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
    encoder, decoder = encoder_decoder(p, data_shape, latent, hidden, network, activation, data_mean, num_classes)
    return Pair(Model(latent, num_classes, decoder, p), Guide(encoder, latent, num_classes))
