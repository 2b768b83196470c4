"""Both sides of log p(x) on simulated data."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import toy, toy_evidence
from torch import Tensor

import ppl_vae as pv


@pytest.mark.parametrize("num_samples", [1, 10, 100])
def test_the_truth_lies_between_and_the_upper_side_is_unbiased_for_one_over_p(num_samples: int) -> None:
    """E[p(x) exp(-upper)] = 1 over simulated data, at any number of samples."""
    n = 6000  # at a hundred samples the gap is 0.005 nats
    found = pv.eubo(toy(), n, num_samples)
    truth = toy_evidence(found.x)
    ratio = torch.exp(truth - found.upper)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(n)
    assert float((found.upper - truth).mean()) > 3 * float((found.upper - truth).std()) / math.sqrt(n)
    below = found.lower - truth
    assert float(below.mean()) < (0 if num_samples == 100 else -3) * float(below.std()) / math.sqrt(n)


def test_without_draws_of_the_guide_the_gap_is_the_kl() -> None:
    """EUBO - log p(x) = KL(p(z|x) || q); with one draw the bound is between it and log p(x)."""
    d, posterior, guide = 20, 0.5, 2 / 3
    kl = d / 2 * (posterior / guide - 1 - math.log(posterior / guide))
    one = pv.eubo(toy(), 3000, 1)
    gap = (one.upper - toy_evidence(one.x)).mean()
    assert 0 < float(gap) < kl


def test_a_guide_that_misses_half_of_the_posterior_is_found_out() -> None:
    """Pareto k of its own draws is good; the exact draw of simulated data falls on the other half."""

    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.abs(), 0.3).to_event(1), obs=x)

    def half(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.92 * x, 0.29).to_event(1))

    found = pv.eubo(pv.Pair(model, half, data_shape=(1,)), 200, 1000)
    assert float(pv.log_likelihood(pv.Pair(model, half), found.x, num_samples=1000).khat.median()) < 0.5
    assert found.gap > 0.3


def test_the_exact_guide_has_no_gap() -> None:
    assert abs(pv.eubo(toy(0.5), 10, 20).gap) < 1e-9
    with pytest.raises(pv.UserError, match="num_data=0"):
        pv.eubo(toy(), 0)
    text = str(pv.eubo(toy(), 10, 20))
    assert "on 10 simulated examples" in text
