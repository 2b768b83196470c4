"""Draws from p(z|x) against posteriors in closed form; what ArviZ makes of them."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import GammaGuide, GammaPoisson, toy, toy_evidence
from torch import Tensor

import ppl_vae as pv


def ppca() -> tuple[pv.Pair, Tensor, Any]:
    torch.manual_seed(1)
    pair = pv.build("linear", data_shape=(6,), latent=2, sigma=0.7, guide="exact").double()
    x = pv.sample(pair, 3, seed=0)
    return pair, x, pair.model.posterior(x)


# many chains of HMC move at the price of one; those of NUTS run in turn, each with a warm-up of its own
CHAINS: dict[str, dict[str, int]] = {"hmc": {"num_chains": 20, "warmup": 100}, "nuts": {"warmup": 50}}


@pytest.mark.parametrize(("method", "draws"), [("guide", 4000), ("sir", 4000), ("hmc", 2000), ("nuts", 320)])
def test_every_method_draws_from_the_posterior(method: str, draws: int) -> None:
    """Means and covariances of probabilistic PCA, within five of their errors; chains count for a quarter."""
    pair, x, truth = ppca()
    found = pv.posterior(pair, x, method=method, num_samples=draws, **CHAINS.get(method, {}))
    z = found["z"]
    assert z.shape == (draws, 3, 2)
    error = truth.variance.sqrt() / math.sqrt(draws / 4)
    assert bool(((z.mean(0) - truth.mean).abs() < 5 * error).all())
    covariance = torch.stack([torch.cov(z[:, i].T) for i in range(3)])
    slack = 6 / math.sqrt(draws)
    torch.testing.assert_close(covariance, truth.covariance_matrix.detach(), rtol=slack, atol=slack / 4)
    assert found.num_chains == {"hmc": 20, "nuts": 4}.get(method, 1)


@pytest.mark.parametrize("method", ["sir", "hmc", "nuts"])
def test_a_constrained_latent_has_its_conjugate_posterior(method: str) -> None:
    """p(rate|x) = Gamma(2 + x, 2.5); the guide is another, and the space is bounded."""
    x = torch.tensor([[0.0, 4.0], [1.0, 2.0]]) if method != "nuts" else torch.tensor([[0.0, 4.0]])
    draws = 3000 if method != "nuts" else 320
    pair = pv.Pair(GammaPoisson(), GammaGuide(0.6))
    rate = pv.posterior(pair, x, method=method, num_samples=draws, **CHAINS.get(method, {}))["rate"]
    truth = dist.Gamma(2 + x, torch.tensor(2.5))
    assert float(rate.min()) > 0
    assert bool(((rate.mean(0) - truth.mean).abs() < 5 * truth.stddev / math.sqrt(draws / 4)).all())
    torch.testing.assert_close(rate.std(0), truth.stddev, rtol=0.2, atol=0)


def test_the_weights_of_the_guides_draws_make_them_right() -> None:
    x = torch.ones(2, 20, dtype=torch.float64)
    found = pv.posterior(toy(), x, num_samples=20_000)
    assert found.log_weight is not None
    assert found.ess is not None
    log_w = found.log_weight
    torch.testing.assert_close(log_w.logsumexp(0) - math.log(20_000), toy_evidence(x), rtol=0, atol=0.05)
    torch.testing.assert_close(found.ess, pv.ess(log_w))
    weighted = (torch.softmax(log_w, 0)[..., None] * (found["z"] - 0.5) ** 2).sum(0).mean()
    plain = ((found["z"] - 0.5) ** 2).mean()
    assert float(weighted) == pytest.approx(1 / 2, abs=0.01)  # the posterior's variance
    assert float(plain) == pytest.approx(2 / 3, abs=0.01)  # the guide's


def test_chains_stand_after_one_another() -> None:
    """Two chains of a posterior with two modes far apart stay where they begin, each in its part of the draws."""

    def model(x: Tensor) -> None:
        import pyro

        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 3.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), 0.1).to_event(1), obs=x)

    def nothing(x: Tensor) -> None:
        """The prior starts the chains."""

    x = 5 * torch.ones(1, 1)
    z = pv.posterior(pv.Pair(model, nothing), x, method="hmc", num_samples=200, num_chains=8, warmup=50)["z"]
    chains = z.reshape(8, 25)
    assert bool((chains.sign() == chains[:, :1].sign()).all())
    assert len(chains[:, 0].sign().unique()) == 2


def test_figures_depend_on_the_seed_alone() -> None:
    pair, x, _ = ppca()
    state = torch.get_rng_state()
    one = pv.posterior(pair, x, method="hmc", num_samples=20, num_chains=2, warmup=10)
    assert torch.equal(state, torch.get_rng_state())
    two = pv.posterior(pair, x, method="hmc", num_samples=20, num_chains=2, warmup=10)
    assert torch.equal(one["z"], two["z"])
    other = pv.posterior(pair, x, method="hmc", num_samples=20, num_chains=2, warmup=10, seed=1)
    assert not torch.equal(one["z"], other["z"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gibbs"}, "method='gibbs': choose one of guide, sir, hmc, nuts"),
        ({"method": "hmc", "num_samples": 10, "num_chains": 4}, "10 draws in 4 chains: give a multiple"),
        ({"num_samples": 0}, "give at least one draw"),
        ({"method": "nuts", "num_samples": 8}, "needs at least 4 draws a chain"),
    ],
)
def test_bad_settings_are_one_line(arguments: dict[str, Any], message: str) -> None:
    pair, x, _ = ppca()
    with pytest.raises(pv.UserError, match=message):
        pv.posterior(pair, x, **arguments)
    with pytest.raises(pv.PairError, match="no latents"):
        pv.posterior(pv.build("made", data_shape=(4,), hidden=(8,)), torch.zeros(2, 4), num_samples=5)


@pytest.mark.parametrize("method", ["guide", "sir", "hmc"])
def test_arviz_gets_every_group_in_order(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 draws of 70 data cross the chunks and the blocks; each density stands beside its draw and example."""
    monkeypatch.setattr(sys.modules[pv.posterior.__module__], "PROPOSED", 4)  # SIR: where draws stand, not how good
    pair = pv.build("hierarchical", data_shape=(1, 3, 3), latent=(3, 2), hidden=(4,), hidden2=(4,)).double()
    x = (torch.rand(70, 1, 3, 3, dtype=torch.float64) > 0.5).double()
    chains = 10 if method == "hmc" else 1
    tree = pv.to_arviz(pair, x, method=method, num_samples=300, num_chains=chains, warmup=5, seed=3)
    z = {n: torch.from_numpy(tree["posterior"][n].values).flatten(0, 1) for n in ("z1", "z2")}
    assert z["z1"].shape == (300, 70, 3)
    again = pv.posterior(pair, x, method=method, num_samples=300, num_chains=chains, warmup=5, seed=3)
    assert torch.equal(z["z2"], again["z2"])
    lp = torch.from_numpy(tree["sample_stats"]["lp"].values).flatten(0, 1)
    torch.testing.assert_close(lp, pv.log_joint(pair.model, x, None, z).detach())
    assert ("log_weight" in tree["sample_stats"]) is (method == "guide")
    assert ("used_log_weight" in tree["sample_stats"]) is (method == "sir")
    assert tree["log_likelihood"]["x"].shape == (chains, 300 // chains, 70)
    assert tree["posterior_predictive"]["x"].shape == (chains, 300 // chains, 70, 1, 3, 3)
    assert tree["prior"]["z1"].shape == tree["posterior"]["z1"].shape
    assert tree["prior_predictive"]["x"].shape == tree["posterior_predictive"]["x"].shape
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, x.numpy())
    assert tree["posterior"]["z1"].dims == ("chain", "draw", "datum", "z1_dim_0")
    drawn = torch.from_numpy(tree["posterior_predictive"]["x"].values)
    assert bool(((drawn == 0) | (drawn == 1)).all())


def test_arviz_summarises_it() -> None:
    import arviz

    labelled = pv.build("cvae", data_shape=(4,), num_classes=3, latent=2, hidden=(4,))
    y = torch.tensor([0, 1, 2])
    tree = pv.to_arviz(labelled, torch.ones(3, 4), y, method="hmc", num_samples=80, num_chains=2, warmup=20)
    assert tree["constant_data"]["y"].values.tolist() == [0, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = arviz.summary(tree)
        loo = arviz.loo(tree, pointwise=True)
    assert len(table) == 6
    assert {"r_hat", "mean"} <= set(table.columns)
    assert np.asarray(loo.pareto_k).shape == (3,)


def test_moments_count_the_weights_of_the_guides_draws() -> None:
    """Weighted means and standard deviations are those of the posterior, where the guide is twice as wide as it."""

    class Wide(torch.nn.Module):
        def forward(self, x: Tensor, y: Any = None) -> None:
            q = pair.model.posterior(x)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.MultivariateNormal(q.mean + q.stddev, 4 * q.covariance_matrix))

    pair, x, truth = ppca()
    mean, sd = pv.posterior(pair.with_guide(Wide()), x, num_samples=20_000).moments("z")
    torch.testing.assert_close(mean, truth.mean.detach(), rtol=0, atol=0.04)
    torch.testing.assert_close(sd, truth.stddev.detach(), rtol=0.05, atol=0)
