"""A VAE whose latents are bits: z_i ~ Bernoulli(p_i), x ~ p(x | decoder(z)), q(z|x) independent bits.

Mnih, Gregor: Neural Variational Inference and Learning in Belief Networks, 2014, arXiv:1402.0030.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


class Bits(nn.Module):
    """Independent bits with learned logits, which start at 0."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent))

    def forward(self) -> Any:
        return dist.Bernoulli(logits=self.logits).to_event(1)


class Guide(nn.Module):
    """z ~ Bernoulli(logits(encoder(x)))."""

    def __init__(self, encoder: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.logits = nn.Linear(features, latent)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", dist.Bernoulli(logits=self.logits(self.encoder(x))).to_event(1))


@with_networks
def binary(networks: Networks, *, latent: int = 50) -> Pair:
    """A VAE with binary latents: train it by vimco, rws, score or tvo.

    Args:
        latent: bits.

    Example:
        $ ppl-vae train binary --latent 30 --objective vimco --num-particles 8 --epochs 50 --batch-size 64
            --lr 2e-3 --schedule linear --num-samples 1000
    """
    p, encoder, decoder = networks.make(latent)
    return Pair(Model(Bits(latent), decoder, p), Guide(encoder, encoder.features, latent))
