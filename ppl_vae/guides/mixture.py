"""A mixture of Gaussians whose draws are reparameterised."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..nn.distributions import GaussianMixture
from ..nn.networks import linears


class Mixture(nn.Module):
    r"""A mixture of diagonal Gaussians, from one linear map of the features h (*, features).

    .. math:: q(z|x) = \sum_c \pi_c(h) \prod_i N(z_i; \mu_{ci}(h), \sigma_{ci}(h)^2)

    Draws have implicit gradients (:class:`ppl_vae.nn.distributions.GaussianMixture`), so that every gradient is exact.

    Use when the posterior has several modes, or tails that a Gaussian misses. The proposal ``tempered`` widens each
    component.

    Args:
        features: width of the features.
        latent: width of z.
        components: Gaussians in the mixture.

    Source: Figurnov, Mohamed, Mnih: Implicit Reparameterization Gradients, 2018, arXiv:1805.08498. Morningstar et al.:
    Automatic Differentiation Variational Inference with Mixtures, 2020, arXiv:2003.01687.

    Example:
        >>> import torch
        >>> Mixture(8, 3, components=2)(torch.zeros(5, 8)).event_shape
        torch.Size([3])
    """

    def __init__(self, features: int, latent: int, components: int = 4) -> None:
        super().__init__()
        self.shape = (components, latent)
        self.sizes = (components * latent, components * latent, components)
        self.linear = linears(features, *[latent] * (2 * components), components)

    def forward(self, h: Tensor) -> Any:
        loc, log_scale, logits = self.linear(h).split(self.sizes, -1)
        return GaussianMixture(logits, loc.unflatten(-1, self.shape), log_scale.unflatten(-1, self.shape).exp())
