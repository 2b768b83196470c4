"""The Laplace distribution, whose log density is an L1 penalty."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..nn.likelihoods import positive


class Laplace(nn.Module):
    r"""Independent Laplace distributions.

    .. math:: \log p(z) = -\frac{1}{b} \sum_i |z_i| - L \log 2b

    Use when few latents should be active for an example. Under a Delta guide it is the L1 penalty of a sparse
    autoencoder.

    Args:
        latent: width of z.
        scale: b.

    Source: Olshausen, Field: Emergence of Simple-Cell Receptive Field Properties by Learning a Sparse Code for Natural
    Images, 1996.

    Example:
        >>> Laplace(3, scale=0.5)().event_shape
        torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.full((latent,), positive("scale", scale)), persistent=False)

    def forward(self) -> Any:
        return dist.Laplace(self.loc, self.scale).to_event(1)
