"""Annealed importance sampling against closed forms: unbiased weights, and bounds on both sides."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BetaBinomial, GammaPoisson
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv


def ppca(latent: int, size: int = 8) -> pv.Pair:
    return pv.build("linear", data_shape=(size,), latent=latent, sigma=0.8).double()


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_weights_are_unbiased_at_any_number_of_temperatures(start: str, schedule: str) -> None:
    """E[w] = p(x), which no annealing may break: many chains, few temperatures, against the closed form."""
    pair = ppca(2, 4)
    x = pv.sample(pair, 6, seed=1)
    temperatures = 6 if start == "prior" else 40  # the guide is not trained, and its tails are light
    est = pv.ais(pair, x, num_chains=2000, num_temperatures=temperatures, start=start, schedule=schedule)
    z = (est.log_px - pair.model.evidence(x).detach()) / est.std_error
    assert float(z.abs().max()) < 4
    assert float(est.std_error.max()) < 0.2
    assert est.num_samples == 2000
    assert bool((est.elbo < est.log_px).all())


def test_more_temperatures_close_in_on_the_truth() -> None:
    pair = ppca(10, 20)
    x = pv.sample(pair, 8, seed=1)
    exact = pair.model.evidence(x).detach()
    errors = [float((pv.ais(pair, x, num_chains=16, num_temperatures=t).elbo - exact).mean()) for t in (1, 10, 150)]
    assert errors[0] < errors[1] < errors[2] < 0.1
    assert abs(errors[2]) < 0.7


def test_the_sandwich_holds_the_truth_and_its_gap_shrinks() -> None:
    pair = ppca(5, 12)
    gaps = []
    for temperatures in (10, 120):
        s = pv.bdmc(pair, num_data=20, num_chains=16, num_temperatures=temperatures)
        exact = pair.model.evidence(s.x.double()).detach()
        slack = 4 * float((s.upper - s.lower).std()) / math.sqrt(20)
        assert float(s.lower.mean()) < float(exact.mean()) + slack
        assert float(s.upper.mean()) > float(exact.mean()) - slack
        assert s.gap == pytest.approx(float((s.upper - s.lower).mean()))
        gaps.append(s.gap)
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.3
    assert "a gap of" in str(s)


def test_the_reverse_weights_are_unbiased_for_one_over_p() -> None:
    """exp(-upper) averages to 1 / p(x) over exact posterior draws, so E[exp(log p - upper)] = 1."""
    pair = ppca(1, 3)
    s = pv.bdmc(pair, num_data=800, num_chains=4, num_temperatures=40)  # few would be the harmonic mean, with its tails
    ratio = torch.exp(pair.model.evidence(s.x.double()).detach() - s.upper)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(800)
    assert float(ratio.std()) < 0.8


class DirichletCategorical(nn.Module):
    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
            pyro.sample("x", dist.Multinomial(5, p), obs=x)


def nothing(x: Tensor, y: Tensor | None = None) -> None:
    """A decoder without a guide."""


@pytest.mark.parametrize("model", [GammaPoisson, BetaBinomial, DirichletCategorical])
def test_constrained_latents_move_in_their_own_space_and_need_no_guide(model: type[nn.Module]) -> None:
    x = {
        GammaPoisson: torch.tensor([[0.0, 4.0], [1.0, 2.0]]),
        BetaBinomial: torch.tensor([[0.0, 9.0], [4.0, 3.0]]),
        DirichletCategorical: torch.tensor([[5.0, 0.0, 0.0], [1.0, 1.0, 3.0]]),
    }[model]
    exact = {
        GammaPoisson: lambda: GammaPoisson().evidence(x),
        BetaBinomial: lambda: BetaBinomial().evidence(x),
        DirichletCategorical: lambda: dist.DirichletMultinomial(torch.tensor([1.0, 2.0, 3.0]), 5).log_prob(x),
    }[model]()
    est = pv.ais(pv.Pair(model(), nothing), x, num_chains=800, num_temperatures=10)
    assert float(((est.log_px - exact).abs() / est.std_error).max()) < 4
    assert float(est.std_error.max()) < 0.1


class Bounded(nn.Module):
    """a ~ U(0.01, 1), z ~ U(0, a), x ~ N(z, 0.05): one latent bounds another."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            a = pyro.sample("a", dist.Uniform(torch.tensor(0.01, dtype=torch.float64), 1.0))
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(a), a))
            pyro.sample("x", dist.Normal(z, 0.05), obs=x)


def test_a_masked_prior_is_no_distribution_to_anneal_from() -> None:
    pair = pv.build("autoencoder", data_shape=(5,), latent=2, hidden=(4,))
    with pytest.raises(pv.PairError, match="site 'z' is masked in the model"):
        pv.ais(pair, torch.zeros(3, 5), num_chains=2, num_temperatures=3)
    with pytest.raises(pv.PairError, match="site 'z' is masked in the model"):
        pv.bdmc(pair, 3, num_chains=2, num_temperatures=3)


def test_labels_go_to_both_sides() -> None:
    """The evidence of a labelled toy: z ~ N(0, 1), x ~ N(z + y, 1)."""

    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        assert y is not None
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z + y[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        assert y is not None
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x - y[:, None]) / 2, 0.9).to_event(1))

    y = torch.arange(60.0)
    pair = pv.Pair(model, guide)
    for found in (pv.eubo(pair, 60, 50, y), pv.bdmc(pair, 60, y, num_chains=8, num_temperatures=10)):
        truth = dist.Normal(y, math.sqrt(2)).log_prob(found.x[:, 0]).double()
        assert float((found.lower - truth).abs().max()) < 1
        assert abs(float((found.lower - truth).mean())) < 0.1
        assert abs(float((found.upper - truth).mean())) < 0.1
    with pytest.raises(pv.UserError, match="60 labels for 5 data"):
        pv.eubo(pair, 5, 50, y)


def test_a_latent_may_bound_another() -> None:
    """log p(x) by quadrature; both are scalars, without event dimensions."""
    x = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    z = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    prior = -torch.log(z.clamp(min=0.01)) / 0.99  # the integral of U(z; 0, a) over a
    truth = torch.trapezoid(prior * torch.exp(dist.Normal(z, 0.05).log_prob(x[:, None])), z).log()
    pair = pv.Pair(Bounded(), nothing)
    est = pv.ais(pair, x, num_chains=1500, num_temperatures=15)
    assert float(((est.log_px - truth).abs() / est.std_error).max()) < 4
    assert float(est.std_error.max()) < 0.1
    draws = pv.posterior(pair, x[1:2], method="hmc", num_samples=2000, num_chains=40, warmup=100)
    weight = torch.exp(dist.Normal(z, 0.05).log_prob(x[1])) * prior
    assert float(draws["z"].mean()) == pytest.approx(float((weight * z).sum() / weight.sum()), abs=0.02)
    assert bool((draws["z"] < draws["a"]).all())


def test_two_layers_are_annealed_together() -> None:
    """A chain of Gaussians, z1 -> z2 -> x, whose evidence is known."""

    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z2, 0.7).to_event(1), obs=x)

    x = torch.tensor([[0.3, -1.0], [2.0, 0.0]])
    exact = dist.Normal(0.0, math.sqrt(1 + 0.25 + 0.49)).log_prob(x).sum(-1)
    est = pv.ais(pv.Pair(model, nothing), x, num_chains=1500, num_temperatures=8)
    assert float(((est.log_px - exact).abs() / est.std_error).max()) < 4


def test_figures_depend_on_the_seed_alone_and_nothing_leaks(untouched: None) -> None:
    state = torch.get_rng_state()
    pair = ppca(2, 4)
    x = torch.zeros(3, 4, dtype=torch.float64)
    torch.set_rng_state(state)
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    one, two, other = (pv.ais(pair, x, num_chains=3, num_temperatures=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.log_px, two.log_px)
    assert not torch.equal(one.log_px, other.log_px)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())
    assert pair.training


def test_what_cannot_be_annealed_is_refused() -> None:
    x, _ = CASES["made"].draw(2)
    with pytest.raises(pv.PairError, match="no latents: log_likelihood gives"):
        pv.ais(CASES["made"].build(), x)
    code = CASES["autoencoder"]
    with pytest.raises(pv.PairError, match="'z' is deterministic"):
        pv.ais(code.build(), code.draw(2)[0], start="guide")

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(pv.PairError, match="'c' is discrete"):
        pv.ais(pv.Pair(model, nothing), torch.zeros(2))
    pair = ppca(2, 4)
    for options, message in (
        ({"num_chains": 0}, "num_chains=0"),
        ({"start": "posterior"}, "start='posterior'"),
        ({"schedule": "cosine"}, "schedule='cosine'"),
    ):
        with pytest.raises(pv.UserError, match=message):
            pv.ais(pair, torch.zeros(2, 4), **options)  # type: ignore[arg-type]
    with pytest.raises(pv.UserError, match="num_data=0"):
        pv.bdmc(pair, 0)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing_is_within_a_tenth_of_a_nat(start: str) -> None:
    """Done-when: probabilistic PCA with ten latents, an untrained guide, the mean over 20 data."""
    torch.manual_seed(0)
    pair = ppca(10, 20)
    x = pv.sample(pair, 20, seed=0)
    est = pv.ais(pair, x, num_chains=32, num_temperatures=400, start=start)
    assert abs(float((est.log_px - pair.model.evidence(x).detach()).mean())) < 0.1


def test_a_weight_that_is_nan_names_its_datum() -> None:
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(3,), latent=2)
    x = torch.randn(4, 3)
    x[2] = torch.nan
    with pytest.raises(pv.DataError, match=r"example 2 has a missing entry \(NaN\) at site 'x'"):
        pv.ais(pair, x, num_chains=2, num_temperatures=3)
