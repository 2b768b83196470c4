"""Free bits: max(lambda, mean KL) of each latent site, against closed forms; estimates know nothing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.training.step import Guard
from ppl_vae.training.step_graph import StepGraphs

B, RATE = 6, 0.25


class Model(nn.Module):
    """Two Gaussian sites and a Bernoulli one; the data depend on none, so that the loss is the KL and a constant."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("c", dist.Bernoulli(torch.tensor(RATE)))
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(B, 2))
        self.b = nn.Parameter(0.1 * torch.randn(B, 3))
        self.c = nn.Parameter(torch.randn(B))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Normal(self.a, 0.5).to_event(1))
            pyro.sample("b", dist.Normal(self.b, 0.9).to_event(1))
            pyro.sample("c", dist.Bernoulli(logits=self.c))

    def kls(self) -> dict[str, Tensor]:
        """KL of each site and example, (B,) nats."""
        normal = [(0.5 * (s**2 + m**2 - 1) - np.log(s)).sum(-1) for m, s in ((self.a, 0.5), (self.b, 0.9))]
        p = torch.sigmoid(self.c)
        bernoulli = p * (p / RATE).log() + (1 - p) * ((1 - p) / (1 - RATE)).log()
        return {"a": normal[0], "b": normal[1], "c": bernoulli}


def closed_form(guide: Guide, x: Tensor, beta: float, free: float) -> Tensor:
    log_lik = dist.Normal(0.0, 1.0).log_prob(x).sum()
    kls = [kl.mean() for kl in guide.kls().values()]
    return 0 * guide.a.sum() - log_lik + beta * len(x) * sum(kl if kl > free else torch.tensor(free) for kl in kls)


@pytest.mark.parametrize("free", [0.0, 0.05, 0.5, 5.0, np.float32(0.5)])
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_the_loss_and_its_gradient_are_those_of_the_formula(free: Any, beta: float) -> None:
    torch.manual_seed(1)
    guide, x = Guide(), torch.randn(B, 1)
    kls = {k: float(v.mean().detach()) for k, v in guide.kls().items()}
    assert kls["b"] < 0.5 < kls["a"] < 5  # each case has another set of sites under the free nats
    expected = closed_form(guide, x, beta, float(free))
    wanted = torch.autograd.grad(expected, list(guide.parameters()), allow_unused=True)
    objective = pv.Elbo(num_particles=20_000, beta=beta, free_bits=free)
    loss = objective(Model(), guide)(x)
    found = torch.autograd.grad(loss, list(guide.parameters()))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=0.05 * beta)
    for (name, _), one, other in zip(guide.named_parameters(), found, wanted, strict=True):
        other = torch.zeros_like(one) if other is None else other
        assert torch.allclose(one, other, atol=0.06 * beta), name
        if name in "ab" and kls[name] < free:
            assert not one.any()  # nothing flows through a site that is free


@pytest.mark.parametrize("free", [0.05, 5.0])
def test_the_kl_in_closed_form_is_exact(free: float) -> None:
    class Reals(Model):
        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            with poutine.block(hide=["c"]):
                return super().forward(x, y, n)

    class RealsGuide(Guide):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with poutine.block(hide=["c"]):
                super().forward(x)

        def kls(self) -> dict[str, Tensor]:
            return {k: v for k, v in super().kls().items() if k != "c"}

    guide, x = RealsGuide(), torch.randn(B, 1)
    loss = pv.AnalyticKL(beta=2.0, free_bits=free)(Reals(), guide)(x)
    expected = closed_form(guide, x, 2.0, free)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    wanted = torch.autograd.grad(expected, [guide.a, guide.b], allow_unused=True) if expected.requires_grad else (None,)
    for one, other in zip(torch.autograd.grad(loss, [guide.a, guide.b], allow_unused=True), wanted, strict=False):
        assert torch.allclose(
            torch.zeros(1) if one is None else one, torch.zeros(1) if other is None else other, atol=1e-5
        )


def test_a_scale_of_the_plate_multiplies_the_free_nats_as_it_does_the_kl() -> None:
    torch.manual_seed(0)
    guide, x = Guide(), torch.randn(B, 1)
    objective = pv.Elbo(num_particles=3, free_bits=0.5)
    losses = []
    for scale in (1.0, 10.0):
        torch.manual_seed(3)
        losses.append(float(objective(poutine.scale(Model(), scale), poutine.scale(guide, scale))(x).detach()))
    assert losses[1] == pytest.approx(10 * losses[0], rel=1e-5)


def test_nothing_free_is_the_elbo_bit_for_bit() -> None:
    torch.manual_seed(0)
    guide, x = Guide(), torch.randn(B, 1)
    results = []
    for objective in (pv.Elbo(), pv.Elbo(beta=1, free_bits=0), pv.Elbo(free_bits=1e-30)):
        torch.manual_seed(3)
        loss = objective(Model(), guide)(x)
        results.append([loss, *torch.autograd.grad(loss, list(guide.parameters()))])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("make", [pv.Elbo, pv.AnalyticKL])
def test_a_graph_of_it_is_the_same(make: Any) -> None:
    """The mean KL is compared on the device; beta is a tensor in the graph, and may move."""
    torch.manual_seed(0)
    pair = pv.build("hierarchical", data_shape=(5,), latent=(3, 2), hidden=(4,), hidden2=(4,))
    x = (torch.rand(8, 5) > 0.5).float()
    objective = make(num_particles=2, beta=2.0, free_bits=0.1) if make is pv.Elbo else None
    if objective is None:
        pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(4,))
        objective = make(beta=2.0, free_bits=0.1)
    params = list(pair.parameters())
    graphs = StepGraphs(objective, (pair.model, pair.guide), Guard(torch.device("cpu")), compiled=False)
    for beta, free in ((2.0, 0.1), (0.5, 0.1), (0.5, 9.0)):
        objective.beta, objective.free_bits = beta, free
        torch.manual_seed(5)
        loss = objective(pair.model, pair.guide)(x)
        wanted = torch.autograd.grad(loss, params, allow_unused=True)
        torch.manual_seed(5)
        found, _, _ = graphs(params, (x,), {})
        assert float(found) == pytest.approx(float(loss.detach()), rel=1e-5)
        for p, g in zip(params, wanted, strict=True):
            grad, p.grad = p.grad, None
            assert torch.allclose(
                torch.zeros_like(p) if grad is None else grad, torch.zeros_like(p) if g is None else g, atol=1e-5
            )


def test_estimates_and_the_validation_elbo_ignore_them_and_the_trained_bound_does_not() -> None:
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(4,), latent=2)
    x = torch.randn(60, 4)
    data = pv.load_data(x, valid=0.3, test=0.1, seed=0, binarize="none")
    options: dict[str, Any] = {"epochs": 1, "schedule": lambda done: 0.0, "progress": False, "device": "cpu"}
    free = pv.fit(pair, data, pv.Elbo(free_bits=50.0), **options)[0]
    plain = pv.fit(pair, data, pv.Elbo(), **options)[0]
    assert free["valid_elbo"] == plain["valid_elbo"]
    assert free["valid_bound"] < plain["valid_bound"] - 30
    assert free["train_bound"] < plain["train_bound"] - 30


def test_free_bits_keep_a_latent_alive() -> None:
    """A decoder that needs no latent: the ELBO lets its KL go to 0, free bits leave it where it costs nothing."""
    ends = []
    for free in (0.0, 1.0):
        torch.manual_seed(0)
        pair = pv.build("vae", data_shape=(3,), latent=1, hidden=(4,))
        with torch.no_grad():
            for p in pair.guide.parameters():
                p.mul_(3)
        x = (torch.rand(64, 3) > 0.5).float()
        pv.fit(pair, x, pv.AnalyticKL(free_bits=free), epochs=60, lr=3e-2, progress=False, device="cpu")
        kl = pv.terms(pair.model, pair.guide, x).sites["z"].kl
        assert kl is not None
        ends.append(float(kl.mean().detach()))
    assert ends[0] < 0.3 < 0.8 < ends[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pv.Elbo(free_bits=-1), "free_bits=-1"),
        (lambda: pv.Elbo(free_bits="1"), "free_bits='1'"),
        (lambda: pv.Elbo(free_bits=float("nan")), "free_bits=nan"),
        (lambda: pv.Elbo(num_particles=2, vectorize=False, free_bits=1.0), "score them together"),
        (
            lambda: pv.objective("iwae", free_bits=1.0),
            "takes no option free_bits; it takes num_particles, gradient, beta",
        ),
        (lambda: pv.objective("elbo", beta=-1), "objective 'elbo': beta=-1"),
        (lambda: pv.Elbo(num_particles=1.5), "num_particles=1.5"),  # type: ignore[arg-type]
        (lambda: pv.Elbo(vectorize=3), "vectorize=3"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        make()


def test_free_bits_and_shards_are_refused_together() -> None:
    pair = pv.build("linear", data_shape=(3,), latent=2)
    with pytest.raises(pv.UserError, match="free_bits takes the mean KL of all examples of a step"):
        pv.fit(pair, torch.zeros(8, 3), pv.Elbo(free_bits=1.0), shards=2, epochs=1, progress=False)
