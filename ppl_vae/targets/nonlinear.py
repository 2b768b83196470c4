"""Nonlinear decoders and heavy tails in one or two latent dimensions: log p(x) by quadrature over z."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..pairs.base import Pair
from .base import Program, Target, normal
from .gaussian import weights

HELD = 2**24  # numbers of a quadrature that are held at once
Rule = tuple[Tensor, Tensor]  # nodes (G, L), and the logarithm of dz at each, (G,)


def even(reach: float, count: int = 2000) -> Rule:
    """The trapezoidal rule: its error falls faster than any power, where the integrand is smooth and ends at zero."""
    z = torch.linspace(-reach, reach, count + 1, dtype=torch.float64)
    return z.unsqueeze(-1), torch.full_like(z, math.log(2 * reach / count))


def plane(reach: float, count: int = 120) -> Rule:
    """The same in two dimensions."""
    z, log_dz = even(reach, count)
    return torch.cartesian_prod(z[:, 0], z[:, 0]), 2 * log_dz.repeat_interleave(len(z))


def by_quantiles(law: Any, count: int = 4000) -> Rule:
    """The midpoint rule over u = P(z) of a law with heavy tails: dz = du / p(z)."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = law.icdf(u)
    return z.unsqueeze(-1), -math.log(count) - law.log_prob(z)


def _target(
    prior: Callable[[Any], Any],
    likelihood: Callable[[Any, Tensor], Any],
    rule: Callable[..., Rule],
    guide: Callable[[Tensor, Tensor, Tensor], Any],
    defeats: str = "",
    few: int = 200,
    **numbers: Any,
) -> Target:
    """A prior and a likelihood; the guide is made of few nodes (G, L), their posterior shares (B, G), and a factor."""

    def model(p: Any, x: Tensor | None) -> Any:
        z = pyro.sample("z", prior(p))
        return pyro.sample("x", likelihood(p, z), obs=x)

    def log_joint(x: Tensor, rule: Rule) -> Tensor:
        """log p(x, z) dz at the nodes, (B, G)."""
        nodes, log_dz = (t.to(x.device) for t in rule)
        given, weight = likelihood(m, nodes), prior(m).log_prob(nodes) + log_dz
        size = max(1, HELD // (len(nodes) * x.shape[-1]))
        return torch.cat([given.log_prob(part.unsqueeze(1)) + weight for part in x.split(size)])

    def approximate(p: Any, x: Tensor) -> None:
        with torch.no_grad():
            shares = log_joint(x, coarse).softmax(-1)
        pyro.sample("z", guide(coarse[0].to(x.device), shares, p.stretch))

    m, fine, coarse = Program(model, **numbers), rule(), rule(count=few)
    pair = Pair(m, Program(approximate, stretch=1.2))
    return Target(pair, lambda x: log_joint(x, fine).logsumexp(-1), defeats=defeats)


def moments(nodes: Tensor, shares: Tensor, stretch: Tensor) -> Any:
    """Independent Gaussians with the mean and the standard deviations of the posterior, these times a factor."""
    mean = shares @ nodes
    spread = (shares @ nodes.square() - mean.square()).clamp(min=1e-12).sqrt()
    return normal(mean, stretch * spread)


def quartiles(nodes: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The median (B, 1) of the posterior, and half the distance of its quartiles."""
    ends = torch.tensor([0.25, 0.5, 0.75]).to(shares).expand(len(shares), 3).contiguous()
    place = torch.searchsorted(shares.cumsum(-1), ends).clamp(max=len(nodes) - 1)
    low, middle, high = nodes[place, 0].unbind(-1)
    return middle.unsqueeze(-1), (high - low).unsqueeze(-1) / 2


def curve() -> Target:
    """z ~ N(0, 1), x ~ N((z, z^2 / 2, sin 2z), 0.5^2 I). Guide: a Gaussian, 1.2 times as wide as the posterior."""

    def likelihood(p: Any, z: Tensor) -> Any:
        return normal(torch.cat([z, z.square() / 2, torch.sin(2 * z)], -1), p.scale)

    return _target(lambda p: p.standard(1), likelihood, partial(even, 12.0), moments, scale=0.5)


def surface() -> Target:
    """z ~ N(0, I_2), x of eight bits from a network of eight tanh units. Guide: Gaussians, 1.2 times as wide."""

    def likelihood(p: Any, z: Tensor) -> Any:
        return dist.Bernoulli(logits=torch.tanh(z @ p.W1.T + p.b) @ p.W2.T).to_event(1)

    numbers: dict[str, Any] = {
        "W1": weights(8, 2),
        "b": torch.randn(8, dtype=torch.float64),
        "W2": 2 * weights(8, 8),
    }
    return _target(lambda p: p.standard(2), likelihood, partial(plane, 9.0), moments, few=24, **numbers)


def _heavy(guide: Callable[..., Any], defeats: str = "") -> Target:
    def likelihood(p: Any, z: Tensor) -> Any:
        return dist.Bernoulli(logits=(z - p.shift) / p.scale).to_event(1)

    shift, zero = torch.tensor([-1.0, 0.0, 0.5, 2.0]), torch.zeros((), dtype=torch.float64)
    return _target(
        lambda p: dist.Cauchy(p.origin, 1.0).expand([1]).to_event(1), likelihood,
        partial(by_quantiles, dist.Cauchy(zero, 1.0)), guide, defeats, shift=shift, scale=1.0,
    )  # fmt: skip


def heavy_tail() -> Target:
    """z ~ Cauchy(0, 1), four bits x ~ Bern(sigmoid(z - b)). Guide: Student's t, 1.5 degrees of freedom."""

    def guide(nodes: Tensor, shares: Tensor, stretch: Tensor) -> Any:
        middle, half = quartiles(nodes, shares)
        return dist.StudentT(torch.full_like(half, 1.5), middle, stretch * half).to_event(1)

    return _heavy(guide)


def heavy_tail_gaussian() -> Target:
    """The same model. Guide: a Gaussian with the posterior's quartiles, 1.2 times as wide."""

    def guide(nodes: Tensor, shares: Tensor, stretch: Tensor) -> Any:
        middle, half = quartiles(nodes, shares)
        return normal(middle, stretch * half / 0.6745)

    return _heavy(guide, "its tails end where those of the posterior go on: a tenth of p(x) may lie beyond its draws")


def modes() -> Target:
    """z of two Gaussians at -3 and 3, x ~ N(z^2 / 3, 0.5): the sign is unknown. Guide: the positive half alone."""

    def prior(p: Any) -> Any:
        centres = torch.stack([-p.centre, p.centre]).unsqueeze(-1)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(2).to(centres)), normal(centres, p.spread))

    def guide(nodes: Tensor, shares: Tensor, stretch: Tensor) -> Any:
        half = shares * (nodes[:, 0] > 0)
        return moments(nodes, half / half.sum(-1, keepdim=True), stretch)

    return _target(
        prior, lambda p, z: normal(z.square() / 3, p.scale), partial(even, 12.0), guide,
        "it knows one of two modes, of half the mass each: log p(x) comes out log 2 too low, and no draw shows it",
        centre=3.0, spread=0.7, scale=0.5,
    )  # fmt: skip
