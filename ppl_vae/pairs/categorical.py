r"""Latents that are classes, relaxed: several groups of a one-hot vector each, made continuous by Gumbel noise.

.. math:: s = \operatorname{softmax}((\log \alpha + g) / \tau), \quad g \sim \operatorname{Gumbel}, \qquad x \sim p(x|s)

The same relaxation is in model and guide, so the ELBO bounds log p(x) of the relaxed model, and every estimate is of
that. It says nothing on the model with classes that are drawn, which another temperature is nearer to.

Maddison, Mnih, Teh: The Concrete Distribution, 2016, arXiv:1611.00712. Jang, Gu, Poole: Categorical Reparameterization
with Gumbel-Softmax, 2016, arXiv:1611.01144.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..nn.concrete import Concrete, one_hot
from ..nn.likelihoods import positive
from .base import Pair
from .networks import Networks, with_networks
from .vae import Guide, Model


class Relaxed(nn.Module):
    """Features (*, F) to groups of a relaxed class each, by their log ratios (groups, classes - 1)."""

    def __init__(self, features: int, groups: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.shape = (groups, classes)
        self.linear = nn.Linear(features, groups * classes)

    def forward(self, h: Tensor) -> Any:
        return Concrete(self.temperature, self.linear(h).unflatten(-1, self.shape)).to_event(1)


class Uniform(nn.Module):
    """The same with equal probabilities."""

    logits: Tensor

    def __init__(self, groups: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("logits", torch.zeros(groups, classes), persistent=False)

    def forward(self) -> Any:
        return Concrete(self.temperature, self.logits).to_event(1)


class FromClasses(nn.Module):
    """The decoder of relaxed one-hot vectors."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Any:
        return self.decoder(one_hot(z).flatten(-2))


@with_networks
def categorical(networks: Networks, *, latent: int = 20, classes: int = 10, temperature: float = 0.5) -> Pair:
    """A VAE with relaxed categorical latents (Gumbel-softmax); log p(x) is that of the relaxed model.

    Args:
        latent: groups.
        classes: classes in each group.
        temperature: of the relaxation, in model and guide; a lower one is nearer to classes, with noisier gradients.
    """
    if classes < 2:
        raise UserError(f"classes={classes}: at least two are needed")
    positive("temperature", temperature)
    p, encoder, decoder = networks.make(latent * classes)
    prior = Uniform(latent, classes, temperature)
    head = Relaxed(encoder.features, latent, classes, temperature)
    return Pair(Model(prior, FromClasses(decoder), p), Guide(encoder, head))
