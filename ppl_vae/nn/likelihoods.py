"""Decoder output to p(x|z): one small class a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.errors import UserError
from . import distributions


class Likelihood(nn.Module):
    """p(x|z) for data of one shape, from decoder output h of shape (*, multiple, *data_shape).

    Attributes:
        multiple: numbers that it needs for each coordinate.
        binary: whether x is 0 or 1.
    """

    multiple = 1
    binary = False

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(data_shape)

    def forward(self, h: Tensor) -> Any:
        """The distribution of x, with event shape ``data_shape``."""
        return self.per_coordinate(*h.unbind(-1 - self.event_dim)).to_event(self.event_dim)

    def per_coordinate(self, *h: Tensor) -> Any:
        """The distribution of each coordinate, from ``multiple`` tensors of shape (*, *data_shape)."""
        raise TypeError(f"{type(self).__name__} defines no distribution")

    def start(self, mean: Tensor) -> Tensor:
        """The output (multiple, *data_shape) whose distribution has this mean; other numbers start at zero."""
        return torch.stack([mean, *[torch.zeros_like(mean)] * (self.multiple - 1)])


class Bernoulli(Likelihood):
    """x in {0, 1}; the output is the logit of p(x = 1)."""

    binary = True

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Bernoulli(logits=h[0])

    def start(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3)).unsqueeze(0)


class Gaussian(Likelihood):
    """x real; the output is the mean, ``sigma`` is fixed."""

    sigma: Tensor

    def __init__(self, data_shape: Sequence[int], sigma: float = 1.0) -> None:
        super().__init__(data_shape)
        if not sigma > 0:
            raise UserError(f"sigma={sigma}: the standard deviation must be positive")
        self.register_buffer("sigma", torch.tensor(float(sigma)))

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], self.sigma)


class GaussianLearned(Likelihood):
    """x real; the output is the mean, one sigma for all coordinates is learned."""

    def __init__(self, data_shape: Sequence[int], sigma: float = 1.0) -> None:
        super().__init__(data_shape)
        if not sigma > 0:
            raise UserError(f"sigma={sigma}: the standard deviation must be positive")
        self.log_sigma = nn.Parameter(torch.full(self.sigma_shape(data_shape), math.log(sigma)))

    def sigma_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the learned sigma."""
        return (1,) * len(data_shape)

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], self.log_sigma.exp())


class GaussianDiagonal(GaussianLearned):
    """x real; the output is the mean, one sigma for each coordinate is learned."""

    def sigma_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(data_shape)


class GaussianNetwork(Likelihood):
    """x real; the outputs are the mean and log sigma, which is kept above 0.01.

    Without a floor this likelihood has no bound: Mattei, Frellsen: Leveraging the Exact Likelihood of Deep Latent
    Variable Models, 2018, arXiv:1802.04826.
    """

    multiple = 2

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], 0.01 + h[1].exp())


class ContinuousBernoulli(Likelihood):
    """x in [0, 1]; the output is the logit of the parameter.

    Source: Loaiza-Ganem, Cunningham: The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
    2019, arXiv:1907.06845.
    """

    def per_coordinate(self, *h: Tensor) -> Any:
        return distributions.ContinuousBernoulli(h[0])

    def start(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(1e-2, 1 - 1e-2)).unsqueeze(0)


class Discretized(Likelihood):
    """8-bit pixels, as x in {0, 1/255, ..., 1}: the exact probability of the integers; bits per dimension mean bits."""

    multiple = 2

    def per_coordinate(self, *h: Tensor) -> Any:
        return distributions.DiscretizedLogistic(h[0], h[1].clamp(-7.0, 3.0))

    def start(self, mean: Tensor) -> Tensor:
        return torch.stack([mean, torch.full_like(mean, -1.5)])


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian_learned": GaussianLearned,
    "gaussian_diagonal": GaussianDiagonal,
    "gaussian_network": GaussianNetwork,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized": Discretized,
}


def make(name: str, data_shape: Sequence[int], sigma: float = 1.0) -> Likelihood:
    """A likelihood by name.

    Args:
        name: a key of ``LIKELIHOODS``.
        data_shape: shape of one datum.
        sigma: the fixed, or the first, standard deviation of the Gaussian ones.

    Raises:
        UserError: no such name, or a sigma that is not positive.

    Example:
        >>> import torch
        >>> make("bernoulli", (1, 8, 8))(torch.zeros(5, 1, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
    """
    if name not in LIKELIHOODS:
        raise UserError(f"likelihood={name!r}: choose one of {', '.join(LIKELIHOODS)}")
    kind = LIKELIHOODS[name]
    return kind(data_shape, sigma) if issubclass(kind, Gaussian | GaussianLearned) else kind(data_shape)
