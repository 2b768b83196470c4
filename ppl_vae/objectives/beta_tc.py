"""The ELBO with more weight on the total correlation of the latents: disentangling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.errors import PairError
from ..scoring.kinds import title
from ..scoring.terms import Site, Terms
from .base import Beta, Objective, needs_rsample, no_factors
from .elbo import elbo


def total_correlation(t: Terms) -> Tensor:
    r"""How far the coordinates of z depend on each other over the examples of a batch, (B,) nats, summed over sites.

    .. math:: TC = E[\log q(z) - \sum_d \log q(z_d)], \qquad q(z) = \frac1B \sum_b q(z|x_b)

    Its mean over the batch is estimated at the draws of each example. The mixture is of the B examples of the batch
    alone: a small one makes the estimate too large, and one of a single example makes it zero. The paper's weight,
    1 / (N B) for N data, adds a constant.

    Raises:
        PairError: a site whose coordinates are not independent given x.

    Source: Chen, Li, Grosse, Duvenaud: Isolating Sources of Disentanglement in Variational Autoencoders, 2018,
    arXiv:1802.04942.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(8,))
        >>> total_correlation(pv.terms(pair.model, pair.guide, torch.zeros(3, 5), num_samples=4)).shape
        torch.Size([3])
    """
    return sum((_of_site(site) for site in t.sites.values()), torch.zeros_like(t.log_q[0]))


def _of_site(site: Site) -> Tensor:
    """The total correlation of one site, (B,)."""
    q = site.q
    if type(q).__name__ != "Independent" or q.reinterpreted_batch_ndims != 1 or len(q.base_dist.event_shape):
        raise PairError(
            f"site {site.name!r}: the total correlation needs coordinates that are independent given x, and the "
            f"guide's {title(q)} has none; use the guide 'diagonal'"
        )
    z = site.value.movedim(1, 0).unsqueeze(2)  # (B, K, 1, L): each draw under each example of the batch
    each = q.base_dist.log_prob(z)  # (B, K, B, L)
    count = math.log(each.shape[2])
    joint = torch.logsumexp(each.sum(-1), 2) - count
    apart = (torch.logsumexp(each, 2) - count).sum(-1)
    return (joint - apart).mean(1)


def beta_tc(t: Terms, beta: Beta = 1.0) -> Tensor:
    """The ELBO less (beta - 1) times the total correlation, (B,) nats; at ``beta`` = 1 it is the ELBO.

    Raises:
        PairError: a site without ``rsample``, or whose coordinates are not independent given x; a factor in the guide.
    """
    no_factors(t, "beta_tc")
    for site in t.sites.values():
        needs_rsample(site, "beta_tc")
    return elbo(t) - (beta - 1) * total_correlation(t)


class BetaTC(Objective):
    r"""The ELBO with the weight beta on the total correlation, which is a part of its KL term.

    .. math:: E_{x,q}[\log p(x|z)] - I(x; z) - \beta\, TC(z) - \sum_d KL(q(z_d) \| p(z_d))

    :func:`total_correlation` is of the examples of a step, so that batches should be large. A warm-up raises the weight
    of the total correlation from 0 to beta, and leaves that of the other parts at 1. ``valid_bound`` is of this
    objective; estimates are not.

    Use when each latent coordinate is to stand for one factor of the data.

    Args:
        num_particles: particles to average over.
        beta: the weight of the total correlation; at 1 this is the ELBO, above it no more than a penalised one.

    Raises:
        PairError: see :func:`beta_tc`.
        UserError: an argument of another type or out of range.

    Source: Chen, Li, Grosse, Duvenaud: Isolating Sources of Disentanglement in Variational Autoencoders, 2018,
    arXiv:1802.04942.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(8,))
        >>> pv.objective("beta_tc", beta=4.0)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 1, beta: float = 6.0) -> None:
        super().__init__(beta_tc, num_particles=num_particles, beta=beta)
