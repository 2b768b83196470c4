"""Laws of refine(family="mixture"): its density, its gradients, what it reaches that one Gaussian does not."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.likelihood.gaussians import Gaussians


class TwoSites(nn.Module):
    """A real pair of numbers, then a positive one that depends on them."""

    def forward(self, x: Any = None, y: Any = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            b = pyro.sample("b", dist.Gamma(2.0 + a[..., 0].square(), torch.ones((), dtype=torch.float64)))
            return pyro.sample("x", dist.Normal(a.square().sum(-1) * b, 0.7), obs=x)


class Guide(nn.Module):
    def forward(self, x: Any, y: Any = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Normal(x.new_zeros(len(x), 2), 0.5).to_event(1))
            pyro.sample("b", dist.LogNormal(x.new_zeros(len(x)), 0.5))


def mixture_of(guide: pv.Refined, row: int, u: torch.Tensor) -> torch.Tensor:
    """log q at u (K, n), from the parameters, one component after another."""
    assert guide.log_share is not None
    n = u.shape[-1]
    terms = []
    for share, loc, root in zip(guide.log_share[row], guide.loc[row], guide.root[row], strict=True):
        v = torch.linalg.solve(root, (u - loc).mT).mT
        log_c = math.lgamma((guide.df + n) / 2) - math.lgamma(guide.df / 2) - n / 2 * math.log(guide.df * math.pi)
        log_t = log_c - (guide.df + n) / 2 * torch.log1p(v.square().sum(-1) / guide.df)
        terms.append(share + log_t - torch.linalg.slogdet(root)[1])
    return torch.stack(terms).logsumexp(0)


def test_the_density_of_all_sites_is_that_of_the_mixture_of_t() -> None:
    """log q(a) + log q(b | a) = log sum_c pi_c t(u; mu_c, L_c) - log b, for sites drawn one after another."""
    pair, x = pv.Pair(TwoSites(), Guide()), torch.tensor([0.5, 3.0], dtype=torch.float64)
    guide = pv.refine(pair, x, family="mixture", components=3, steps=20, rounds=1)
    assert guide.loc.shape == (2, 3, 3)
    t = pv.terms(pair.model, guide, x, num_samples=50)
    for row in range(2):
        a, b = t.sites["a"].value[:, row], t.sites["b"].value[:, row]
        u = torch.cat([a, b.log().unsqueeze(-1)], -1)
        torch.testing.assert_close(t.log_q[:, row], mixture_of(guide, row, u) - b.log(), rtol=0, atol=1e-10)


def test_draws_of_the_guide_have_the_shares_and_means_of_the_mixture() -> None:
    """E[u] is the mean of the components' locations, by their shares."""
    pair, x = pv.Pair(TwoSites(), Guide()), torch.tensor([3.0], dtype=torch.float64)
    guide = pv.refine(pair, x, family="mixture", components=3, steps=20, rounds=1)
    torch.manual_seed(0)
    t = pv.terms(pair.model, guide, x, num_samples=20_000)
    u = torch.cat([t.sites["a"].value[:, 0], t.sites["b"].value.log()], -1)
    assert guide.log_share is not None
    wanted = (guide.log_share[0].exp().unsqueeze(-1) * guide.loc[0]).sum(0)
    z = (u.mean(0) - wanted) / (u.std(0) / math.sqrt(len(u)))
    assert bool((z.abs() < 4).all())


@pytest.mark.parametrize("components", [1, 3])
def test_scores_are_log_q_and_minus_its_gradient(components: int) -> None:
    """The closed form against autograd, at the draws of every component."""
    torch.manual_seed(1)
    n, options = 3, {"dtype": torch.float64}
    root = torch.randn(components, 2, n, n, **options).tril(-1) + 2 * torch.eye(n, **options)
    log_share = torch.randn(components, 2, **options).log_softmax(0)
    q = Gaussians(torch.randn(components, 2, n, **options), root, log_share)
    v = torch.randn(4, components, 2, n, **options)
    u = q.at(v).detach().requires_grad_()
    each = dist.MultivariateNormal(q.loc, scale_tril=root).log_prob(u.unsqueeze(2))
    log_q = (log_share + each).logsumexp(2)
    (slope,) = torch.autograd.grad(log_q.sum(), u)
    found, own = q.scores(v)
    torch.testing.assert_close(found, log_q.detach())
    torch.testing.assert_close(own, -(root.mT @ slope.unsqueeze(-1)).squeeze(-1))


def test_modes_that_the_guide_does_not_know_are_found() -> None:
    """The guide sits on one of two modes: its estimates are log 2 too low, with a good k. The prior knows both."""
    target = pv.targets.make("modes", seed=0)
    x = target.sample(40)
    truth = target.log_px(x)
    guide = pv.log_likelihood(target.pair, x, num_samples=2000)
    assert float((guide.log_px - truth).mean()) == pytest.approx(-math.log(2), abs=0.02)
    found = pv.log_likelihood(target.pair, x, num_samples=2000, proposal="refined:family=mixture")
    assert float((found.log_px - truth).abs().max()) < 0.03
    assert not bool(found.unreliable.any())


def test_a_mixture_posterior_has_a_small_gap_under_a_mixture() -> None:
    """log p(x) - L[q] of the best mixture is below 0.02 nats where that of the best Gaussian is above 0.1."""
    target = pv.targets.make("mixture_prior", seed=0)
    x = target.sample(30)
    fit: dict[str, Any] = {"widen": 1.0, "df": math.inf, "steps": 100, "rounds": 1}
    gaps = {}
    for family in ("full", "mixture"):
        guided = target.pair.with_guide(pv.refine(target.pair, x, family=family, **fit))
        elbo = pv.log_likelihood(guided, x, num_samples=2000, estimator="elbo")
        gaps[family] = (target.log_px(x) - elbo.log_px).mean()
    assert gaps["mixture"] < 0.02
    assert gaps["full"] > 2 * gaps["mixture"]


def test_tails_are_heavy_in_few_dimensions_and_lighter_where_a_latent_has_bounds() -> None:
    """A good k at K = 1,000 holds under a Cauchy posterior: the 95 % intervals of most examples hold the truth."""
    target = pv.targets.make("heavy_tail_gaussian", seed=0)
    x = target.sample(200)
    guide = pv.refine(target.pair, x)
    assert guide.df == 1.75
    assert pv.refine(pv.Pair(TwoSites(), Guide()), torch.zeros(2, dtype=torch.float64), steps=1).df == 4 + 9 / 4
    found = pv.log_likelihood(target.pair.with_guide(guide), x, num_samples=1000)
    low, high = found.interval()
    truth = target.log_px(x)
    held = ((low <= truth) & (truth <= high))[~found.unreliable]
    assert len(held) > 150
    assert float(held.double().mean()) > 0.88


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": 3}, "components=3: family='full' has one; family='mixture' has more"),
        ({"family": "mixture", "components": 0}, "components=0: at least one is needed"),
        ({"family": "flow"}, "family='flow': choose one of 'full', 'diagonal', 'mixture'"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(options: dict[str, Any], words: str) -> None:
    pair = pv.Pair(TwoSites(), Guide())
    with pytest.raises(pv.UserError, match=words):
        pv.refine(pair, torch.zeros(2, dtype=torch.float64), **options)


class Masked(nn.Module):
    def forward(self, x: Any = None, y: Any = None, n: int = 1) -> Any:
        seen = torch.tensor([True, False])
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(seen).to_event(1))
            return pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


class MaskedGuide(nn.Module):
    def forward(self, x: Any, y: Any = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(torch.tensor([True, False])).to_event(1))


def test_masked_latents_are_refused_by_name() -> None:
    with pytest.raises(pv.PairError, match="site 'z' is masked, which a mixture does not take: use family='full'"):
        pv.refine(pv.Pair(Masked(), MaskedGuide()), torch.zeros(3), family="mixture")
