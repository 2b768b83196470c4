r"""The conditional VAE: y in the model and in the guide. It is a class, or a vector, such as another part of an image.

.. math:: p(x|y) = \int p(z) \, p(x|z, y) \, dz, \qquad q(z|x, y)

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
from ..nn.networks import cat, flat
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Model(nn.Module):
    """z ~ prior; x ~ likelihood(decoder(z, y)). Without data or labels, a class is drawn uniformly."""

    def __init__(self, prior: nn.Module, codes: Codes, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.num_classes = codes.num_classes or None
        self.prior = prior
        self.codes = codes
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            if x is None and y is None and self.num_classes:
                y = torch.randint(self.num_classes, (n,), device=z.device)
            return pyro.sample("x", self.likelihood(self.decoder(cat(z, self.codes(y, z)))), obs=x)


class Guide(nn.Module):
    """z ~ head(encoder(x, y)), where the head is a family of ``guides``."""

    def __init__(self, encoder: nn.Module, head: nn.Module, codes: Codes) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.codes = codes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.head(self.encoder(x, self.codes(y, x))))


class Codes(nn.Module):
    """Classes (B,) to one-hot codes (B, C); vectors (B, ...) as they are, flat: (B, D)."""

    def __init__(self, num_classes: int, label_size: int) -> None:
        super().__init__()
        self.num_classes, self.label_size = num_classes, label_size

    def forward(self, y: Tensor | None, like: Tensor) -> Tensor:
        if y is None:
            raise UserError("this pair is conditional: give labels y with the data")
        if not self.num_classes:
            h = flat(y, y.dim() - 1).to(like.dtype) if y.dim() > 1 else y[:, None].to(like.dtype)
            if h.shape[-1] != self.label_size:
                raise UserError(f"y has {h.shape[-1]} numbers for each example, and this pair takes {self.label_size}")
            return h
        try:
            return embedding(y, torch.eye(self.num_classes, dtype=like.dtype, device=like.device))
        except (IndexError, RuntimeError) as error:
            raise UserError(f"labels must be whole numbers from 0 to {self.num_classes - 1}: {error}") from None


@with_networks
def cvae(
    networks: Networks,
    *,
    num_classes: int = 0,
    label_size: int = 0,
    latent: int = 20,
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """A VAE given labels; ``log_likelihood`` is log p(x | y).

    Args:
        num_classes: number of classes; y holds 0 ... num_classes - 1. 0 where y is a vector.
        label_size: numbers of y, where it is a vector.
        latent: latent dimensions.
        guide: family of q(z|x, y): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, flow or laplace.

    Raises:
        UserError: neither classes nor vectors, or both.

    Example:
        $ ppl-vae train cvae --latent 10 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear --num-samples 1000
    """
    if (num_classes > 0) == (label_size > 0):
        raise UserError(
            f"num_classes={num_classes}, label_size={label_size}: give one of them, from data with labels, "
            f"classes 0, 1, 2 ... or vectors"
        )
    codes = Codes(num_classes, label_size)
    p, encoder, decoder = networks.make(latent, extra=num_classes + label_size)
    head = construct("guide", guide, encoder.features, latent)
    pz = make_prior(prior, latent, None, networks.data_shape)
    return Pair(Model(pz, codes, decoder, p), Guide(encoder, head, codes))
