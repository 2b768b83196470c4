"""The thermodynamic variational objective: a sum over the path from the guide to the posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.numbers import plain
from ..scoring.terms import Terms
from .base import Objective, gradient_only, log_weights, one_scale, times


def tvo(t: Terms, temperatures: Tensor) -> Tensor:
    r"""The left Riemann sum of :math:`\int_0^1 E_{\pi_b}[\log w] \, db = \log p(x)`, (B,) nats; ``grad="score"``.

    .. math:: \sum_j (b_{j+1} - b_j) E_{\pi_{b_j}}[\log w], \qquad \pi_b \propto q(z|x)^{1 - b} p(x, z)^b

    Each expectation takes the draws of the guide with weights :math:`\propto w^b`, and its gradient is

    .. math:: \nabla E_\pi[f] = E_\pi[\nabla f] + Cov_\pi(f, \nabla \log \pi_b).

    Args:
        t: the terms.
        temperatures: 0 = b_0 < ... < b_J = 1, (J + 1,).
    """
    log_w = log_weights(t, 1.0, "tvo", reparameterised=False)
    f = log_w.detach()
    count = len(f)
    at = temperatures.to(f)[:-1, None, None]  # (J, 1, 1)
    steps = temperatures.to(f).diff()[:, None]  # (J, 1)
    w = torch.softmax(at * f, 1)  # (J, K, B)
    means = (w * f).sum(1)  # (J, B), which rise with b
    log_pi = t.log_q + at * log_w
    covariance = (w * (f - means[:, None]) * log_pi).sum(1) * (count / (count - 1))  # unbiased at b = 0
    bound = (steps * means).sum(0) + gradient_only((steps * ((w * log_w).sum(1) + covariance)).sum(0))
    return times(bound, one_scale(t, "tvo"))


class TVO(Objective):
    """The thermodynamic variational objective, by the score function: for discrete and for continuous latents.

    Use when draws have no gradient, and as another way between the ELBO (one partition) and log p(x) (many). The value
    is a lower bound for every K: the integrand rises along the path, and its left end stands for each part of it, so
    that no draws give more than their log mean weight.

    Args:
        num_particles: the number K of samples, at least 2.
        partitions: the number J of parts of the path.
        first: the temperature b_1; those after it are spaced evenly in the logarithm.

    Raises:
        UserError: one particle, or an argument of another type or out of range.

    Source: Masrani, Le, Wood: The Thermodynamic Variational Objective, 2019, arXiv:1907.00031.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("tvo:partitions=3", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 10, partitions: int = 5, first: float = 0.1) -> None:
        self.partitions, self.first = plain(partitions), plain(first)
        if type(self.partitions) is not int or self.partitions < 1:
            raise UserError(f"partitions={partitions!r}: a whole number is needed, at least one")
        if type(self.first) not in (int, float) or not 0 < self.first < 1:
            raise UserError(f"first={first!r}: a temperature between 0 and 1 is needed")
        start = torch.tensor(float(self.first)).log10()
        inner = torch.logspace(float(start), 0, self.partitions) if self.partitions > 1 else torch.ones(1)
        temperatures = torch.cat([torch.zeros(1), inner])

        def bound(t: Terms) -> Tensor:
            return tvo(t, temperatures)

        super().__init__(bound, num_particles=num_particles, grad="score")
        if self.num_particles < 2:
            raise UserError("tvo takes a covariance over the particles: num_particles=2 or more is needed")
