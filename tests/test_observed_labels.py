"""Labels that the model observes are given, not drawn: by sampling, by both bounds, and for ArviZ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae as pv

MU = torch.tensor([[0.0, 0, 0], [2, 2, 2], [-1, 0, 3]], dtype=torch.float64)
PI = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
W = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.7]], dtype=torch.float64)


def truth(x: Tensor, y: Tensor) -> Tensor:
    """log p(x, y) = log pi_y + log N(x; mu_y, W'W + s2 I)."""
    cov = W.T @ W + 0.25 * torch.eye(3, dtype=torch.float64)
    return PI[y].log() + torch.distributions.MultivariateNormal(MU[y], cov).log_prob(x)


def model(x: Any = None, y: Any = None, n: int = 1) -> Any:
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(PI), obs=y)
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W + MU[y], 0.5).to_event(1), obs=x)


def one_hot(x: Any = None, y: Any = None, n: int = 1) -> Any:
    code = None if y is None else torch.eye(3, dtype=torch.float64)[y]
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        code = pyro.sample("code", dist.OneHotCategorical(PI), obs=code)
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W + code @ MU, 0.5).to_event(1), obs=x)


def guide(x: Any, y: Any = None) -> None:
    precision = torch.eye(2, dtype=torch.float64) + W @ W.T / 0.25
    mean = (x - MU[y]) @ W.T / 0.25 @ torch.linalg.inv(precision)
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


@pytest.mark.parametrize("program", [model, one_hot])
def test_samples_have_the_labels_that_they_are_given(program: Callable[..., Any]) -> None:
    pair = pv.Pair(program, guide)
    for k in range(3):
        x = pv.sample(pair, 4000, y=k, seed=0)
        assert torch.allclose(x.mean(0), MU[k], atol=0.12)
    decoded = pv.decode(pair, {"z": torch.zeros(3, 2, dtype=torch.float64)}, [0, 1, 2])
    assert torch.allclose(decoded, MU)


@pytest.mark.parametrize("program", [model, one_hot])
def test_both_bounds_are_those_of_the_labels_that_are_given(program: Callable[..., Any]) -> None:
    pair, y = pv.Pair(program, guide), torch.arange(60) % 3
    both = pv.eubo(pair, 60, 5, y)
    assert torch.allclose(both.lower, truth(both.x, y), atol=1e-8)
    assert torch.allclose(both.upper, truth(both.x, y), atol=1e-8)
    annealed = pv.bdmc(pair, 60, y, start="guide", num_chains=2, num_temperatures=3)
    assert torch.allclose(annealed.upper, truth(annealed.x, y), atol=1e-7)


def test_a_reconstruction_is_that_of_the_data_alone() -> None:
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    assert pv.reconstruct(pv.Pair(model, guide), x, y).shape == (6, 3)
    tree = pv.to_arviz(pv.Pair(model, guide), x, y, method="guide", num_samples=3)
    assert set(tree["posterior_predictive"].data_vars) == {"x"}


def test_labels_that_follow_from_what_is_drawn_are_refused() -> None:
    def classifier(x: Any = None, y: Any = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=z[..., 0]), obs=None if y is None else y.double())
            return pyro.sample("x", dist.Normal(z @ W, 0.5).to_event(1), obs=x)

    pair = pv.Pair(classifier, guide)
    for call in (lambda: pv.sample(pair, 4, y=1), lambda: pv.eubo(pair, 4, 5, torch.ones(4))):
        with pytest.raises(pv.UserError, match="'y' observes the labels and depends on 'z'"):
            call()
    assert math.isfinite(float(pv.sample(pair, 4).sum()))
