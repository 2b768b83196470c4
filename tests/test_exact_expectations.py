"""Objectives against exact expectations, without noise: each combination of K draws is a copy of one example.

A copy has the probability of its draws as its weight. Discrete draws have finitely many values; Gaussian ones are the
nodes of a Gauss-Hermite rule, as a function of which they are differentiated.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.scoring.terms import Terms, terms_of

STATES = 3
X = torch.tensor([0.8, -0.4], dtype=torch.float64)


def value(*numbers: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(numbers if len(numbers) > 1 else numbers[0], dtype=torch.float64))


class Target(nn.Module):
    """z ~ N(0, 1) and c of three classes, or one of the two; x ~ N(a z + table[c], 0.9), twice; q(c|z, x) follows z."""

    def __init__(self, latents: str) -> None:
        super().__init__()
        self.latents = latents
        self.a, self.logits = value(1.2), value(0.3, -0.5, 0.1)
        self.table = nn.Parameter(torch.tensor([[1.0, -1.0], [0.2, 0.5], [-1.0, 0.4]], dtype=torch.float64))
        self.loc, self.scale, self.slope, self.bias = (
            value(0.35),
            value(-0.4),
            value(0.5, -0.3, 0.2),
            value(0.1, 0.4, -0.2),
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mean: Any = torch.zeros(2, dtype=x.dtype)
            if "z" in self.latents:
                mean = mean + self.a * pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))[..., None]
            if "c" in self.latents:
                mean = mean + self.table[pyro.sample("c", dist.Categorical(logits=self.logits))]
            pyro.sample("x", dist.Normal(mean, 0.9).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = x[..., 1]
            if "z" in self.latents:
                z = pyro.sample("z", dist.Normal(self.loc * x[..., 0], self.scale.exp()))
            if "c" in self.latents:
                pyro.sample("c", dist.Categorical(logits=self.slope * z[..., None] + self.bias))


def expected(latents: str, objective: Any, reference: Any = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient of the expected value of ``reference``, and the expectation of the gradient of an objective."""
    count, target = objective.draws, Target(latents)
    nodes = {1: 40, 2: 16 if latents == "z" else 10, 3: 9, 4: 9}[count]
    at, mass = np.polynomial.hermite_e.hermegauss(nodes)
    one = [(z, m / mass.sum(), 0) for z, m in zip(at, mass, strict=True)] if "z" in latents else [(0.0, 1.0, 0)]
    if "c" in latents:
        one = [(z, m, c) for z, m, _ in one for c in range(STATES)]
    table = torch.tensor(np.array(list(itertools.product(one, repeat=count))))  # (B, K, 3)
    noise, weight, states = table[..., 0].T, table[..., 1].prod(1), table[..., 2].T.long()

    def drawn(name: str, q: Any) -> Tensor:
        return q.mean + q.stddev * noise if name == "z" else states

    def terms(grad: Any) -> tuple[Terms, Tensor]:
        x = (X.expand(len(weight), 2),)
        t = terms_of(target.model, target.guide, x, x, num_samples=count, values=drawn, grad=grad)
        return t, weight * (t.sites["c"].log_q.sum(0).exp() if "c" in latents else 1.0)

    def gradients(total: Tensor) -> dict[str, Tensor]:
        names, parameters = zip(*target.named_parameters(), strict=True)
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}

    t, probability = terms("path")
    log_w = t.log_lik + objective.beta * (t.log_prior - t.log_q)
    exact = gradients((probability * (reference or BOUNDS[type(objective)])(objective, log_w)).sum())
    t, probability = terms(objective.grad)
    return exact, gradients((probability.detach() * objective.value(t, objective.beta)).sum())


def mean(objective: Any, w: Tensor) -> Tensor:
    return w.mean(0)


def log_mean(objective: Any, w: Tensor) -> Tensor:
    return w.exp().mean(0).log()


BOUNDS: dict[Any, Any] = {
    pv.Elbo: mean, pv.Score: mean, pv.TVO: mean, pv.IWAE: log_mean, pv.VIMCO: log_mean,
    pv.Renyi: lambda o, w: ((1 - o.alpha) * w).exp().mean(0).log() / (1 - o.alpha),
    pv.CIWAE: lambda o, w: o.share * w.mean(0) + (1 - o.share) * log_mean(o, w),
    pv.MIWAE: lambda o, w: torch.stack([log_mean(o, w[i :: o.groups]) for i in range(o.groups)]).mean(0),
}  # fmt: skip
CASES = {
    "c": ["elbo:num_particles=2", "score:num_particles=3", "score:num_particles=2,baseline=none,beta=0.4",
          "vimco:num_particles=3", "vimco:num_particles=2,baseline=arithmetic", "vimco:num_particles=3,baseline=ovis",
          "vimco:num_particles=2,beta=0.4", "tvo:num_particles=3,partitions=1"],
    "z": ["iwae:num_particles=2,gradient=dreg", "renyi:num_particles=2,alpha=0.4",
          "renyi:num_particles=2,alpha=0.4,gradient=dreg,beta=0.5",
          "ciwae:num_particles=2,share=0.3,gradient=dreg,beta=0.5",
          "miwae:num_particles=2,groups=2,gradient=dreg", "vimco:num_particles=2,baseline=ovis",
          "vimco:num_particles=2,gradient=path", "score:num_particles=2", "tvo:num_particles=2,partitions=1"],
    "zc": ["elbo:num_particles=2", "score:num_particles=2,gradient=path", "score:num_particles=2",
           "vimco:num_particles=2",
           "vimco:num_particles=2,gradient=path", "vimco:num_particles=2,gradient=path,beta=0.4,baseline=ovis"],
}  # fmt: skip


@pytest.mark.parametrize(("latents", "name"), [(latents, name) for latents, many in CASES.items() for name in many])
def test_the_expected_gradient_is_that_of_the_bound(latents: str, name: str) -> None:
    """In every parameter, for discrete latents, Gaussian ones, and both in one guide."""
    exact, found = expected(latents, pv.objective(name))
    near = 1e-9 if latents == "c" else 3e-3  # of the rule
    for parameter, gradient in exact.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=near, atol=near, msg=lambda m: f"{parameter}: {m}")  # noqa: B023


def test_piwae_trains_each_half_by_its_own_bound() -> None:
    objective = pv.PIWAE(2, groups=2)
    joint, found = expected("z", objective, log_mean)
    grouped, _ = expected("z", objective, BOUNDS[pv.MIWAE])
    torch.testing.assert_close(found["a"], joint["a"], rtol=1e-2, atol=3e-3)
    torch.testing.assert_close(found["scale"], grouped["scale"], rtol=1e-2, atol=3e-3)
    assert float((joint["a"] - grouped["a"]).abs()) > 0.02
    assert float((joint["scale"] - grouped["scale"]).abs()) > 0.02


def test_an_objective_that_needs_a_density_refuses_a_delta() -> None:
    """Its gradient would be nothing, and the encoder would never move, without a message."""
    pair = pv.build("autoencoder", data_shape=(6,), latent=2, hidden=(5,))
    for name in ("score", "vimco", "rws", "tvo"):
        with pytest.raises(pv.PairError, match=r"'z'.*a Delta has none"):
            pv.objective(name)(pair.model, pair.guide)(torch.zeros(3, 6))
