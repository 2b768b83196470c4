"""A Gaussian with a full covariance."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..nn.networks import linears


class Full(nn.Module):
    r"""A Gaussian whose latent dimensions are correlated, from one linear map of the features h (*, features).

    .. math:: q(z|x) = N(z; \mu, L L^\top), \qquad L = \operatorname{diag}(\sigma)\,(I + N)

    where :math:`(\mu, \log \sigma, N) = A h + b` and N is strictly lower triangular. N starts at zero, so that training
    starts at a diagonal Gaussian.

    Use when the posterior is correlated: few observations for each latent, or a decoder that is nearly linear. The
    cost grows with latent^2.

    Args:
        features: width of the features.
        latent: width of z.

    Source: Kingma, Welling: An Introduction to Variational Autoencoders, 2019, arXiv:1906.02691, section 2.5.1.

    Example:
        >>> import torch
        >>> Full(8, 3)(torch.zeros(5, 8)).scale_tril.shape
        torch.Size([5, 3, 3])
    """

    below: Tensor

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(latent, latent, -1)
        self.register_buffer("below", rows * latent + columns, persistent=False)  # the places of N in a flat matrix
        self.sizes = (latent, latent, len(self.below))
        self.linear = linears(features, *filter(None, self.sizes))
        nn.init.zeros_(self.linear.weight[2 * latent :])

    def forward(self, h: Tensor) -> Any:
        loc, log_scale, lower = self.linear(h).split(self.sizes, -1)
        latent = self.sizes[0]
        flat = lower.new_zeros(*lower.shape[:-1], latent * latent).index_copy(-1, self.below, lower)
        scale = log_scale.exp()
        root = torch.diag_embed(scale) + scale.unsqueeze(-1) * flat.unflatten(-1, (latent, latent))
        return dist.MultivariateNormal(loc, scale_tril=root)
