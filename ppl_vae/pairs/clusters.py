r"""A VAE whose prior is a mixture with its class as a site: c, z given c, x given z. The class is summed out.

.. math:: p(x, z) = \sum_c \pi_c \, N(z; \mu_c, \sigma_c^2) \, p(x|z), \qquad
          p(c|x) = E_{z \sim p(z|x)} [\pi_c N(z; \mu_c, \sigma_c^2) / p(z)]

Dilokthanakul et al.: Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders, 2016,
arXiv:1611.02648. Jiang, Zheng, Tan, Tang, Zhou: Variational Deep Embedding, 2016, arXiv:1611.05148.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..nn.likelihoods import Likelihood
from .base import Pair, data_plate, drawn_class
from .networks import Networks, with_networks
from .vae import Guide


class Model(nn.Module):
    """c ~ Categorical(pi); z ~ N(mu_c, sigma_c^2); x ~ likelihood(decoder(z))."""

    missing_labels = True  # -1: the class is summed out

    def __init__(self, num_classes: int, latent: int, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.logits = nn.Parameter(torch.zeros(num_classes))
        self.loc = nn.Parameter(torch.randn(num_classes, latent))
        self.log_scale = nn.Parameter(torch.zeros(num_classes, latent))
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            c = drawn_class(self.logits, x, y)
            z = pyro.sample("z", dist.Normal(self.loc[c], self.log_scale[c].exp()).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


@with_networks
def clusters(networks: Networks, *, num_classes: int, latent: int = 10, guide: Choice = "diagonal") -> Pair:
    """A VAE with clusters: ``pv.posterior(...).probs["c"]`` is p(c | x), and labels may be given for some examples.

    Args:
        num_classes: clusters, or labels 0 ... num_classes - 1; y is -1 where the label is not known.
        latent: latent dimensions.
        guide: family of q(z|x): diagonal, full, flow or mixture.

    Example:
        $ ppl-vae train clusters --labels 50 --latent 5 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
            --num-samples 1000
    """
    p, encoder, decoder = networks.make(latent)
    head = construct("guide", guide, encoder.features, latent)
    return Pair(Model(num_classes, latent, decoder, p), Guide(encoder, head))
