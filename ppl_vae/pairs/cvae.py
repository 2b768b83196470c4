"""The conditional VAE: labels in the model and in the guide, p(z)p(x|z,y) and q(z|x,y).

Sohn, Lee, Yan: Learning Structured Output Representation using Deep Conditional Generative Models, 2015.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.likelihoods import Likelihood
from ..nn.networks import cat
from ..priors.standard import StandardNormal
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Model(nn.Module):
    """z ~ N(0, I); x ~ likelihood(decoder(z, y)). Without data or labels, y is drawn uniformly."""

    def __init__(self, latent: int, num_classes: int, decoder: nn.Module, likelihood: Likelihood) -> None:
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
    """z ~ head(encoder(x, y)), where the head is a family of ``guides``."""

    def __init__(self, encoder: nn.Module, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = encoder
        self.head = head

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


@with_networks
def cvae(networks: Networks, *, num_classes: int, latent: int = 20, guide: Choice = "diagonal") -> Pair:
    """A VAE given labels; ``log_likelihood`` is log p(x | y).

    Args:
        num_classes: number of labels; y holds 0 ... num_classes - 1.
        latent: latent dimensions.
        guide: family of q(z|x, y): diagonal, full, flow or mixture.

    Example:
        $ ppl-vae train cvae --latent 10 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear --num-samples 1000
    """
    p, encoder, decoder = networks.make(latent, extra=num_classes)
    head = construct("guide", guide, encoder.features, latent)
    return Pair(Model(latent, num_classes, decoder, p), Guide(encoder, head, num_classes))
