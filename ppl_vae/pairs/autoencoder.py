r"""Autoencoders: a code z = f(x); the ELBO is the reconstruction log-likelihood, plus log p(z) where that counts.

.. math:: \max \log p(x | z = f(\tilde x)) + \log p(z)

Hinton, Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, 2006. With noise: Vincent, Larochelle,
Bengio, Manzagol: Extracting and Composing Robust Features with Denoising Autoencoders, 2008.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.networks import MLP, Encoder, Mirror
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


def prior_of_codes(given: Choice, latent: int) -> nn.Module:
    """The prior of a deterministic code.

    Raises:
        UserError: a prior that learns: it and the codes would shrink together, to a density without limit.
    """
    prior: nn.Module = construct("prior", given, latent)
    if any(p.requires_grad for p in prior.parameters()):
        raise UserError("prior of an autoencoder: one that learns shrinks with the codes; choose fitted or laplace")
    return prior


class Corrupt(nn.Module):
    """x with Gaussian noise, and then with some of its numbers set to zero; in training only."""

    def __init__(self, noise: float, drop: float) -> None:
        super().__init__()
        if not (noise >= 0 and 0 <= drop < 1):
            raise UserError(f"noise={noise}, drop={drop}: give a noise of at least 0, and a share from 0 to below 1")
        self.noise, self.drop = noise, drop

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        return x * (torch.rand_like(x) >= self.drop) if self.training and self.drop else x


class Guide(nn.Module):
    """z = f(x~)."""

    def __init__(self, encoder: Encoder, latent: int, corrupt: Corrupt) -> None:
        super().__init__()
        self.corrupt = corrupt
        self.encoder = encoder
        self.code = MLP((encoder.features, latent))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", dist.Delta(self.code(self.encoder(self.corrupt(x))), event_dim=1))


@with_networks
def autoencoder(
    networks: Networks, *, latent: int = 20, prior: Choice = "fitted", noise: float = 0.0, drop: float = 0.0,
    tied: bool = False,
) -> Pair:  # fmt: skip
    """A deterministic code, trained on log p(x | z = f(x)): plain, denoising, sparse by L1, linear, with tied weights.

    Args:
        latent: width of the code.
        prior: fitted (z is free, and a mixture is fitted to the codes after training, for samples); or a family that
            counts in training, such as laplace:scale=0.1 for sparse codes.
        noise: standard deviation of the noise that the encoder sees in training.
        drop: share of the numbers of x that the encoder sees as zero in training.
        tied: whether the decoder has the encoder's weights, transposed (network mlp).

    Raises:
        UserError: a noise or a share out of range; a prior that learns; tied weights with other networks, or two
            outputs for a number.

    Example:
        $ ppl-vae train autoencoder --latent 2 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
    """
    p, encoder, decoder = networks.make(latent)
    guide = Guide(encoder, latent, Corrupt(noise, drop))
    if tied:
        decoder.net = Mirror(nn.Sequential(encoder, guide.code), decoder.net, networks.activation)
    return Pair(Model(prior_of_codes(prior, latent), decoder, p), guide)
