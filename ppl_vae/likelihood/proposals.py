"""Proposals: where the draws of an estimate come from. Each gives Terms, for every estimator to use."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..common import registry
from ..common.choices import checked, parsed
from ..common.errors import PairError, UserError
from ..common.fields import device_of, num_data
from ..guides.refined import Refined
from ..scoring import densities, programs, terms, trace
from ..scoring.coverage import refuse_quantised
from ..scoring.param_store import Program
from ..scoring.terms import Terms
from ..scoring.trace import call_args
from . import quantiles
from .records import Proposal, ProposalLike, resolve
from .refine import refine
from .tempering import tempered as tempered_distribution

SHARE = 0.1  # of the defensive mixture's draws that come from the prior
TEMPERATURE = 2.0  # of the tempered guide: a Gaussian's standard deviation grows by sqrt(2)


def guide(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z ~ q(z|x): the guide as it was trained."""
    return terms.terms(model, guide, x, y, num_samples=num_samples)


def prior(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z ~ p(z): the weight is p(x|z), and nearly all draws are wasted. The guide is not used."""
    return terms.terms(model, trace.prior_of(model), x, y, num_samples=num_samples)


def defensive(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    r"""A tenth of the draws from the prior, the rest from the guide, all weighted by the mixture.

    .. math:: w = \frac{p(x, z)}{\alpha p(z) + (1 - \alpha) q(z|x)} \le \frac{p(x|z)}{\alpha}

    The weights are bounded wherever the likelihood is, however narrow the guide. The shares are fixed, not drawn; the
    order is random, so that every part of the draws is a draw of the mixture too.

    Source: Hesterberg: Weighted Average Importance Sampling and Defensive Mixture Distributions, 1995. Owen, Zhou: Safe
    and Effective Importance Sampling, 2000.
    """
    from_guide = terms.terms(model, guide, x, y, num_samples=num_samples)
    if from_guide.exact:
        return from_guide
    for name, site in from_guide.sites.items():
        refuse_quantised(name, site.q, site.p, what="the defensive mixture")
    count = math.ceil(SHARE * num_samples)
    from_prior = terms.terms(model, trace.prior_of(model, from_guide.sites), x, y, num_samples=count)
    if set(from_prior.sites) != set(from_guide.sites):
        raise PairError("the defensive mixture needs a guide that draws every latent of the model, and no other")
    values = {name: site.value for name, site in from_prior.sites.items()}
    q_at_prior = densities.log_densities(guide, call_args(guide, x, y), values, anywhere=True)[1]
    guide_parts = from_guide.log_lik, from_guide.log_prior, from_guide.log_q
    both = zip(guide_parts, (from_prior.log_lik, from_prior.log_prior, q_at_prior), strict=True)
    if num_samples == 1:  # one draw can't be shared out: each example draws where its own comes from
        share = SHARE
        coin = torch.rand(num_data(x), device=device_of(x)) < share
        log_lik, log_prior, log_guide = (torch.where(coin, p, g) for g, p in both)
    else:
        share = count / num_samples
        log_lik, log_prior, log_guide = (torch.cat([g[: num_samples - count], p]) for g, p in both)
    log_q = torch.logaddexp(log_prior + math.log(share), log_guide + math.log1p(-share))
    order = torch.randperm(num_samples).to(log_q.device)
    return replace(from_guide, log_lik=log_lik[order], log_prior=log_prior[order], log_q=log_q[order])


def tempered(temperature: float = TEMPERATURE) -> Proposal:
    r"""The guide made wider: :math:`z \sim q(z|x)^{1/T}`, normalised, site by site.

    For a Gaussian the standard deviation grows by :math:`\sqrt T`. Where the guide is too narrow this lowers Pareto
    k; where it is right, it costs effective sample size. A density with a spike, such as a Gamma of shape below 1, is
    flattened there, which may be the wrong thing. A flow of Gaussians is tempered in its base space.

    Args:
        temperature: T, at least 1, which leaves the guide as it is.

    Raises:
        UserError: a temperature below 1.
        PairError: when it draws, where a site's family is not closed under tempering.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> est = pv.log_likelihood(pair, torch.zeros(2, 5), num_samples=9, proposal=pv.proposals.tempered(4.0))
        >>> est.proposal
        'tempered(4)'
    """
    if not temperature >= 1:
        raise UserError(f"temperature={temperature}: give 1 or more; below 1 a guide gets narrower")

    def draw(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
        wider = trace.changed(guide, lambda name, fn: tempered_distribution(name, fn, temperature))
        return terms.terms(model, wider, x, y, num_samples=num_samples)

    return Proposal(f"tempered({temperature:g})", draw)


def refined(**options: Any) -> Proposal:
    """A Gaussian fitted to each example by :func:`ppl_vae.refine`, from which fresh draws are made.

    Args:
        options: of :func:`ppl_vae.refine`: ``family``, ``steps``, ``num_particles``, ``rounds``, ``widen``, ``df`` and
            ``block``.

    Raises:
        UserError: an option that it does not take.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> x = torch.randn(2, 5)
        >>> est = pv.log_likelihood(pair, x, num_samples=99, proposal=pv.proposals.refined(family="diagonal"))
        >>> est.proposal, est.refined["family"]
        ("refined(family='diagonal')", 'diagonal')
    """
    options = checked("refined", _options(refine), options)
    shown = ", ".join(f"{k}={v!r}" for k, v in options.items())
    fit = partial(refine, **options) if options else refine
    return Proposal(f"refined({shown})" if options else "refined", fitted, reach="guide", fit=fit)


def auto(num_temperatures: int = 1000, num_chains: int = 16) -> Proposal:
    """The guide where its k is good, a refined guide elsewhere, annealing where neither serves.

    Args:
        num_temperatures: of annealing, which takes most of the time; fewer are quicker, and lie lower.
        num_chains: of annealing.

    Raises:
        UserError: fewer than one.

    Example:
        >>> proposal("auto:num_temperatures=100").name
        'auto(num_temperatures=100, num_chains=16)'
    """
    chains = {"num_temperatures": num_temperatures, "num_chains": num_chains}
    for name, value in chains.items():
        if value < 1:
            raise UserError(f"auto: {name}={value}: at least one is needed")
    shown = ", ".join(f"{k}={v}" for k, v in chains.items())
    return replace(PROPOSALS["auto"], name=f"auto({shown})", chains=tuple(chains.items()))


def _options(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function by which a proposal is set; the rest are those of an estimate."""
    rest = {"pair", "x", "y", "seed", "progress", "resume", "capture"}
    return {name: p for name, p in inspect.signature(function).parameters.items() if name not in rest}


def fitted(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z from a guide that :func:`ppl_vae.refine` fitted to these data.

    Raises:
        UserError: another guide, whose draws are not refined.
    """
    if not isinstance(guide, Refined):
        raise UserError(
            "refined draws from a guide fitted to these data: use log_likelihood(..., proposal='refined'), or give the "
            "guide that pv.refine(pair, x) returns"
        )
    return terms.terms(model, guide, x, y, num_samples=num_samples)


def qmc(model: Program, guide: Program, x: Tensor, y: Tensor | None, num_samples: int) -> Terms:
    """z ~ q(z|x) from quasi-random points: one scrambled Sobol sequence through the guide's inverse distribution.

    Every call scrambles anew, so that the differences between calls tell the error. Within a call the draws are
    spread more evenly than independent ones, and their mean is closer to the truth where the weights are smooth.

    Source: Owen: Randomly Permuted (t,m,s)-Nets and (t,s)-Sequences, 1995; for variational inference: Buchholz, Wenzel,
    Mandt: Quasi-Monte Carlo Variational Inference, 2018, arXiv:1807.01604.

    Raises:
        PairError: a site of the guide has no inverse distribution function.
    """
    found = programs.sites(guide, call_args(guide, x, y))
    shapes = {name: quantiles.noise_shape(d.fn) for name, d in found.items() if not d.is_observed}
    sizes = [shape.numel() for shape in shapes.values()]
    if sum(sizes) == 0:
        return terms.terms(model, guide, x, y, num_samples=num_samples)
    points = quantiles.sobol(num_samples, num_data(x), sum(sizes)).to(device_of(x))
    parts = dict(zip(shapes, points.split(sizes, -1), strict=True))

    def value(name: str, fn: Any) -> Tensor | None:
        if shapes[name].numel() == 0:  # a Delta has nothing to draw
            return None
        return quantiles.quantile(name, fn, parts[name].reshape(num_samples, -1, *shapes[name]))

    return terms.terms(model, guide, x, y, num_samples=num_samples, values=value)


def _named(name: str, function: Any, **facts: Any) -> Proposal:
    side, use_when = registry.PROPOSALS[name]
    return Proposal(name, function, side, use_when=use_when, **facts)


PROPOSALS = {
    one.name: one
    for one in (
        _named("guide", guide, reach="guide"),
        _named("prior", prior, reach="prior"),
        _named("defensive", defensive, reach="prior", independent=False),
        _named("tempered", tempered().function),
        _named("qmc", qmc, reach="guide", independent=False, nets=True),
        _named("refined", fitted, reach="guide", fit=refine),
        _named("auto", guide, stages=("guide", "refined", "ais")),
    )
}


def proposal(given: ProposalLike) -> Proposal:
    """The proposal that a name, a name with options, a function or a record stands for.

    Raises:
        UserError: a name or an option that is not known.

    Example:
        >>> proposal("tempered:temperature=4").name
        'tempered(4)'
    """
    if not isinstance(given, str) or ":" not in given:
        return resolve(Proposal, given, PROPOSALS)
    name, options = parsed(given)
    if name not in MAKERS:
        raise UserError(f"proposal={given!r}: only {', '.join(MAKERS)} take options")
    make, known = MAKERS[name]
    made: Proposal = make(**checked(f"proposal {name!r}", _options(known), options))
    return made


MAKERS: dict[str, tuple[Any, Any]] = {
    "refined": (refined, refine), "tempered": (tempered, tempered), "auto": (auto, auto)
}  # fmt: skip
