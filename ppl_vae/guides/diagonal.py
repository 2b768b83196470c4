"""Independent Gaussians."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from ..nn.networks import linears


class Diagonal(nn.Module):
    r"""A Gaussian with a diagonal covariance, both from one linear map of the features h (*, features).

    .. math:: q(z|x) = \prod_i N(z_i; \mu_i(h), \sigma_i(h)^2), \qquad (\mu, \log \sigma) = A h + b

    Use by default: it is the cheapest, and the one of most published results.

    Args:
        features: width of the features.
        latent: width of z.

    Source: Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.

    Example:
        >>> import torch
        >>> Diagonal(8, 3)(torch.zeros(5, 8)).batch_shape, Diagonal(8, 3)(torch.zeros(5, 8)).event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.linear = linears(features, latent, latent)

    def forward(self, h: Tensor) -> Any:
        loc, log_scale = self.linear(h).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)
