"""beta-TC: at beta = 1 the ELBO, and the total correlation against the closed form of Gaussians."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.objectives.beta_tc import total_correlation
from ppl_vae.pairs.base import data_plate


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noisy(scale: float) -> pv.Pair:
    """q(z | x) = N(x, scale^2)."""

    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        with data_plate(x, n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> Tensor:
        with data_plate(x, 1):
            return pyro.sample("z", dist.Normal(x, scale).to_event(1))

    return pv.Pair(model, guide)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
@torch.no_grad()
def test_it_is_that_of_gaussians(correlation: float) -> None:
    """x ~ N(0, S) and z ~ N(x, s^2) give q(z) = N(0, S + s^2 I), whose TC is half of sum log var - log det."""
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    x = dist.MultivariateNormal(torch.zeros(2), covariance).sample((700,))
    pair, whole = noisy(0.7), covariance + 0.49 * torch.eye(2)
    exact = 0.5 * (whole.diagonal().log().sum() - whole.logdet())
    found = total_correlation(pv.terms(pair.model, pair.guide, x, num_samples=3)).mean()
    assert abs(float(found - exact)) < 0.02
    assert correlation == 0 or float(exact) > 0.15


def test_at_one_it_is_the_elbo_with_its_gradient() -> None:
    pair, x = pv.build("vae", data_shape=(4,), latent=3, hidden=(5,)), (torch.rand(6, 4) > 0.5).double()
    found = {}
    for name, options in (("elbo", {}), ("beta_tc", {"beta": 1.0})):
        torch.manual_seed(1)
        loss = pv.objective(name, num_particles=2, **options)(pair.model, pair.guide)(x)
        found[name] = [loss.detach(), *torch.autograd.grad(loss, list(pair.parameters()))]
    torch.testing.assert_close(found["beta_tc"], found["elbo"])


def test_beta_is_the_weight_of_the_total_correlation() -> None:
    pair, x = pv.build("hierarchical", data_shape=(4,), latent=(3, 2), hidden=(5,), hidden2=(4,)), torch.zeros(6, 4)
    t = pv.terms(pair.model, pair.guide, x, num_samples=2)
    values = [pv.objective("beta_tc").value(t, beta) for beta in (1.0, 3.0)]
    torch.testing.assert_close(values[0] - values[1], 2 * total_correlation(t))


def test_training_makes_the_latents_independent() -> None:
    """Of two copies of one number, a rotation apart: more weight, less total correlation."""
    torch.set_default_dtype(torch.float32)
    x = torch.randn(256, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.3]])
    left = []
    for beta in (1.0, 20.0):
        torch.manual_seed(0)
        pair = pv.build("vae", data_shape=(2,), latent=2, hidden=(8,), likelihood="gaussian:sigma=0.2")
        options = {"steps": 100, "batch_size": 128, "lr": 1e-2, "device": "cpu", "progress": False, "capture": False}
        pv.fit(pair, x, pv.BetaTC(beta=beta), **options)
        with torch.no_grad():
            left.append(float(total_correlation(pv.terms(pair.model, pair.guide, x, num_samples=5)).mean()))
    assert left[1] < 0.5 * left[0]


def test_what_has_no_coordinates_is_refused() -> None:
    x = torch.zeros(3, 4)
    for options, message in (({"guide": "full"}, "independent given x"), ({"guide": "mixture"}, "independent given x")):
        pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(5,), **options)
        with pytest.raises(pv.PairError, match=message):
            pv.objective("beta_tc")(pair.model, pair.guide)(x)
    pair = pv.build("binary", data_shape=(4,), latent=2, hidden=(5,))
    with pytest.raises(pv.PairError, match="no rsample"):
        pv.objective("beta_tc")(pair.model, pair.guide)(x)
