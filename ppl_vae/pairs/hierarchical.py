r"""Latents in layers, each given the one above it, with a guide from the data upwards.

.. math:: p(x, z) = p(z_T) \prod_{i<T} p(z_i|z_{i+1})\; p(x|z_1), \qquad q(z|x) = q(z_1|x) \prod_{i<T} q(z_{i+1}|z_i)

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..guides.diagonal import Diagonal
from ..nn.likelihoods import Likelihood
from ..nn.networks import mlp
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Model(nn.Module):
    """z_T ~ prior; z_i ~ the next layer of ``down`` at z_(i+1); x ~ likelihood(decoder(z_1))."""

    def __init__(self, prior: nn.Module, down: Sequence[nn.Module], decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.top, *self.below = names_of(len(down) + 1)[::-1]
        self.prior = prior
        self.down = nn.ModuleList(down)  # from the top
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample(self.top, self.prior())
            for name, layer in zip(self.below, self.down, strict=True):
                z = pyro.sample(name, layer(z))
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(nn.Module):
    """z_1 ~ the first layer of ``up`` at encoder(x); z_(i+1) ~ the next one at z_i."""

    def __init__(self, encoder: nn.Module, up: Sequence[nn.Module]) -> None:
        super().__init__()
        self.names = names_of(len(up))
        self.encoder = encoder
        self.up = nn.ModuleList(up)  # from the data

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            z = self.encoder(x)
            for name, layer in zip(self.names, self.up, strict=True):
                z = pyro.sample(name, layer(z))
            return z


def names_of(layers: int) -> list[str]:
    """z1, z2, ... from the data upwards; z where there is one layer."""
    return ["z"] if layers == 1 else [f"z{i + 1}" for i in range(layers)]


def chain(
    sizes: Sequence[int], hidden: Sequence[int], act: Choice, head: Callable[[int, int], nn.Module]
) -> list[nn.Module]:
    """From each size to the next: fully connected layers, and the distribution that a head makes of them."""
    return [nn.Sequential(mlp((a,), None, hidden, act), head((a, *hidden)[-1], b)) for a, b in pairwise(sizes)]


def refuse_sizes(latent: Sequence[int], hidden2: Sequence[int] | None = None) -> None:
    """Refuse layers without a size, and Gaussian ones with nothing bounded between them.

    Raises:
        UserError: says what to give.
    """
    if min(latent, default=0) < 1:
        raise UserError(
            f"latent={tuple(latent)}: give the size of each layer of latents from the data upwards, such as (100, 50)"
        )
    if hidden2 is not None and not hidden2:
        raise UserError("hidden2=(): give at least one width between the layers, or a scale is the exp of a latent")


@with_networks
def hierarchical(
    networks: Networks,
    *,
    latent: Sequence[int] = (100, 50),
    hidden2: Sequence[int] = (100, 100),
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """Gaussian latents in any number of layers, with a guide from the data upwards; two are those of the IWAE paper.

    Args:
        latent: dimensions of z1, z2, ..., from the data upwards.
        hidden2: widths between two layers of latents, from the data upwards.
        guide: family of q(z1|x), q(z2|z1), ...: diagonal, full, flow or mixture.
        prior: family of p(z) of the top layer: standard, mixture, flow or laplace.

    Example:
        $ ppl-vae train hierarchical --latent 20,10 --hidden2 50 --epochs 50 --batch-size 64 --lr 2e-3
            --schedule linear --num-samples 1000
    """
    refuse_sizes(latent, hidden2)
    p, encoder, decoder = networks.make(latent[0])
    family = partial(construct, "guide", guide, instance=len(latent) == 1)  # one module serves one layer
    down = chain(latent[::-1], hidden2[::-1], networks.activation, Diagonal)
    up = [family(encoder.features, latent[0]), *chain(latent, hidden2, networks.activation, family)]
    top = make_prior(prior, latent[-1], None, networks.data_shape)
    return Pair(Model(top, down, decoder, p), Guide(encoder, up))
