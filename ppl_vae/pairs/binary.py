r"""Latents that are bits, in any number of layers: a sigmoid belief net, with a guide of the same kind from x upwards.

.. math:: p(x, z) = p(z_T) \prod_{i<T} p(z_i|z_{i+1})\; p(x|z_1), \qquad z_i \in \{0, 1\}^{L_i}

The bits of a layer are independent given the layer before it. Neal: Connectionist Learning of Belief Networks, 1992.
Mnih, Gregor: Neural Variational Inference and Learning in Belief Networks, 2014, arXiv:1402.0030.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import Pair
from .hierarchical import Guide, Model, chain, refuse_sizes
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
    """Layers of binary latents, or one: train it by vimco, rws, score or tvo.

    Args:
        latent: bits; or those of each layer, from the data upwards.
        hidden2: widths between two layers of bits, from the data upwards; none in a sigmoid belief net.

    Example:
        $ ppl-vae train binary --latent 30 --objective vimco --num-particles 8 --epochs 50 --batch-size 64
            --lr 2e-3 --schedule linear --num-samples 1000
    """
    sizes = (latent,) if isinstance(latent, int) else latent
    refuse_sizes(sizes)
    p, encoder, decoder = networks.make(sizes[0])
    down = chain(sizes[::-1], hidden2[::-1], networks.activation, BitsGiven)
    up = [BitsGiven(encoder.features, sizes[0]), *chain(sizes, hidden2, networks.activation, BitsGiven)]
    return Pair(Model(Bits(sizes[-1]), down, decoder, p), Guide(encoder, up))
