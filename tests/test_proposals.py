"""Proposals: each is unbiased; the defensive mixture is safe where the guide is too narrow."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv


def toy(stretch: float) -> tuple[pv.Pair, Tensor, Tensor]:
    """Probabilistic PCA under a guide at the right place whose standard deviation is off by a factor."""
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(6,), latent=2, sigma=0.7).double()

    class Guide(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                p = pair.model.posterior(x)
                pyro.sample("z", dist.Normal(p.mean, stretch * p.variance.sqrt()).to_event(1))

    x = pv.sample(pair, 40, seed=0)
    return pv.Pair(pair.model, Guide()), x, pair.model.evidence(x).detach()


@pytest.mark.parametrize("proposal", ["guide", "prior", "defensive"])
def test_every_proposal_is_right(proposal: str) -> None:
    pair, x, exact = toy(1.3)
    est = pv.log_likelihood(pair, x, num_samples=5000, proposal=proposal)
    z = (est.log_px - exact) / est.std_error
    assert float(z.abs().max()) < 5
    assert float((z.abs() < 4).double().mean()) >= 0.97
    assert 0.6 < float(z.std()) < 1.5
    assert est.proposal == proposal
    assert (f"{proposal} proposal" in str(est)) is (proposal != "guide")


def test_the_guide_is_worth_more_than_the_prior() -> None:
    pair, x, _ = toy(1.3)
    guide, prior = (pv.log_likelihood(pair, x, num_samples=2000, proposal=p) for p in ("guide", "prior"))
    assert float((guide.ess / prior.ess).median()) > 3


def test_the_defensive_mixture_is_safe_where_the_guide_is_three_times_too_narrow() -> None:
    """Plain weights have k > 0.7 and miss; the mixture's are bounded, and its errors are honest."""
    pair, x, exact = toy(1 / 3)
    plain = pv.log_likelihood(pair, x, num_samples=20_000)
    safe = pv.log_likelihood(pair, x, num_samples=20_000, proposal="defensive")
    assert float(plain.khat.median()) > 0.7
    assert float(safe.khat.median()) < 0.3
    assert float(safe.unreliable.double().mean()) < 0.25 < 0.7 < float(plain.unreliable.double().mean())
    assert float(((safe.log_px - exact).abs() / safe.std_error).max()) < 4
    assert (
        float((safe.log_px - exact).square().mean().sqrt()) < float((plain.log_px - exact).square().mean().sqrt()) / 3
    )


def test_the_weights_of_the_mixture_are_bounded_by_the_likelihood() -> None:
    from ppl_vae.proposals import PROPOSALS

    pair, x, _ = toy(0.1)
    t = PROPOSALS["defensive"](pair.model, pair.guide, x, None, 1000)
    assert t.log_w.shape == (1000, 40)
    slack = (t.log_lik - math.log(0.1) - t.log_w).detach()
    assert bool((slack >= -1e-9).all())
    assert float(slack.min()) < 1e-3  # the bound is reached where the guide never goes


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.delta])
@pytest.mark.parametrize("proposal", ["prior", "defensive"])
def test_every_pair_takes_every_proposal(name: str, proposal: str) -> None:
    pair = CASES[name].build()
    x, y = CASES[name].draw(4)
    est = pv.log_likelihood(pair, x, y, num_samples=30, proposal=proposal)
    assert bool(est.log_px.isfinite().all())
    if not CASES[name].latents:
        assert torch.equal(est.log_px, pv.log_likelihood(pair, x, y, num_samples=30).log_px)


def test_a_remainder_of_one_particle_is_right_too() -> None:
    pair, x, exact = toy(1.3)
    est = pv.log_likelihood(pair, x, num_samples=2001, chunk=500, proposal="defensive")
    assert float(((est.log_px - exact).abs() / est.std_error).max()) < 5


def test_an_unknown_proposal_is_refused() -> None:
    pair, x, _ = toy(1.0)
    with pytest.raises(pv.UserError, match="proposal='posterior': choose one of guide, prior, defensive"):
        pv.log_likelihood(pair, x, proposal="posterior")
