"""Pairs whose evidence is known in closed form, with guides that are off by a known amount."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.fields import X, num_data

DIMS = 20  # of Rainforth's toy


class ToyModel(nn.Module):
    """Rainforth's toy: z ~ N(0, I), x ~ N(z, I); p(x) = N(0, 2 I), p(z|x) = N(x / 2, I / 2)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(DIMS, dtype=torch.float64), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class ToyGuide(nn.Module):
    """The right mean, and the variance that is given: 2/3 is Rainforth's."""

    def __init__(self, variance: float = 2 / 3) -> None:
        super().__init__()
        self.scale = math.sqrt(variance)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, torch.full_like(x, self.scale)).to_event(1))


def toy(variance: float = 2 / 3) -> pv.Pair:
    return pv.Pair(ToyModel(), ToyGuide(variance))


def toy_evidence(x: Tensor) -> Tensor:
    return dist.Normal(torch.zeros_like(x), math.sqrt(2) * torch.ones_like(x)).log_prob(x).sum(-1)


def toy_moment(n: int, variance: float = 2 / 3) -> float:
    """E_q[w^n] / p(x)^n of the toy, from the Gaussian integral in each dimension."""
    precision = n / 0.5 - (n - 1) / variance
    return float((0.5 ** (-n / 2) * variance ** ((n - 1) / 2) / math.sqrt(precision)) ** DIMS)


class GammaPoisson(nn.Module):
    """rate ~ Gamma(2, 1.5), x ~ Poisson(rate): p(x) is negative binomial, p(rate|x) = Gamma(2 + x, 2.5)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(torch.full((2,), 2.0), 1.5).to_event(1))
            return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def evidence(self, x: Tensor) -> Tensor:
        return dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 2.5)).log_prob(x).sum(-1)


class GammaGuide(nn.Module):
    """The posterior with both parameters times a factor: less than 1 is wider."""

    def __init__(self, stretch: float) -> None:
        super().__init__()
        self.stretch = stretch

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.Gamma((2 + x) * self.stretch, 2.5 * self.stretch).to_event(1))


class BetaBinomial(nn.Module):
    """p ~ Beta(2, 3), x ~ Binomial(9, p): p(x) is beta-binomial, p(p|x) = Beta(2 + x, 12 - x)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            p = pyro.sample("p", dist.Beta(torch.full((2,), 2.0), 3.0).to_event(1))
            return pyro.sample("x", dist.Binomial(9, p).to_event(1), obs=x)

    def evidence(self, x: Tensor) -> Tensor:
        return dist.BetaBinomial(torch.tensor(2.0), torch.tensor(3.0), 9).log_prob(x).sum(-1)


class BetaGuide(nn.Module):
    """The posterior with both parameters times a factor: less than 1 is wider."""

    def __init__(self, stretch: float) -> None:
        super().__init__()
        self.stretch = stretch

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            q = dist.Beta((2 + x) * self.stretch, (12 - x) * self.stretch)
            pyro.sample("p", q.to_event(1))


CONJUGATE = {"gamma-poisson": (GammaPoisson, GammaGuide), "beta-binomial": (BetaBinomial, BetaGuide)}


def quadrature(pair: pv.Pair, x: X, nodes: int) -> Tensor:
    """log of the integral of p(z) p(x | z) over one standard normal z, by Gauss-Hermite."""
    z, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    values = {"z": z[:, None, None].expand(nodes, num_data(x), 1)}
    log_joint = pv.log_joint(pair.model, x, None, values)
    prior = -0.5 * (z.square() + np.log(2 * np.pi))[:, None]
    return (log_joint - prior + (weight / weight.sum()).log()[:, None]).logsumexp(0)
