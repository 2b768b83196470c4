"""Counts under conjugate priors, whose latents are constrained: each guide has the posterior's parameters times 0.8."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..pairs.base import Pair
from .base import Program, Target

STRETCH = 0.8  # of the parameters of a guide; 1 is the posterior


def _target(model: Any, guide: Any, evidence: Any) -> Target:
    return Target(Pair(model, Program(guide, stretch=STRETCH)), evidence, Program(guide, stretch=1.0))


def gamma_poisson() -> Target:
    """rate ~ Gamma(2, 1.5) in three dimensions, x ~ Poisson(rate): p(x) is negative binomial."""

    def model(p: Any, x: Tensor | None) -> Any:
        rate = pyro.sample("rate", dist.Gamma(p.shape.expand(3), p.rate).to_event(1))
        return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        shape, rate = (m.shape + x).detach(), (m.rate + 1).detach()
        pyro.sample("rate", dist.Gamma(p.stretch * shape, p.stretch * rate).to_event(1))

    def evidence(x: Tensor) -> Any:
        return dist.GammaPoisson(m.shape.expand(3), m.rate).to_event(1).log_prob(x)

    m: Any = Program(model, shape=2.0, rate=1.5)
    return _target(m, guide, evidence)


def beta_binomial() -> Target:
    """p ~ Beta(2, 3) in two dimensions, x ~ Binomial(9, p)."""

    def model(p: Any, x: Tensor | None) -> Any:
        share = pyro.sample("p", dist.Beta(p.a.expand(2), p.b).to_event(1))
        return pyro.sample("x", dist.Binomial(9, share).to_event(1), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        a, b = (m.a + x).detach(), (m.b + 9 - x).detach()
        pyro.sample("p", dist.Beta(p.stretch * a, p.stretch * b).to_event(1))

    def evidence(x: Tensor) -> Any:
        return dist.BetaBinomial(m.a.expand(2), m.b, 9).to_event(1).log_prob(x)

    m: Any = Program(model, a=2.0, b=3.0)
    return _target(m, guide, evidence)


def dirichlet_multinomial() -> Target:
    """p ~ Dirichlet(0.8, 1, 1.5, 2), x ~ Multinomial(12, p): latents on a simplex."""

    def model(p: Any, x: Tensor | None) -> Any:
        share = pyro.sample("p", dist.Dirichlet(p.concentration))
        return pyro.sample("x", dist.Multinomial(12, share), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        pyro.sample("p", dist.Dirichlet(p.stretch * (m.concentration.detach() + x)))

    def evidence(x: Tensor) -> Any:
        return dist.DirichletMultinomial(m.concentration, 12).log_prob(x)

    m: Any = Program(model, concentration=torch.tensor([0.8, 1.0, 1.5, 2.0]))
    return _target(m, guide, evidence)
