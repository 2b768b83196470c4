"""Proposals: where the particles of an estimate come from. Each gives Terms, for every estimator to use."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import weights
from .errors import PairError
from .store import Program
from .weights import Terms, call_args

Draw = Callable[[Program, Program, Tensor, Tensor | None, int], Terms]

SHARE = 0.1  # of the defensive mixture's particles that come from the prior


def guide(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z ~ q(z|x): the proposal that was trained."""
    return weights.terms(model, guide, x, y, num_samples=num_samples)


def prior(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z ~ p(z): the weight is p(x|z), and nearly all particles are wasted. The guide is not used."""
    return weights.terms(model, weights.prior_of(model), x, y, num_samples=num_samples)


def defensive(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    r"""A tenth of the particles from the prior, the rest from the guide, all weighted by the mixture.

    .. math:: w = \frac{p(x, z)}{\alpha p(z) + (1 - \alpha) q(z|x)} \le \frac{p(x|z)}{\alpha}

    The weights are bounded wherever the likelihood is, however narrow the guide. The shares are fixed, not drawn.

    Source: Hesterberg: Weighted Average Importance Sampling and Defensive Mixture Distributions, 1995. Owen, Zhou: Safe
    and Effective Importance Sampling, 2000.
    """
    from_guide = weights.terms(model, guide, x, y, num_samples=num_samples)
    if from_guide.exact or num_samples == 1:
        return from_guide
    count = min(num_samples - 1, max(1, round(SHARE * num_samples)))
    from_prior = weights.terms(model, weights.prior_of(model), x, y, num_samples=count)
    if set(from_prior.sites) != set(from_guide.sites):
        raise PairError("the defensive mixture needs a guide that draws every latent of the model, and no other")
    values = {name: site.value for name, site in from_prior.sites.items()}
    q_at_prior = weights.log_densities(guide, call_args(guide, x, y), values)[1]
    keep = num_samples - count
    log_lik = torch.cat([from_guide.log_lik[:keep], from_prior.log_lik])
    log_prior = torch.cat([from_guide.log_prior[:keep], from_prior.log_prior])
    log_guide = torch.cat([from_guide.log_q[:keep], q_at_prior])
    share = count / num_samples
    log_q = torch.logaddexp(log_prior + math.log(share), log_guide + math.log1p(-share))
    return Terms(log_lik, log_prior, log_q, from_guide.sites, from_guide.observed)


PROPOSALS: dict[str, Draw] = {"guide": guide, "prior": prior, "defensive": defensive}
