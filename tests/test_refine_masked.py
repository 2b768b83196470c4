"""Refined guides under masks, other dtypes and devices: exact answers, and what must not be rounded or left behind."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_masked_latents import X, by_distribution, by_poutine, guide, kalman
from torch import Tensor

import ppl_vae as pv

EXACT: dict[str, Any] = {"widen": 1.0, "df": math.inf, "steps": 200, "rounds": 1}


@pytest.mark.parametrize("model", [by_poutine, by_distribution])
def test_the_refined_guide_of_a_padded_chain_is_its_posterior(model: Any) -> None:
    """The ELBO is the evidence of the Kalman filter: masked steps add nothing, and correlate with nothing."""
    pair = pv.Pair(model, guide)
    found = pv.refine(pair, X, **EXACT)
    assert found.hidden is not None
    assert found.hidden.sum(1).tolist() == [3, 2, 0, 1]
    est = pv.log_likelihood(pair.with_guide(found), X, num_samples=50)
    assert float((est.elbo - kalman(X)).abs().max()) < 1e-3
    usual = pv.log_likelihood(pair, X, num_samples=500, proposal="refined")
    assert float((usual.log_px - kalman(X)).abs().max()) < 0.05


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_entries_of_one_positive_latent_are_masked(family: str) -> None:
    """z ~ LogNormal, log x ~ N(log z, 1), entry by entry: the evidence is that of the entries that are seen."""
    seen = torch.tensor([[True, False, True], [True, True, True]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(len(x), 3), 1.0).mask(seen[: len(x)]).to_event(1))
            pyro.sample("x", dist.Normal(z.log(), 1.0).mask(seen[: len(x)]).to_event(1), obs=x)

    def poor(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LogNormal(x / 4, 0.5).mask(seen[: len(x)]).to_event(1))

    x = torch.tensor([[0.5, 9.0, -1.0], [1.0, -1.0, 0.3]])
    exact = torch.where(seen, dist.Normal(0.0, 2**0.5).log_prob(x), 0.0).sum(-1)
    pair = pv.Pair(model, poor)
    better = pair.with_guide(pv.refine(pair, x, family=family, **EXACT))
    found = pv.log_likelihood(better, x, num_samples=200)
    tolerance = 1e-3 if family == "full" else 0.01  # a diagonal fit keeps some of its noise
    assert float((found.elbo - exact).abs().max()) < tolerance


def test_a_masked_simplex_is_one_line() -> None:
    def both(x: Tensor, observed: bool) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=torch.tensor([True, False])):
            p = pyro.sample("p", dist.Dirichlet(torch.ones(len(x), 3)))
            if observed:
                pyro.sample("x", dist.Multinomial(4, p), obs=x)

    pair = pv.Pair(lambda x: both(x, True), lambda x: both(x, False))
    with pytest.raises(pv.PairError, match="site 'p' is masked and no set of single numbers"):
        pv.refine(pair, torch.tensor([[1.0, 1.0, 2.0], [4.0, 0.0, 0.0]]))


def test_data_keep_their_dtype_under_a_model_without_parameters() -> None:
    """The latents are float32; the data are float64 before refining, and after."""
    seen = []

    def model(x: Tensor) -> None:
        seen.append(x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.double(), 0.5).to_event(1), obs=x)

    def poor(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    pair, x = pv.Pair(model, poor), torch.randn(3, 2, dtype=torch.float64)
    found = pv.refine(pair, x, steps=3)
    assert found.loc.dtype == torch.float32
    pv.log_likelihood(pair.with_guide(found), x, num_samples=20)
    assert set(seen) == {torch.float64}


def test_bounds_move_with_the_guide() -> None:
    """Bounds for each entry of a latent are tensors of a transform, which no buffer holds."""

    def model(x: Tensor) -> None:
        high = torch.tensor([3.0, 5.0], dtype=x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(high), high).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.3).to_event(1), obs=x)

    def wide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            top = torch.tensor([3.0, 5.0], dtype=x.dtype).expand_as(x)
            pyro.sample("z", dist.Uniform(torch.zeros_like(x), top).to_event(1))

    found = pv.refine(pv.Pair(model, wide), torch.tensor([[0.1, 4.5], [2.0, 2.9]]), steps=3)
    zero = torch.zeros(2)
    there = found.sites["z"][1](zero)
    assert there.tolist() == [1.5, 2.5]
    assert found.double().sites["z"][1](zero).dtype == torch.float64
    away = found.to("meta").sites["z"][1]
    assert away(zero.to("meta")).is_meta
