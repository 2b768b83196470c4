"""The standard normal distribution."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.errors import UserError


class StandardNormal(nn.Module):
    """N(0, I) with event shape (latent,), on the device and in the dtype of its module.

    Use when nothing is known against it: it has no parameters.

    Args:
        latent: width of z.

    Source: Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        if latent < 1:
            raise UserError(f"latent={latent}: at least one latent dimension is needed")
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self) -> Any:
        return dist.Normal(self.loc, self.scale).to_event(1)
