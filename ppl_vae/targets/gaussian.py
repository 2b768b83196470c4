"""Linear Gaussian targets: log p(x) is that of a Gaussian, and the posterior is one."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..common.fields import X
from ..pairs.base import Pair
from .base import Program, Target, normal


def marginal(W: Tensor, scale: Tensor) -> Any:
    """p(x) of z ~ N(0, I), x ~ N(W z, diag(scale^2)): N(0, W W' + diag(scale^2))."""
    return dist.MultivariateNormal(W.new_zeros(len(W)), W @ W.T + torch.diag(scale.square().expand(len(W))))


@torch.no_grad()
def posterior(W: Tensor, scale: Tensor, x: Tensor, seen: Tensor | None = None) -> Any:
    """p(z|x) of the same model, from the entries of x (B, D) that were seen, all by default; without a gradient."""
    weight = scale.square().reciprocal().expand(x.shape)  # (B, D)
    weight = weight if seen is None else weight * seen
    eye = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
    precision = eye + torch.einsum("bd,di,dj->bij", weight, W, W)
    loc = torch.linalg.solve(precision, (weight * x) @ W)
    return dist.MultivariateNormal(loc, precision_matrix=precision)


def weights(rows: int, columns: int) -> Tensor:
    """A random matrix whose rows have length one on average."""
    return torch.randn(rows, columns, dtype=torch.float64) / math.sqrt(columns)


def ppca() -> Target:
    """z ~ N(0, I_3), x ~ N(W z, 0.5^2 I_8). Guide: the posterior's means and standard deviations, no covariance."""

    def model(p: Any, x: Tensor | None) -> Any:
        z = pyro.sample("z", p.standard(3))
        return pyro.sample("x", normal(z @ p.W.T, p.scale), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        pyro.sample("z", normal(x @ p.V, p.scale))

    def exact(p: Any, x: Tensor) -> None:
        pyro.sample("z", posterior(m.W, m.scale, x))

    m: Any = Program(model, W=weights(8, 3), scale=0.5)
    q = posterior(m.W, m.scale, torch.eye(8, dtype=torch.float64))  # of the unit vectors: its means are linear
    g = Program(guide, V=q.mean, scale=q.stddev[0])
    return Target(Pair(m, g), lambda x: marginal(m.W, m.scale).log_prob(x), Program(exact))


def missing() -> Target:
    """ppca with three of ten entries missing at random, as NaN. Guide: as there, from what was seen."""

    def model(p: Any, x: Tensor | None) -> Any:
        z = pyro.sample("z", p.standard(3))
        return pyro.sample("x", dist.NanMaskedNormal(z @ p.W.T, p.scale).to_event(1), obs=x)

    def given(x: Tensor) -> Any:
        return posterior(m.W, m.scale, x.nan_to_num(), ~x.isnan())

    def guide(p: Any, x: Tensor) -> None:
        q = given(x)
        pyro.sample("z", normal(q.mean, p.stretch * q.stddev))

    def exact(p: Any, x: Tensor) -> None:
        pyro.sample("z", given(x))

    def evidence(x: Tensor) -> Any:
        seen = ~x.isnan()  # (B, D)
        both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        covariance = torch.where(both, marginal(m.W, m.scale).covariance_matrix, torch.eye(8).to(x))
        # a missing entry counts as one that is zero, of an independent N(0, 1)
        filled = dist.MultivariateNormal(x.new_zeros(8), covariance).log_prob(x.nan_to_num())
        return filled + 0.5 * math.log(2 * math.pi) * (~seen).to(x).sum(-1)

    def draw(n: int) -> Tensor:
        x: Tensor = m(n=n)
        return torch.where(torch.rand(x.shape, device=x.device) < 0.3, math.nan, x)

    m: Any = Program(model, W=weights(8, 3), scale=0.5)
    return Target(Pair(m, Program(guide, stretch=1.0)), evidence, Program(exact), draw=draw)


def views() -> Target:
    """z ~ N(0, I_3), a ~ N(A z, 0.5^2 I_4), b ~ N(B z, 0.8^2 I_3): two observed sites. Guide: as of ppca."""

    def model(p: Any, x: X) -> Any:
        z = pyro.sample("z", p.standard(3))
        a = pyro.sample("a", normal(z @ p.A.T, p.scale_a), obs=None if x is None else x["a"])
        b = pyro.sample("b", normal(z @ p.B.T, p.scale_b), obs=None if x is None else x["b"])
        return {"a": a, "b": b}

    def whole() -> tuple[Tensor, Tensor]:
        return torch.cat([m.A, m.B]), torch.cat([m.scale_a.expand(4), m.scale_b.expand(3)])

    def both(x: X) -> Tensor:
        return torch.cat([x["a"], x["b"]], -1)

    def guide(p: Any, x: X) -> None:
        pyro.sample("z", normal(both(x) @ p.V, p.scale))

    def exact(p: Any, x: X) -> None:
        pyro.sample("z", posterior(*whole(), both(x)))

    m: Any = Program(model, A=weights(4, 3), B=weights(3, 3), scale_a=0.5, scale_b=0.8)
    q = posterior(*whole(), torch.eye(7, dtype=torch.float64))
    g = Program(guide, V=q.mean, scale=q.stddev[0])
    return Target(Pair(m, g), lambda x: marginal(*whole()).log_prob(both(x)), Program(exact))


def toy() -> Target:
    """Rainforth's toy: z ~ N(m, I_20), x ~ N(z, I). Guide: the posterior's mean, its variance times 4/3.

    Source: Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh: Tighter Variational Bounds are Not Necessarily Better,
    2018, arXiv:1802.04537.
    """

    def model(p: Any, x: Tensor | None) -> Any:
        z = pyro.sample("z", normal(p.m, p.one))
        return pyro.sample("x", normal(z, p.one), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        pyro.sample("z", normal(x @ p.A + p.b, p.scale))

    half = 0.5 * torch.eye(20, dtype=torch.float64)
    m: Any = Program(model, m=torch.randn(20, dtype=torch.float64), one=1.0)
    g = Program(guide, A=half, b=m.m.detach() / 2, scale=math.sqrt(2 / 3))
    exact = Program(guide, A=half, b=m.m.detach() / 2, scale=math.sqrt(1 / 2))
    return Target(Pair(m, g), lambda x: normal(m.m, math.sqrt(2) * m.one).log_prob(x), exact)


def two_layers() -> Target:
    """z2 ~ N(0, I_2), z1 ~ N(A z2, 0.5^2 I_3), x ~ N(W z1, 0.5^2 I_6). Guide: z1, then z2 | z1, no covariances."""

    def model(p: Any, x: Tensor | None) -> Any:
        z2 = pyro.sample("z2", p.standard(2))
        z1 = pyro.sample("z1", normal(z2 @ p.A.T, p.scale_z))
        return pyro.sample("x", normal(z1 @ p.W.T, p.scale_x), obs=x)

    def root() -> Any:
        return torch.linalg.cholesky(marginal(m.A, m.scale_z).covariance_matrix)  # z1 = root e, e ~ N(0, I)

    @torch.no_grad()
    def given(x: Tensor) -> Any:
        e = posterior(m.W @ root(), m.scale_x, x)
        return dist.MultivariateNormal(e.mean @ root().T, scale_tril=root() @ e.scale_tril)

    def above(z1: Tensor) -> Any:
        q = posterior(m.A, m.scale_z, z1.reshape(-1, 3))
        shape = (*z1.shape[:-1], 2)
        return q.mean.reshape(shape), q.scale_tril[0]

    def guide(p: Any, x: Tensor) -> None:
        z1 = pyro.sample("z1", normal(x @ p.V1, p.scale1))
        pyro.sample("z2", normal(z1 @ p.V2, p.scale2))

    def exact(p: Any, x: Tensor) -> None:
        z1 = pyro.sample("z1", given(x))
        loc, scale_tril = above(z1)
        pyro.sample("z2", dist.MultivariateNormal(loc, scale_tril=scale_tril))

    m: Any = Program(model, A=weights(3, 2), W=weights(6, 3), scale_z=0.5, scale_x=0.5)
    q1 = given(torch.eye(6, dtype=torch.float64))
    V2, scale_tril = above(torch.eye(3, dtype=torch.float64))
    spread = scale_tril.square().sum(-1).sqrt()
    g = Program(guide, V1=q1.mean, scale1=q1.stddev[0], V2=V2, scale2=spread)
    return Target(Pair(m, g), lambda x: marginal(m.W @ root(), m.scale_x).log_prob(x), Program(exact))


def narrow() -> Target:
    """ppca with noise of 0.03 in five latents. Guide: the prior, as of an encoder that was never trained."""

    def model(p: Any, x: Tensor | None) -> Any:
        z = pyro.sample("z", p.standard(5))
        return pyro.sample("x", normal(z @ p.W.T, p.scale), obs=x)

    def guide(p: Any, x: Tensor) -> None:
        pyro.sample("z", normal(p.loc.expand(len(x), 5), p.scale))

    def exact(p: Any, x: Tensor) -> None:
        pyro.sample("z", posterior(m.W, m.scale, x))

    m: Any = Program(model, W=weights(8, 5), scale=0.03)
    g = Program(guide, loc=torch.zeros(5), scale=1.0)
    why = "it is the prior: no draw comes near a posterior that is thirty times narrower in each of five dimensions"
    return Target(Pair(m, g), lambda x: marginal(m.W, m.scale).log_prob(x), Program(exact), why)
