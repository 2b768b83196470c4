"""Mixture priors: annealing and Hamiltonian moves run over the components' support, and find the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.scoring.support import unconstraining

X = torch.tensor([[1.5], [-2.0], [0.1]])
W, MEANS, SCALES = torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [1.0]]), torch.tensor([[0.5], [1.0]])


def gaussians() -> Any:
    return dist.MixtureSameFamily(dist.Categorical(W), dist.Normal(MEANS, SCALES).to_event(1))


def per_coordinate() -> Any:
    return dist.MixtureSameFamily(
        dist.Categorical(W.expand(1, 2)), dist.Normal(MEANS[:, 0], SCALES[:, 0]).expand([1, 2])
    ).to_event(1)


def pyros() -> Any:
    return dist.MixtureOfDiagNormals(MEANS.expand(2, 2), SCALES.expand(2, 2), W.log())


class Pair(pv.Pair):
    """x | z ~ N(sum of z, 1), under a prior that is handed over, with a Normal guide or a LogNormal one."""

    def __init__(self, prior: Callable[[], Any], positive: bool = False) -> None:
        width = prior().event_shape[0]

        def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", prior())
                return pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

        def guide(x: Tensor, y: Tensor | None = None) -> None:
            family = dist.LogNormal if positive else dist.Normal
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", family(torch.zeros(len(x), width), 1.5).to_event(1))

        super().__init__(model, guide)


def evidence_of_gaussians(x: Tensor) -> Tensor:
    return torch.logsumexp(W.log() + dist.Normal(MEANS[:, 0], (SCALES[:, 0].square() + 1).sqrt()).log_prob(x), -1)


def by_quadrature(prior: Any, low: float, high: float) -> Tensor:
    z = torch.linspace(low, high, 20_001, dtype=torch.float64)[1:, None]
    log_p = prior.log_prob(z.float()).double()[:, None] + dist.Normal(z, 1.0).log_prob(X.double().T)
    return torch.logsumexp(log_p, 0) + math.log(float(z[1] - z[0]))


@pytest.mark.parametrize("prior", [gaussians, per_coordinate])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing_under_a_gaussian_mixture_finds_the_evidence(prior: Callable[[], Any], start: str) -> None:
    pair = Pair(prior)
    pv.check_pair(pair.model, pair.guide, X)
    est = pv.ais(pair, X, num_chains=64, num_temperatures=10, start=start)
    assert ((est.log_px - evidence_of_gaussians(X)).abs() < 6 * est.std_error + 0.02).all()
    weighed = pv.log_likelihood(pair, X, num_samples=4000)
    assert ((weighed.log_px - evidence_of_gaussians(X)).abs() < 6 * weighed.std_error).all()


def gammas() -> Any:
    return dist.MixtureSameFamily(
        dist.Categorical(W), dist.Gamma(torch.tensor([[2.0], [5.0]]), torch.tensor([[2.0], [1.0]])).to_event(1)
    )


def bounded() -> Any:
    ends = torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0], [3.0]])
    return dist.MixtureSameFamily(dist.Categorical(W), dist.Uniform(*ends).to_event(1))


@pytest.mark.parametrize(("prior", "high"), [(gammas, 40.0), (bounded, 3.0)])
def test_annealing_under_a_mixture_of_constrained_components_finds_the_evidence(prior: Any, high: float) -> None:
    est = pv.ais(Pair(prior, positive=True), X, num_chains=64, num_temperatures=10)
    assert ((est.log_px - by_quadrature(prior(), 0.0, high)).abs() < 6 * est.std_error + 0.02).all()


def test_components_with_other_ends_are_one_set_for_a_sampler() -> None:
    """The union of intervals: beyond it the density is zero, and no move goes there."""
    prior = dist.MixtureSameFamily(
        dist.Categorical(W), dist.Uniform(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])).to_event(1)
    )
    assert unconstraining("z", prior)(torch.ones(1)) == 1.0


@pytest.mark.parametrize("prior", [gaussians, per_coordinate, pyros, gammas])
def test_bounds_and_samplers_run_under_a_mixture(prior: Callable[[], Any]) -> None:
    pair = Pair(prior, positive=prior is gammas)
    both = pv.bdmc(pair, num_data=4, num_chains=8, num_temperatures=10)
    assert abs(both.gap) < 1.5
    hmc = pv.posterior(pair, X, method="hmc", num_samples=40, num_chains=4, warmup=10)["z"]
    nuts = pv.posterior(pair, X[:1], method="nuts", num_samples=8, num_chains=2, warmup=5)["z"]
    assert hmc.isfinite().all()
    assert nuts.isfinite().all()
    if prior is gammas:
        assert (hmc > 0).all()
        assert (nuts > 0).all()


def test_hmc_under_a_mixture_has_the_posterior_mean() -> None:
    pair = Pair(gaussians)
    x = torch.tensor([[1.5]])
    grid = torch.linspace(-8, 8, 4001)[:, None]
    log_p = gaussians().log_prob(grid) + dist.Normal(grid[:, 0], 1.0).log_prob(x[0])
    truth = (torch.softmax(log_p, 0) * grid[:, 0]).sum()
    z = pv.posterior(pair, x, method="hmc", num_samples=2000, num_chains=100, warmup=20)["z"]
    assert (z.mean() - truth).abs() < 0.1


class VampPrior(nn.Module):
    """A prior that is the mean of the guide at pseudo-inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.pseudo = nn.Linear(3, 4), nn.Parameter(torch.randn(5, 3))
        self.decode = nn.Linear(2, 3)

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        loc, scale = self.encode(self.pseudo).chunk(2, -1)
        prior = dist.MixtureSameFamily(
            dist.Categorical(torch.ones(5)), dist.Normal(loc, nn.functional.softplus(scale)).to_event(1)
        )
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        loc, scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(scale)).to_event(1))


def test_a_vamp_prior_trains_and_anneals_to_what_weights_say() -> None:
    vamp = VampPrior()
    pair = pv.Pair(vamp.model, vamp.guide)
    x = torch.randn(12, 3)
    pv.check_pair(pair.model, pair.guide, x)
    pv.fit(pair, x, epochs=2, batch_size=6, lr=1e-2, device="cpu", progress=False, capture=False)
    weighed = pv.log_likelihood(pair, x, num_samples=8000, proposal="defensive")
    for start in ("prior", "guide"):
        est = pv.ais(pair, x, num_chains=64, num_temperatures=8, start=start)
        error = (est.std_error.square() + weighed.std_error.square()).sqrt()
        assert ((est.log_px - weighed.log_px).abs() < 6 * error + 0.02).all()
