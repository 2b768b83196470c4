"""Chains: a Gaussian one, whose answer the Kalman filter gives, and a discrete one: the forward algorithm."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..common.fields import X
from ..pairs.base import Pair
from .base import Program, Target, normal

STEPS = 60


def _chain(m: Any) -> Any:
    """The root (T, T) of the covariance of z_1 ~ N(0, s^2 / (1 - a^2)), z_t ~ N(a z_{t-1}, s^2): z = root e."""
    lag = torch.arange(STEPS, device=m.a.device)
    power = (lag.unsqueeze(1) - lag).clamp(min=0)
    root = (m.a**power * m.step).tril()
    first = torch.cat([(1 - m.a.square()).rsqrt().reshape(1), torch.ones(STEPS - 1).to(m.a)])
    return root * first


def _seen(x: X) -> Any:
    """(B, T) bool: the steps before the end of each series."""
    return torch.arange(STEPS, device=x["length"].device) < x["length"].unsqueeze(-1)


@torch.no_grad()
def _smoother(m: Any, x: X) -> Any:
    """p(z_1, ..., z_T | x), from the precision of the chain and that of what was seen."""
    seen = _seen(x).to(m.a) / m.noise.square()  # (B, T)
    precision = torch.cholesky_inverse(_chain(m)) + torch.diag_embed(seen)
    loc = torch.linalg.solve(precision, seen * x["series"])
    return dist.MultivariateNormal(loc, precision_matrix=precision)


def _filter(m: Any, x: X) -> Tensor:
    """log p(x) of each series by the Kalman filter: predict, score, correct, for each step."""
    mean = torch.zeros_like(x["series"][:, 0])
    variance = m.step.square() / (1 - m.a.square()) + mean
    total = torch.zeros_like(mean)
    for value, seen in zip(x["series"].unbind(1), _seen(x).unbind(1), strict=True):
        spread = variance + m.noise.square()
        score = dist.Normal(mean, spread.sqrt()).log_prob(value)
        gain = torch.where(seen, variance / spread, 0.0)
        total = total + torch.where(seen, score, 0.0)
        mean, variance = mean + gain * (value - mean), variance * (1 - gain)
        mean, variance = m.a * mean, m.a.square() * variance + m.step.square()
    return total


def _model(p: Any, x: X) -> Any:
    z = pyro.sample("z", dist.MultivariateNormal(p.origin.expand(STEPS), scale_tril=_chain(p)))
    values = dist.Normal(z, p.noise)
    if x is None:
        return {"series": pyro.sample("x", values.to_event(1)), "length": torch.full(z.shape[:-1], STEPS)}
    return pyro.sample("x", values.mask(_seen(x)).to_event(1), obs=x["series"])


def _kalman(guide: Any, stretch: float, defeats: str = "") -> Target:
    def draw(n: int) -> X:
        x = m(n=n)
        length = torch.randint(10, STEPS + 1, (n,), device=m.a.device)
        whole = {"series": x["series"], "length": length}
        return {**whole, "series": torch.where(_seen(whole), x["series"], 0.0)}

    def exact(p: Any, x: X) -> None:
        pyro.sample("z", _smoother(m, x))

    def imperfect(p: Any, x: X) -> None:
        q = _smoother(m, x)
        pyro.sample("z", guide(q, p.stretch))

    m: Any = Program(_model, a=0.9, step=0.5, noise=0.5)
    pair = Pair(m, Program(imperfect, stretch=stretch))
    return Target(pair, lambda x: _filter(m, x), Program(exact), defeats, draw)


def kalman() -> Target:
    """z_1, ..., z_60 in a chain, x = {series, length}, padded. Guide: the posterior, its scale 1.03 times."""
    return _kalman(lambda q, k: dist.MultivariateNormal(q.mean, scale_tril=k * q.scale_tril), 1.03)


def kalman_steps() -> Target:
    """The same chain. Guide: a Gaussian for each step, with the posterior's mean and spread of that step alone."""
    why = "it has no correlation between steps, and the posterior has it between all that are near"
    return _kalman(lambda q, k: normal(q.mean, k * q.stddev), 1.0, why)


def hmm(steps: int = STEPS) -> Target:
    """c_1, ..., c_60 of three states in a chain, x_t ~ N(m_c, 0.7): all are summed out, and the guide is empty."""

    def model(p: Any, x: Tensor | None) -> Any:
        c, found = None, []
        for t in range(steps):
            logits = p.first if c is None else p.moves[c]
            c = pyro.sample(f"c_{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            value = None if x is None else x[:, t]
            found.append(pyro.sample(f"x_{t}", dist.Normal(p.means[c], p.scale), obs=value))
        return torch.stack(torch.broadcast_tensors(*found), -1)

    def forward(x: Tensor) -> Tensor:
        alpha = m.first.log_softmax(-1)  # log p(c_t, x_1, ..., x_{t-1}), (B, 3)
        moves = m.moves.log_softmax(-1)
        for value in x.unbind(1):
            alpha = alpha + dist.Normal(m.means, m.scale).log_prob(value.unsqueeze(-1))
            after = torch.logsumexp(alpha.unsqueeze(-1) + moves, -2)
            alpha, total = after, alpha.logsumexp(-1)
        return total

    moves = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]).log()
    first = torch.tensor([0.5, 0.3, 0.2]).log()
    m: Any = Program(model, first=first, moves=moves, means=torch.tensor([-1.0, 0.5, 2.0]), scale=0.7)
    empty = Program(lambda p, x: None)
    return Target(Pair(m, empty), forward, empty)
