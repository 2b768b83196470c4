"""Tempering: a distribution made wider by a power, q(z)^(1/T), as a distribution that can be drawn from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..common.errors import PairError
from ..nn.distributions import GaussianMixture
from ..scoring.kinds import flow_of, kind


def _shape(concentration: Tensor, t: float) -> Tensor:
    return (concentration - 1) / t + 1


_TEMPERED: dict[str, Callable[[Any, float], Any]] = {
    # q^(1/T), normalised, stays in the family
    "Normal": lambda d, t: dist.Normal(d.loc, d.scale * math.sqrt(t)),
    "MultivariateNormal": lambda d, t: dist.MultivariateNormal(d.loc, scale_tril=d.scale_tril * math.sqrt(t)),
    "LowRankMultivariateNormal": lambda d, t: dist.LowRankMultivariateNormal(
        d.loc, d.cov_factor * math.sqrt(t), d.cov_diag * t
    ),
    # not the power, which is no mixture: each component is made wider
    "GaussianMixture": lambda d, t: GaussianMixture(d.logits, d.loc, d.scale * math.sqrt(t)),
    "HalfNormal": lambda d, t: dist.HalfNormal(d.scale * math.sqrt(t)),
    "Laplace": lambda d, t: dist.Laplace(d.loc, d.scale * t),
    "Exponential": lambda d, t: dist.Exponential(d.rate / t),
    "Gamma": lambda d, t: dist.Gamma(_shape(d.concentration, t), d.rate / t),
    "Beta": lambda d, t: dist.Beta(_shape(d.concentration1, t), _shape(d.concentration0, t)),
    "Dirichlet": lambda d, t: dist.Dirichlet(_shape(d.concentration, t)),
    "Bernoulli": lambda d, t: dist.Bernoulli(logits=d.logits / t),
    "Categorical": lambda d, t: dist.Categorical(logits=d.logits / t),
    "OneHotCategorical": lambda d, t: dist.OneHotCategorical(logits=d.logits / t),
    "Uniform": lambda d, t: d,
    "Delta": lambda d, t: d,
}


LOCATION = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal", "Laplace")


def tempered(name: str, fn: Any, temperature: float) -> Any:
    """q^(1/T), normalised; of a transformed distribution its base, so in the space before the transforms.

    Raises:
        PairError: the family is not closed under tempering; names the site.
    """
    if type(fn).__name__ in ("TransformedDistribution", "LogNormal", "LogisticNormal") and kind(fn) in LOCATION:
        return dist.TransformedDistribution(tempered(name, fn.base_dist, temperature), list(fn.transforms))
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(tempered(name, fn.base_dist, temperature), fn.reinterpreted_batch_ndims)
    if hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        inner = tempered(name, fn.base_dist, temperature).expand(fn.batch_shape)
        return inner.mask(fn._mask) if hasattr(fn, "_mask") else inner
    flow = flow_of(fn)
    if flow is not None:
        inner = copy.copy(fn.dist)
        inner.base = tempered(name, flow[0], temperature)
        return type(fn)(inner)
    family = type(fn).__name__
    if family not in _TEMPERED:
        raise PairError(f"site {name!r}: {family} can't be tempered; use another proposal")
    return _TEMPERED[family](fn, temperature)
