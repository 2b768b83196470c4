r"""Latents in layers with a guide from the top down, which corrects what the model itself predicts of each layer.

.. math:: q(z_i|z_{i+1}, x) \propto N(z_i; \mu_i(d_i), \sigma_i(d_i)^2)\; p(z_i|z_{i+1}), \qquad d_i = f_i(d_{i-1})

Sønderby, Raiko, Maaløe, Sønderby, Winther: Ladder Variational Autoencoders, 2016, arXiv:1602.02282.
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
from .hierarchical import Model, chain, refuse_sizes
from .networks import Networks, with_networks


class Guide(nn.Module):
    """d_1 = encoder(x), d_i = up_i(d_(i-1)); z_T ~ head_T(d_T); z_i ~ head_i(d_i) times the model's p(z_i|z_(i+1))."""

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
        top, *below = [head(h) for head, h in zip(self.heads, d, strict=True)][::-1]
        with data_plate(x, 1):
            z = pyro.sample(self.model.top, top)
            for name, layer, q in zip(self.model.below, self.model.down, below, strict=True):
                z = pyro.sample(name, product(q, layer(z)))
            return z


def product(a: Any, b: Any) -> Any:
    """The product of two diagonal Gaussians, normalised: the precisions add up, and weigh the means."""
    (m, v), (n, w) = ((g.base_dist.loc, g.base_dist.scale.square()) for g in (a, b))
    return dist.Normal((m * w + n * v) / (v + w), (v * w / (v + w)).sqrt()).to_event(1)


@with_networks
def ladder(
    networks: Networks,
    *,
    latent: Sequence[int] = (100, 50),
    hidden2: Sequence[int] = (100, 100),
    prior: Choice = "standard",
) -> Pair:
    """The model of ``hierarchical``, with a guide from the top down that shares its layers (ladder VAE).

    Train it with a warm-up of the KL term, or layers collapse onto what the model predicts of them.

    Args:
        latent: dimensions of z1, z2, ..., from the data upwards.
        hidden2: widths between two layers of latents, from the data upwards.
        prior: family of p(z) of the top layer: standard, mixture, vamp, flow or laplace.

    Example:
        $ ppl-vae train ladder --latent 20,10 --hidden2 50 --warmup 15 --epochs 40 --batch-size 64 --lr 2e-3
            --schedule linear --num-samples 500
    """
    refuse_sizes(latent, hidden2)
    act = networks.activation
    p, encoder, decoder = networks.make(latent[0])
    features = [encoder.features, *[hidden2[-1]] * (len(latent) - 1)]
    up = [mlp((width,), None, hidden2, act) for width in features[:-1]]
    heads = [Diagonal(width, size) for width, size in zip(features, latent, strict=True)]
    encode = nn.Sequential(encoder, *up, heads[-1])
    top = make_prior(prior, latent[-1], encode, networks.data_shape, networks.data_mean)
    model = Model(top, chain(latent[::-1], hidden2[::-1], act, Diagonal), decoder, p)
    return Pair(model, Guide(encoder, up, heads, model))
