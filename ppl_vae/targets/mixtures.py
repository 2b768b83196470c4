"""Classes, summed out or inside the prior: log p(x) is a sum over them, and so is the posterior."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..pairs.base import Pair
from .base import Program, Target, normal
from .gaussian import weights

MEANS = [[-2.0, 0.0], [1.0, 2.0], [1.5, -1.5]]  # of the components of gmm and of mixture_prior


def _classes(m: Any, x: Tensor) -> Any:
    """log p(c, x) of z ~ N(means_c, I), x ~ N(W z, scale^2 I), (B, C)."""
    covariance = m.W @ m.W.T + m.scale.square() * torch.eye(len(m.W)).to(m.W)
    given = dist.MultivariateNormal(m.means @ m.W.T, covariance)  # of each class
    return m.logits.log_softmax(-1) + given.log_prob(x.unsqueeze(-2))


@torch.no_grad()
def _posterior(m: Any, x: Tensor) -> Any:
    """p(z|x), a mixture of a Gaussian for each class."""
    precision = torch.eye(2).to(m.W) + m.W.T @ m.W / m.scale.square()
    rhs = m.means + (x @ m.W).unsqueeze(-2) / m.scale.square()  # (B, C, 2)
    loc = torch.linalg.solve(precision, rhs.mT).mT
    each = dist.MultivariateNormal(loc, precision_matrix=precision.expand(*loc.shape[:-1], 2, 2))
    return dist.MixtureSameFamily(dist.Categorical(logits=_classes(m, x)), each)


def _target(model: Any, noise: float) -> Target:
    """The guide has the mean and the standard deviations of the posterior, these 1.2 times: one mode for three."""

    def guide(p: Any, x: Tensor) -> None:
        q = _posterior(m, x)
        pyro.sample("z", normal(q.mean, p.stretch * q.stddev))

    def exact(p: Any, x: Tensor) -> None:
        pyro.sample("z", _posterior(m, x))

    shares = torch.tensor([0.2, 0.5, 0.3]).log()
    m: Any = Program(model, logits=shares, means=torch.tensor(MEANS), W=weights(4, 2), scale=noise)
    pair = Pair(m, Program(guide, stretch=1.2))
    return Target(pair, lambda x: _classes(m, x).logsumexp(-1), Program(exact))


def gmm() -> Target:
    """c ~ Cat(0.2, 0.5, 0.3), z ~ N(m_c, I_2), x ~ N(W z, 0.7^2 I_4); c is summed out, and no part of the guide."""

    def model(p: Any, x: Tensor | None) -> Any:
        c = pyro.sample("c", dist.Categorical(logits=p.logits), infer={"enumerate": "parallel"})
        z = pyro.sample("z", normal(p.means[c], p.origin + 1))
        return pyro.sample("x", normal(z @ p.W.T, p.scale), obs=x)

    return _target(model, 0.7)


def mixture_prior() -> Target:
    """z from a mixture of three Gaussians in two dimensions, as its prior, x ~ N(W z, I_4): vague data."""

    def model(p: Any, x: Tensor | None) -> Any:
        prior = dist.MixtureSameFamily(dist.Categorical(logits=p.logits), normal(p.means, p.origin + 1))
        z = pyro.sample("z", prior)
        return pyro.sample("x", normal(z @ p.W.T, p.scale), obs=x)

    return _target(model, 1.0)


def spike_slab() -> Target:
    """b ~ Bern(0.3), z ~ N(0, 1), x ~ N(b (2 + z), 0.5); b is summed out. Guide: as of the other two."""

    def model(p: Any, x: Tensor | None) -> Any:
        b = pyro.sample("b", dist.Bernoulli(p.share), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(p.origin, 1.0))
        return pyro.sample("x", dist.Normal(b * (p.shift + z), p.scale), obs=x)

    def classes(x: Tensor) -> Tensor:
        off = torch.log1p(-m.share) + dist.Normal(0.0, m.scale).log_prob(x)
        on = m.share.log() + dist.Normal(m.shift, (1 + m.scale.square()).sqrt()).log_prob(x)
        return torch.stack([off, on], -1)

    @torch.no_grad()
    def posterior(x: Tensor) -> Any:
        variance = 1 + m.scale.square()  # of x where b is 1
        loc = torch.stack([torch.zeros_like(x), (x - m.shift) / variance], -1)
        scale = torch.stack([torch.ones_like(m.scale), m.scale / variance.sqrt()])
        return dist.MixtureSameFamily(dist.Categorical(logits=classes(x)), dist.Normal(loc, scale))

    def guide(p: Any, x: Tensor) -> None:
        q = posterior(x)
        pyro.sample("z", dist.Normal(q.mean, p.stretch * q.stddev))

    def exact(p: Any, x: Tensor) -> None:
        pyro.sample("z", posterior(x))

    m: Any = Program(model, share=0.3, shift=2.0, scale=0.5)
    return Target(Pair(m, Program(guide, stretch=1.2)), lambda x: classes(x).logsumexp(-1), Program(exact))
