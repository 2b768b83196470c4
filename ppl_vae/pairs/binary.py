"""Latents that are bits, in any number of layers: a sigmoid belief net p(z_T) ... p(z_1|z_2) p(x|z_1).

Every layer of the model and of the bottom-up guide is independent bits given the layer before it. Neal: Connectionist
Learning of Belief Networks, 1992. Mnih, Gregor: Neural Variational Inference and Learning in Belief Networks, 2014,
arXiv:1402.0030.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import Pair
from .hierarchical import Guide, Model, chain, sizes_of
from .networks import Networks, with_networks


class Bits(nn.Module):
    """Independent bits with learned logits, which start at 0."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent))

    def forward(self) -> Any:
        return dist.Bernoulli(logits=self.logits).to_event(1)


class BitsGiven(nn.Linear):
    """Independent bits whose logits are linear in the features."""

    def forward(self, h: Tensor) -> Any:
        return dist.Bernoulli(logits=super().forward(h)).to_event(1)


@with_networks
def binary(networks: Networks, *, latent: int | Sequence[int] = 50, hidden2: Sequence[int] = ()) -> Pair:
    """A VAE with one or several layers of binary latents: train it by vimco, rws, score or tvo.

    Args:
        latent: bits; or those of z1, z2, ..., from the data upwards.
        hidden2: widths between two layers of bits, from the data upwards; none in a sigmoid belief net.
    """
    sizes = sizes_of((latent,) if isinstance(latent, int) else latent)
    p, encoder, decoder = networks.make(sizes[0])
    prior, logits = Bits(sizes[-1]), BitsGiven(encoder.features, sizes[0])
    down = chain("down", zip(sizes[1:], sizes, strict=False), hidden2[::-1], networks.activation, BitsGiven)
    up = chain("up", pairwise(sizes), hidden2, networks.activation, BitsGiven)
    sites = ["z"] if len(sizes) == 1 else [f"z{i + 1}" for i in range(len(sizes))]
    return Pair(Model(sites, prior, down, decoder, p), Guide(sites, encoder, {"logits": logits, **up}))
