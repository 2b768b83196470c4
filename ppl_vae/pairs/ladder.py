r"""Latents in layers with a guide from the top down, which corrects the model's own prediction of each layer.

.. math:: q(z_i | z_{i+1}, x) \propto N(z_i; \mu_i(d_i), \sigma_i(d_i)^2)\, p(z_i | z_{i+1}), \qquad d_i = f_i(d_{i-1})

Soenderby, Raiko, Maaloe, Soenderby, Winther: Ladder Variational Autoencoders, 2016, arXiv:1602.02282.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..common.choices import Choice
from ..guides.diagonal import Diagonal
from ..nn.networks import mlp
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .hierarchical import Model, chain, sizes_of
from .networks import Networks, with_networks


class Guide(nn.Module):
    """d_1 = encoder(x), d_i = up_i(d_(i-1)); z_T ~ head_T(d_T); z_i ~ head_i(d_i) times the model's down_i(z_(i+1))."""

    def __init__(self, encoder: nn.Module, up: Sequence[nn.Module], heads: Sequence[nn.Module], model: Model) -> None:
        super().__init__()
        self.encoder = encoder
        self.up = nn.ModuleList(up)
        self.heads = nn.ModuleList(heads)
        self.model = model

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        d = [self.encoder(x)]
        for up in self.up:
            d.append(up(d[-1]))
        *below, top = (head(h) for head, h in zip(self.heads, d, strict=True))
        with data_plate(x, 1):
            z = pyro.sample(self.model.sites[-1], top)
            layers = zip(self.model.sites, self.model.down_names, below, strict=False)
            for site, down, q in reversed([*layers]):
                z = pyro.sample(site, product(q, self.model.get_submodule(down)(z)))
            return z


def product(a: Any, b: Any) -> Any:
    """The product of two diagonal Gaussians, normalised: precisions add up, and weigh the means."""
    precisions = [n.base_dist.scale ** -2 for n in (a, b)]
    variance = 1 / sum(precisions)
    loc = variance * sum(w * n.base_dist.loc for w, n in zip(precisions, (a, b), strict=True))
    return dist.Normal(loc, variance.sqrt()).to_event(1)


@with_networks
def ladder(
    networks: Networks,
    *,
    latent: Sequence[int] = (100, 50),
    hidden2: Sequence[int] = (100, 100),
    prior: Choice = "standard",
) -> Pair:
    """The model of ``hierarchical`` with a guide from the top down that shares its networks (ladder VAE).

    Args:
        latent: dimensions of z1, z2, ..., from the data upwards.
        hidden2: widths between two layers of latents, from the data upwards.
        prior: family of p(z) of the top layer: standard, mixture, vamp, flow or laplace.
    """
    sizes, act = sizes_of(latent, hidden2), networks.activation
    p, encoder, decoder = networks.make(sizes[0])
    down = chain("down", zip(sizes[1:], sizes, strict=False), hidden2[::-1], act, Diagonal)
    features = [encoder.features, *[hidden2[-1]] * (len(sizes) - 1)]
    up = [mlp((h,), None, hidden2, act) for h in features[:-1]]
    heads = [Diagonal(h, size) for h, size in zip(features, sizes, strict=True)]
    encode = nn.Sequential(encoder, *up, heads[-1])
    top = make_prior(prior, sizes[-1], encode, networks.data_shape, networks.data_mean)
    model = Model([f"z{i + 1}" for i in range(len(sizes))], top, down, decoder, p)
    return Pair(model, Guide(encoder, up, heads, model))
