"""The evidence lower bound, with free bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.numbers import plain
from ..scoring.terms import Site, Terms
from .base import Beta, Objective, choose, gradient_only, less_factors, log_ratio, times


def elbo(t: Terms, beta: Beta = 1.0, free_bits: float = 0.0) -> Tensor:
    r"""The evidence lower bound of each example, (B,) nats, with Pyro's gradient.

    .. math:: E_q[\log p(x|z) + \beta (\log p(z) - \log q(z|x))]

    Where a latent has no ``rsample``, its log q carries the learning signal, as in ``pyro.infer.Trace_ELBO``. As there,
    what the guide observes is subtracted: ``pyro.factor``, a classifier's ``pyro.sample(..., obs=y)``; ``beta`` leaves
    it as it is. For ``free_bits`` see :class:`Elbo`.
    """
    bound = sum(times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        bound = bound + beta * with_free_bits(s, log_ratio(s), s.log_q - s.log_p if free_bits else None, free_bits)
    signal: Tensor = bound.detach()  # as in Pyro, without the factors
    bound = less_factors(bound, t)
    for s in (*t.sites.values(), *t.factors.values()):
        if not s.has_rsample:
            # log q has no pathwise gradient here: all of its gradient is in the score
            entropy = times(s.log_q, s.scale_q)
            if s.name not in t.factors:
                entropy = beta * with_free_bits(s, entropy, s.log_q - s.log_p if free_bits else None, free_bits)
            bound = bound + gradient_only(signal * s.score + entropy)
    return bound.mean(0)


def with_free_bits(site: Site, value: Tensor, kl: Tensor | None, free_bits: float) -> Tensor:
    """The part of a site in the bound, (K, B): ``value``, or minus the free nats where its mean KL is at most those.

    The mean is over particles and examples, as the paper takes it over a mini-batch, so that there is one choice for
    the whole site, and the sum over examples is -B max(free_bits, mean KL).
    """
    if not free_bits or kl is None:
        return value
    free = times(torch.full_like(value, -free_bits), site.scale_q)
    return torch.where(kl.detach().mean() > free_bits, value, free)


class WithFreeBits(Objective):
    """What :class:`Elbo` and :class:`AnalyticKL` share: the free nats of each site."""

    def __init__(self, bound: Callable[..., Tensor], free_bits: float, **options: Any) -> None:
        super().__init__(bound, **options)
        self.free_bits = plain(free_bits)
        if type(self.free_bits) not in (int, float) or not 0 <= self.free_bits < math.inf:
            raise UserError(f"free_bits={free_bits!r}: nats of each latent site, a finite number, at least 0")
        if self.free_bits and self.num_particles > 1 and not self.vectorize:
            raise UserError("free_bits: the mean KL is over all particles; score them together (vectorize=True)")

    def value(self, t: Terms, beta: Beta) -> Tensor:
        """The bound of each example, (B,) nats, with the free nats."""
        return self.bound(t, beta, self.free_bits) if self.free_bits else self.bound(t, beta)


class Elbo(WithFreeBits):
    r"""The ELBO, the same estimate and gradient as ``pyro.infer.Trace_ELBO``, without host reads.

    With :math:`KL_i` the estimate of :math:`E_q[\log q(z_i|x) - \log p(z_i)]` of latent site i, averaged over
    particles and over the B examples of a step, and :math:`\lambda` the free bits in nats, the loss of the step is

    .. math:: -\sum_b E_q[\log p(x_b|z)] + \beta B \sum_i \max(\lambda, KL_i).

    A site whose mean KL is at most :math:`\lambda` costs :math:`\lambda` and has no gradient. Free bits are for
    training (and for ``valid_bound``, over batches of the validation data): estimates, ``est.elbo`` and ``valid_elbo``
    have beta = 1 and no free bits.

    Args:
        num_particles: particles to average over.
        gradient: ``"path"``, or ``"stl"`` to stop the score term, whose mean is zero.
        beta: the weight of the KL term; other than at 1, this is no bound on log p(x).
        free_bits: nats of each latent site up to which its KL, as a mean over the examples of a step, has no gradient.
        vectorize: score the particles together.

    Raises:
        UserError: an argument of another type or out of range.

    Source: Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114. ``beta``: Higgins et al.:
    beta-VAE, 2017. ``free_bits``: Kingma et al.: Improving Variational Inference with Inverse Autoregressive Flow,
    2016, arXiv:1606.04934, equation 15, with a latent site as a subset.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.Elbo(num_particles=8, beta=4.0, free_bits=0.5)(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(
        self, num_particles: int = 1, gradient: str = "path", beta: float = 1.0, free_bits: float = 0.0, *,
        vectorize: bool = True,
    ) -> None:  # fmt: skip
        grad = choose(gradient, ("path", "stl"))
        super().__init__(elbo, free_bits, num_particles=num_particles, grad=grad, vectorize=vectorize, beta=beta)
