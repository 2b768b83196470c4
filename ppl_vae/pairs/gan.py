r"""A generative adversarial network: the decoder of a VAE, and a critic in place of inference.

The model is z ~ N(0, I), x ~ p(x | G(z)). The guide knows nothing of z: it draws from the prior, and holds the critic
that the objective ``adversarial`` trains against the model. An estimate of log p(x) is one by annealing from the prior.

Goodfellow et al.: Generative Adversarial Networks, 2014, arXiv:1406.2661. Wu, Burda, Salakhutdinov, Grosse: On the
Quantitative Analysis of Decoder-Based Generative Models, 2017, arXiv:1611.04273.
"""

from __future__ import annotations

from typing import Any

import pyro
from torch import Tensor, nn

from ..nn.networks import MLP
from ..priors.standard import StandardNormal
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


class Guide(nn.Module):
    """z ~ N(0, I), whatever x is; ``critic(x)``, (B,), is the log odds that x is data."""

    def __init__(self, prior: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.critic = critic

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.prior())


@with_networks
def gan(networks: Networks, *, latent: int = 50) -> Pair:
    """A generative adversarial network, trained by the objective adversarial.

    Args:
        latent: latent dimensions.

    Example:
        $ ppl-vae train gan --latent 10 --likelihood gaussian:sigma=0.1 --activation leaky_relu
            --binarize none --epochs 150 --batch-size 64 --schedule linear --num-samples 500
    """
    p, encoder, decoder = networks.make(latent)
    critic = nn.Sequential(encoder, MLP((encoder.features, 1)), nn.Flatten(0))
    return Pair(Model(StandardNormal(latent), decoder, p), Guide(StandardNormal(latent), critic))
