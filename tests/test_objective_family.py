"""Every objective against the exact gradient of what it claims: by quadrature, or by the sum over all draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv

F64 = torch.float64
X = 1.3  # the one example of all targets


def value(number: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(number, dtype=F64))


class Line(nn.Module):
    """z ~ N(m, 1), x ~ N(z, 0.8); the guide N(c, exp(s)). The gradient is of (m, c, s)."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.c, self.s = value(0.4), value(0.1), value(-0.5)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.m, 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.c, self.s.exp()))

    def log_weight(self, z: Tensor) -> Tensor:
        joint = dist.Normal(self.m, 1.0).log_prob(z) + dist.Normal(z, 0.8).log_prob(torch.tensor(X, dtype=F64))
        return joint - dist.Normal(self.c, self.s.exp()).log_prob(z)

    def expected(self, function: Callable[[Tensor], Tensor], count: int, nodes: int = 40) -> Tensor:
        """E of a function of K log weights (K, n), by Gauss-Hermite quadrature over K draws of the guide."""
        at, mass = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
        log_w = self.log_weight(self.c + self.s.exp() * at)
        grid = torch.stack(torch.meshgrid(*[log_w] * count, indexing="ij")).flatten(1)
        weight = torch.stack(torch.meshgrid(*[mass / mass.sum()] * count, indexing="ij")).flatten(1).prod(0)
        return (weight * function(grid)).sum()


class Bits(nn.Module):
    """Two bits z with logits a, x ~ N(z_1 + 2 z_2 + m, 1); the guide has logits b. The gradient is of (m, a, b)."""

    def __init__(self) -> None:
        super().__init__()
        self.m = value(0.2)
        self.a = nn.Parameter(torch.tensor([-0.5, 0.4], dtype=F64))
        self.b = nn.Parameter(torch.tensor([0.3, -0.2], dtype=F64))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.a).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0] + 2 * z[..., 1] + self.m, 1.0), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.b.expand(len(x), 2)).to_event(1))

    def states(self) -> tuple[Tensor, Tensor]:
        """log p(x, z) and log q(z) of the four values of z."""
        z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=F64)
        x = torch.tensor(X, dtype=F64)
        joint = dist.Bernoulli(logits=self.a).to_event(1).log_prob(z)
        joint = joint + dist.Normal(z[:, 0] + 2 * z[:, 1] + self.m, 1.0).log_prob(x)
        return joint, dist.Bernoulli(logits=self.b).to_event(1).log_prob(z)

    def expected(self, function: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """E of a function of K log weights (K, n), by the sum over all draws."""
        joint, log_q = self.states()
        grid = torch.stack(torch.meshgrid(*[joint - log_q] * count, indexing="ij")).flatten(1)
        mass = torch.stack(torch.meshgrid(*[log_q] * count, indexing="ij")).flatten(1).sum(0).exp()
        return (mass * function(grid)).sum()


def log_mean_exp(log_w: Tensor, power: float = 1.0) -> Tensor:
    return (torch.logsumexp(power * log_w, 0) - math.log(len(log_w))) / power


def mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


def gradient(target: nn.Module, bound: Tensor) -> dict[str, Tensor]:
    names, params = zip(*target.named_parameters(), strict=True)
    found = torch.autograd.grad(bound, params, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, params, found, strict=True)}


def drawn(target: Any, objective: Any, copies: int = 3000, batches: int = 20) -> tuple[dict[str, Tensor], Any]:
    """The mean gradient of the bound over independent copies of the example, and its standard error."""
    rows: dict[str, list[Tensor]] = {}
    x = torch.full((copies,), X, dtype=F64)
    for seed in range(batches):
        pyro.set_rng_seed(seed)
        bound = -objective(target.model, target.guide)(x) / copies
        for name, g in gradient(target, bound).items():
            rows.setdefault(name, []).append(g)
    stacked = {name: torch.stack(g) for name, g in rows.items()}
    return {n: g.mean(0) for n, g in stacked.items()}, {n: g.std(0) / math.sqrt(batches) for n, g in stacked.items()}


def mixed(theta: Callable[[Any], Tensor], phi: Callable[[Any], Tensor], target: Any) -> dict[str, Tensor]:
    """The gradient of the model by one bound, and of the guide by another."""
    of_theta, of_phi = gradient(target, theta(target)), gradient(target, phi(target))
    return {n: of_phi[n] if n in ("c", "s", "b") else of_theta[n] for n in of_theta}


def bound(function: Callable[[Tensor], Tensor], count: int) -> Callable[[Any], Tensor]:
    return lambda target: target.expected(function, count)


def same(function: Callable[[Tensor], Tensor], count: int) -> Callable[[Any], dict[str, Tensor]]:
    return lambda target: gradient(target, target.expected(function, count))


def weighted_score(target: Any) -> Tensor:
    """A scalar whose gradient in the guide is E[sum_k w_k grad log q(z_k)] of two draws, w normalised."""
    joint, log_q = target.states()
    w = torch.softmax(torch.stack(torch.meshgrid(*[joint - log_q] * 2, indexing="ij")).detach(), 0)
    mass = (log_q[:, None] + log_q[None, :]).detach().exp()
    return (mass * (w * torch.stack(torch.meshgrid(log_q, log_q, indexing="ij"))).sum(0)).sum()


def weighted_joint(target: Any) -> Tensor:
    """The same of log p(x, z_k), for the model."""
    joint, log_q = target.states()
    w = torch.softmax(torch.stack(torch.meshgrid(*[joint - log_q] * 2, indexing="ij")).detach(), 0)
    mass = (log_q[:, None] + log_q[None, :]).detach().exp()
    return (mass * (w * torch.stack(torch.meshgrid(joint, joint, indexing="ij"))).sum(0)).sum()


def model_draws(target: Any) -> Tensor:
    """The gradient of the sleep phase: E_p(z)[log q(z)], since the guide of these bits does not depend on x."""
    _, log_q = target.states()
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=F64)
    return (dist.Bernoulli(logits=target.a).to_event(1).log_prob(z).detach().exp() * log_q).sum()


half = partial(log_mean_exp, power=0.5)
EXACT: dict[str, tuple[type, Any, Callable[[Any], dict[str, Tensor]]]] = {
    # name: (target, objective, the exact expectation of its gradient)
    "iwae": (Line, pv.IWAE(2), same(log_mean_exp, 2)),
    "renyi": (Line, pv.Renyi(2, alpha=0.5), same(half, 2)),
    "renyi dreg": (Line, pv.Renyi(2, alpha=0.5, gradient="dreg"), same(half, 2)),
    "renyi dreg elbo": (Line, pv.Renyi(2, alpha=1.0, gradient="dreg"), same(mean, 1)),
    "miwae": (Line, pv.MIWAE(2, groups=2), same(log_mean_exp, 2)),
    "miwae dreg": (Line, pv.MIWAE(2, groups=2, gradient="dreg"), same(log_mean_exp, 2)),
    "piwae": (Line, pv.PIWAE(2, groups=2), partial(mixed, bound(log_mean_exp, 4), bound(log_mean_exp, 2))),
    "ciwae": (Line, pv.CIWAE(2, share=0.3), same(lambda w: 0.3 * mean(w) + 0.7 * log_mean_exp(w), 2)),
    "ciwae dreg": (
        Line, pv.CIWAE(2, share=0.3, gradient="dreg"), same(lambda w: 0.3 * mean(w) + 0.7 * log_mean_exp(w), 2)
    ),
    "score": (Bits, pv.Score(2), same(mean, 1)),
    "score batch": (Bits, pv.Score(1, baseline="batch"), same(mean, 1)),
    "score none": (Bits, pv.Score(1, baseline="none"), same(mean, 1)),
    "score of a Gaussian": (Line, pv.Score(2), same(mean, 1)),
    "vimco": (Bits, pv.VIMCO(2), same(log_mean_exp, 2)),
    "vimco of three": (Bits, pv.VIMCO(3), same(log_mean_exp, 3)),
    "vimco arithmetic": (Bits, pv.VIMCO(3, baseline="arithmetic"), same(log_mean_exp, 3)),
    "vimco ovis": (Bits, pv.VIMCO(3, baseline="ovis"), same(log_mean_exp, 3)),
    "vimco of a Gaussian": (Line, pv.VIMCO(2), same(log_mean_exp, 2)),
    "rws wake": (Bits, pv.RWS(2), partial(mixed, weighted_joint, weighted_score)),
    "rws sleep": (Bits, pv.RWS(2, phi="sleep"), partial(mixed, weighted_joint, model_draws)),
    "rws both": (
        Bits, pv.RWS(2, phi="both"), partial(mixed, weighted_joint, lambda t: (model_draws(t) + weighted_score(t)) / 2)
    ),
    "tvo of one part": (Bits, pv.TVO(2, partitions=1), same(mean, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_gradient_is_the_exact_one(name: str) -> None:
    make, objective, truth = EXACT[name]
    target = make()
    exact = truth(target)
    found, error = drawn(target, objective)
    for parameter, g in exact.items():
        z = (found[parameter] - g).abs() / (error[parameter] + 1e-9)
        assert float(z.max()) < 4.5, (parameter, g, found[parameter], z)
        assert float((error[parameter] / (g.abs() + 0.05)).max()) < 0.2  # the test can see a wrong gradient


@pytest.mark.parametrize("name", ["iwae", "renyi", "miwae", "ciwae", "score", "vimco", "tvo of one part"])
def test_the_value_is_the_exact_bound(name: str) -> None:
    values = {
        "iwae": (log_mean_exp, 2), "renyi": (half, 2), "miwae": (log_mean_exp, 2), "score": (mean, 1),
        "ciwae": (lambda w: 0.3 * mean(w) + 0.7 * log_mean_exp(w), 2), "vimco": (log_mean_exp, 2),
        "tvo of one part": (mean, 1),
    }  # fmt: skip
    make, objective, _ = EXACT[name]
    target = make()
    exact = target.expected(*values[name]).detach()
    pyro.set_rng_seed(0)
    with torch.no_grad():
        found = objective.bounds(target.model, target.guide, torch.full((40_000,), X, dtype=F64))
    assert abs(float(found.mean() - exact)) < 4.5 * float(found.std()) / 200


def thermodynamic(target: Any, temperatures: Tensor) -> Tensor:
    """The left Riemann sum with exact expectations."""
    joint, log_q = target.states()
    parts = []
    for b, width in zip(temperatures[:-1], temperatures.diff(), strict=True):
        pi = torch.softmax(b * joint + (1 - b) * log_q, 0)
        parts.append(width * (pi * (joint - log_q)).sum())
    return torch.stack(parts).sum()


def test_self_normalised_gradients_reach_their_limit_as_k_grows() -> None:
    """TVO its exact Riemann sum, CUBO the chi-square bound, wake-phi KL(p || q): with an error that falls as 1/K."""
    line, bits = Line(), Bits()
    line.c.data.fill_(0.7)  # weights squared are heavy where the guide is far off
    chi = gradient(line, -line.expected(lambda w: (2 * w).exp().mean(0), 1, 80).log() / 2)
    posterior = torch.softmax(bits.states()[0], 0).detach()
    inclusive = gradient(bits, (posterior * bits.states()[1]).sum())
    tvo = gradient(bits, thermodynamic(bits, torch.tensor([0.0, 0.1, 10**-0.5, 1.0], dtype=F64)))
    for target, make, exact, names in (
        (line, lambda k: pv.CUBO(k), chi, "cs"),
        (bits, lambda k: pv.RWS(k), inclusive, "b"),
        (bits, lambda k: pv.TVO(k, partitions=3), tvo, "mab"),
    ):
        off = []
        for k in (4, 256):
            found, error = drawn(target, make(k), copies=40_000 // k, batches=10)
            off.append(max(float((found[n] - exact[n]).abs().max() - 4 * error[n].max()) for n in names))
        assert off[1] < 0.02, (type(make(2)), off)
        assert off[0] > 0.0, (type(make(2)), off)  # at four particles the bias is seen


def test_objectives_meet_where_their_options_say() -> None:
    """The same draws, the same value and the same gradient."""
    pair = CASES["hierarchical"].build().double()
    x = CASES["hierarchical"].draw(5)[0].double()

    def of(objective: Any) -> list[Tensor]:
        pyro.set_rng_seed(1)
        loss = objective(pair.model, pair.guide)(x)
        return [loss.detach(), *torch.autograd.grad(loss, list(pair.parameters()))]

    def agree(one: Any, *others: Any) -> None:
        for other in others:
            for a, b in zip(of(one), of(other), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    agree(pv.IWAE(6), pv.Renyi(6, alpha=0.0), pv.MIWAE(6, groups=1), pv.CIWAE(6, share=0.0))
    dreg: dict[str, Any] = {"gradient": "dreg"}
    agree(
        pv.IWAE(6, **dreg), pv.Renyi(6, alpha=0.0, **dreg), pv.MIWAE(6, 1, **dreg), pv.CIWAE(6, share=0.0, **dreg),
        pv.PIWAE(6, groups=1),
    )  # fmt: skip
    agree(pv.IWAE(6, beta=0.3, **dreg), pv.Renyi(6, alpha=0.0, beta=0.3, **dreg), pv.PIWAE(6, groups=1, beta=0.3))
    agree(pv.Elbo(6), pv.Renyi(6, alpha=1.0), pv.MIWAE(1, groups=6), pv.CIWAE(6, share=1.0))
    agree(pv.Elbo(6, gradient="stl"), pv.Renyi(6, alpha=1.0, **dreg), pv.CIWAE(6, share=1.0, **dreg))


def test_weights_that_underflow_leave_gradients_finite() -> None:
    """A group far from the others has weights of zero among all particles, and one of its own."""
    pair = pv.build("linear", data_shape=(40,), latent=2)
    with torch.no_grad():
        pair.model.W.mul_(30)
    for objective in (pv.PIWAE(2, groups=8), pv.CUBO(16), pv.VIMCO(16), pv.RWS(16), pv.TVO(16), pv.Score(16)):
        pair.zero_grad()
        objective(pair.model, pair.guide)(torch.randn(5, 40)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters()), objective


FAMILY = ["renyi", "miwae:groups=2", "piwae:groups=2", "ciwae", "cubo", "score", "vimco", "rws", "tvo"]


@pytest.mark.parametrize("guide", ["diagonal", "full", "flow", "mixture:components=2"])
def test_every_objective_trains_every_guide(guide: str) -> None:
    """Finite gradients for every parameter, and a loss that falls."""
    torch.manual_seed(0)
    x = (torch.rand(32, 8) > 0.5).float()
    for name in FAMILY:
        pair = pv.build("vae", data_shape=(8,), latent=2, hidden=(8,), guide=guide)
        objective = pv.objective(name, num_particles=8)
        history = pv.fit(pair, x, objective, epochs=25, batch_size=32, lr=2e-2, device="cpu", progress=False)
        assert history[-1]["train_bound"] > history[0]["train_bound"], name
        pair.zero_grad()
        objective(pair.model, pair.guide)(x).backward()
        for parameter in pair.parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_names_options_and_mistakes() -> None:
    found = pv.objective("renyi:alpha=0.3,gradient=dreg", num_particles=7)
    assert (found.alpha, found.gradient, found.num_particles) == (0.3, "dreg", 7)
    assert pv.objective("miwae", num_particles=3, groups=4).draws == 12
    for text, message in {
        "renyi:alpha=1.5": "alpha=1.5: a number from 0 .iwae. to 1",
        "renyi:gamma=1": "takes no option gamma; it takes num_particles, alpha",
        "vimco:num_particles=1": "num_particles=2 or more is needed",
        "vimco:baseline=best": "baseline='best': choose one of 'geometric'",
        "score:num_particles=1": "with one, use baseline='batch'",
        "tvo:partitions=0": "partitions=0: a whole number is needed",
        "miwae:groups=half": "groups='half': a whole number is needed",
        "ciwae:share=2": "share=2: the share of the ELBO is a number from 0 to 1",
        "rws:phi=dream": "phi='dream': choose one of 'wake', 'sleep', 'both'",
    }.items():
        with pytest.raises(pv.UserError, match=message) as caught:
            pv.objective(text)
        assert "\n" not in str(caught.value)


def test_draws_without_a_gradient_are_refused_by_name() -> None:
    bits = Bits()
    for name in ("renyi", "miwae", "ciwae"):
        with pytest.raises(pv.PairError, match=f"'z'.*{name}.* differentiates through the draws"):
            pv.objective(name)(bits.model, bits.guide)(torch.zeros(3, dtype=F64))
