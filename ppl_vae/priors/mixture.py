"""A mixture of Gaussians with learned means, scales and weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..nn.distributions import GaussianMixture


class Mixture(nn.Module):
    r"""A mixture of diagonal Gaussians that is learned with the model.

    .. math:: p(z) = \sum_c \pi_c \prod_i N(z_i; \mu_{ci}, \sigma_{ci}^2)

    Means start at draws of N(0, I), scales at 1. The pair ``clusters`` has the same prior with its class as a site.

    Use when the data have groups, and the standard normal leaves the guide's average far from it.

    Args:
        latent: width of z.
        components: Gaussians in the mixture.

    Source: Dilokthanakul et al.: Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders, 2016,
    arXiv:1611.02648.

    Example:
        >>> Mixture(3, components=2)().event_shape
        torch.Size([3])
    """

    def __init__(self, latent: int, components: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent))
        self.log_scale = nn.Parameter(torch.zeros(components, latent))

    def forward(self) -> Any:
        return GaussianMixture(self.logits, self.loc, self.log_scale.exp())
