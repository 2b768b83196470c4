"""Latents in layers: p(z_T) p(z_(T-1)|z_T) ... p(x|z_1), with the bottom-up guide q(z_1|x) q(z_2|z_1) ...

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

Head = Callable[[int, int], nn.Module]  # (features, size) to a module that gives a distribution


class Layer(nn.Module):
    """One stochastic layer: the distribution that a head makes of the features of a network."""

    def __init__(self, net: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = head

    def forward(self, a: Tensor) -> Any:
        return self.head(self.net(a))


class Model(nn.Module):
    """z_T ~ prior; z_i ~ down_i(z_(i+1)); x ~ likelihood(decoder(z_1)). Sites and layers are named from x upwards."""

    def __init__(
        self, sites: Sequence[str], prior: nn.Module, down: Mapping[str, nn.Module], decoder: nn.Module, p: Likelihood
    ) -> None:
        super().__init__()
        self.sites, self.down_names = tuple(sites), tuple(down)
        self.prior = prior
        for name, layer in down.items():
            self.add_module(name, layer)
        self.decoder = decoder
        self.likelihood = p

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample(self.sites[-1], self.prior())
            for site, down in reversed([*zip(self.sites, self.down_names, strict=False)]):
                z = pyro.sample(site, self.get_submodule(down)(z))
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(nn.Module):
    """z_1 ~ the first layer of encoder(x); z_(i+1) ~ the next one of z_i."""

    def __init__(self, sites: Sequence[str], encoder: nn.Module, up: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sites, self.up_names = tuple(sites), tuple(up)
        self.encoder = encoder
        for name, layer in up.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            z = self.encoder(x)
            for site, up in zip(self.sites, self.up_names, strict=True):
                z = pyro.sample(site, self.get_submodule(up)(z))
            return z


def chain(
    name: str, steps: Iterable[tuple[int, int]], width: Sequence[int], act: Choice, head: Head
) -> dict[str, nn.Module]:
    """Layers (given, size) from x upwards: up, up2, up3, ... The first has no number, as in runs of two layers."""
    return {
        f"{name}{i if i > 1 else ''}": Layer(mlp((given,), None, width, act), head((given, *width)[-1], size))
        for i, (given, size) in enumerate(steps, 1)
    }


def sizes_of(latent: Sequence[int], hidden2: Sequence[int] | None = None) -> tuple[int, ...]:
    """The sizes of the layers; with ``hidden2``, of Gaussian ones.

    Raises:
        UserError: there is none, or one below 1, or no bounded layer before a scale, which would be exp of a latent.
    """
    if min(latent, default=0) < 1 or (hidden2 is not None and not hidden2):
        between = "" if hidden2 is None else ", and in hidden2 at least one width between them"
        raise UserError(
            f"latent={tuple(latent)}, hidden2={tuple(hidden2 or ())}: give the size of each layer of latents from the "
            f"data upwards, such as (100, 50){between}"
        )
    return tuple(latent)


@with_networks
def hierarchical(
    networks: Networks,
    *,
    latent: Sequence[int] = (100, 50),
    hidden2: Sequence[int] = (100, 100),
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """A chain of Gaussian layers, with a guide from the data upwards; two are the model of the IWAE paper.

    Args:
        latent: dimensions of z1, z2, ..., from the data upwards.
        hidden2: widths between two layers of latents, from the data upwards.
        guide: family of q(z1|x), q(z2|z1), ...: diagonal, full, flow or mixture.
        prior: family of p(z) of the top layer: standard, mixture, flow or laplace.
    """
    sizes = sizes_of(latent, hidden2)
    p, encoder, decoder = networks.make(sizes[0])
    family = partial(construct, "guide", guide, instance=len(sizes) == 1)  # one module serves one layer
    down = chain("down", zip(sizes[1:], sizes, strict=False), hidden2[::-1], networks.activation, Diagonal)
    up = chain("up", pairwise(sizes), hidden2, networks.activation, family)
    head = family(encoder.features, sizes[0])
    top = make_prior(prior, sizes[-1], None, networks.data_shape)
    sites = [f"z{i + 1}" for i in range(len(sizes))]
    return Pair(Model(sites, top, down, decoder, p), Guide(sites, encoder, {"head": head, **up}))
