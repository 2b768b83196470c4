"""The concrete distribution, a one-hot vector made continuous, in coordinates that have no edge."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import pad


class Concrete(TorchDistribution):
    r"""A relaxed one-hot vector s of C classes, by its log ratios :math:`z_c = \log (s_c / s_C)`, (C - 1).

    .. math:: s = \operatorname{softmax}((\log \alpha + g) / \tau), \quad g_c \sim \operatorname{Gumbel}(0, 1)

    .. math:: p(z) = (C - 1)!\; \tau^{C-1} \prod_c \frac{\alpha_c e^{-\tau z_c}}{\sum_d \alpha_d e^{-\tau z_d}},
        \qquad z_C = 0

    The map from s to z is one to one, so KL divergences and importance weights are those of s. At a low temperature s
    is rounded to 0 and 1, where its density is not finite. z is a vector of real numbers: it can be scored, annealed
    and refined like any other. :func:`one_hot` gives s back.

    Args:
        temperature: tau; as it falls to 0, s becomes one-hot with p(c) in proportion to alpha.
        logits: log alpha, up to a constant, (*, C).

    Source: Maddison, Mnih, Teh: The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables, 2016,
    arXiv:1611.00712. Jang, Gu, Poole: Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.

    Example:
        >>> import torch
        >>> p = Concrete(0.5, torch.zeros(4, 3))
        >>> p.batch_shape, p.event_shape, one_hot(p.rsample()).shape
        (torch.Size([4]), torch.Size([2]), torch.Size([4, 3]))
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor, validate_args: bool | None = None) -> None:
        self.temperature = temperature
        self.logits = logits
        super().__init__(logits.shape[:-1], torch.Size([logits.shape[-1] - 1]), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """E[z]: the log ratios of alpha, over the temperature."""
        return (self.logits[..., :-1] - self.logits[..., -1:]) / self.temperature

    @property
    def variance(self) -> Tensor:
        """That of the difference of two Gumbel variables, over the square of the temperature."""
        return torch.full_like(self.mean, (math.pi / self.temperature) ** 2 / 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Concrete:
        logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        return Concrete(self.temperature, logits, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.logits.shape
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        tiny = torch.finfo(u.dtype).tiny
        noisy = self.logits - torch.log(-torch.log(u.clamp(tiny, 1 - torch.finfo(u.dtype).eps / 2)))
        return (noisy[..., :-1] - noisy[..., -1:]) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        count = self.logits.shape[-1]
        score = (self.logits - self.temperature * pad(value, (0, 1))).log_softmax(-1).sum(-1)
        return score + math.lgamma(count) + (count - 1) * math.log(self.temperature)


def one_hot(z: Tensor) -> Tensor:
    """Log ratios (*, C - 1) to the relaxed one-hot vector (*, C)."""
    return pad(z, (0, 1)).softmax(-1)
