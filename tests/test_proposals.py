"""Proposals: each is unbiased; the defensive mixture is safe where the guide is too narrow."""

from __future__ import annotations

import math
from typing import Any

import exact
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


@pytest.mark.parametrize("proposal", ["guide", "prior", "defensive", "tempered", "qmc"])
def test_every_proposal_is_right(proposal: str) -> None:
    pair, x, truth = toy(1.3)
    # 20 scramblings, so that their scatter is known well
    chunk = 256 if proposal == "qmc" else None
    est = pv.log_likelihood(pair, x, num_samples=5120, proposal=proposal, chunk=chunk)
    z = (est.log_px - truth) / est.std_error
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
    pair, x, truth = toy(1 / 3)
    plain = pv.log_likelihood(pair, x, num_samples=20_000)
    safe = pv.log_likelihood(pair, x, num_samples=20_000, proposal="defensive")
    assert float(plain.khat.median()) > 0.7
    assert float(safe.khat.median()) < 0.3
    assert float(safe.unreliable.double().mean()) < 0.25 < 0.7 < float(plain.unreliable.double().mean())
    assert float(((safe.log_px - truth).abs() / safe.std_error).max()) < 4
    assert (
        float((safe.log_px - truth).square().mean().sqrt()) < float((plain.log_px - truth).square().mean().sqrt()) / 3
    )


def test_the_weights_of_the_mixture_are_bounded_by_the_likelihood() -> None:
    from ppl_vae.likelihood.proposals import PROPOSALS

    pair, x, _ = toy(0.1)
    t = PROPOSALS["defensive"](pair.model, pair.guide, x, None, 1000)
    assert t.log_w.shape == (1000, 40)
    slack = (t.log_lik - math.log(0.1) - t.log_w).detach()
    assert bool((slack >= -1e-9).all())
    assert float(slack.min()) < 1e-3  # the bound is reached where the guide never goes


def test_every_part_of_the_mixtures_particles_is_unbiased() -> None:
    """Also the first tenth of a chunk: the order is random, or small k of the curve would be all guide or all prior."""
    from ppl_vae.likelihood.proposals import PROPOSALS

    pair, x, truth = toy(1.0)
    first = torch.cat([PROPOSALS["defensive"](pair.model, pair.guide, x, None, 100).log_w[:10] for _ in range(300)])
    w = torch.exp(first.detach() - truth)
    assert bool(((w.mean(0) - 1).abs() < 4.5 * w.std(0) / math.sqrt(len(w))).all())


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.delta])
@pytest.mark.parametrize("proposal", ["prior", "defensive", "tempered", "qmc"])
def test_every_pair_takes_every_proposal(name: str, proposal: str) -> None:
    if CASES[name].name in ("binary", "categorical") and proposal == "qmc":
        pytest.skip("bits and classes have no inverse distribution function: refused by name")
    pair = CASES[name].build()
    x, y = CASES[name].draw(4)
    if name == "flow" and proposal in ("tempered", "qmc"):
        with pytest.raises(pv.PairError, match=r"site 'z': Dequantised .*use another proposal"):
            pv.log_likelihood(pair, x, y, num_samples=30, proposal=proposal)
        return
    est = pv.log_likelihood(pair, x, y, num_samples=30, proposal=proposal)
    if (name, proposal) == ("flow", "prior"):  # no draw falls in the cell of x: the estimate is zero, and says so
        assert bool(est.log_px.isneginf().all() and est.unreliable.all())
        assert "4 of 4 examples have probability zero at every draw" in str(est)
        return
    assert bool(est.log_px.isfinite().all())
    if not CASES[name].latents:
        assert torch.equal(est.log_px, pv.log_likelihood(pair, x, y, num_samples=30).log_px)


def test_a_remainder_of_one_particle_is_right_too() -> None:
    pair, x, truth = toy(1.3)
    est = pv.log_likelihood(pair, x, num_samples=2001, chunk=500, proposal="defensive")
    assert float(((est.log_px - truth).abs() / est.std_error).max()) < 5


def test_a_proposal_of_ones_own() -> None:
    """A function that gives Terms; what is no such function is told what one is."""
    pair, x, truth = toy(1.3)
    other = toy(1.1)[0]

    def mine(model: Any, guide: Any, x: Tensor, y: Tensor | None, k: int) -> pv.Terms:
        return pv.terms(model, other.guide, x, y, num_samples=k)

    est = pv.log_likelihood(pair, x, num_samples=3000, proposal=mine)
    assert est.proposal == "mine"
    assert float(((est.log_px - truth).abs() / est.std_error).max()) < 5
    wrong: list[Any] = [other.guide, pv.proposals.tempered, lambda *a: None]
    wrong.append(lambda model, guide, x, y, k: pv.terms(model, other.guide, x, y, num_samples=3))
    for proposal in wrong:
        with pytest.raises(pv.UserError, match="a proposal is a function that gives Terms, such as"):
            pv.log_likelihood(pair, x, num_samples=300, proposal=proposal)


def test_an_unknown_proposal_is_refused() -> None:
    pair, x, _ = toy(1.0)
    with pytest.raises(pv.UserError, match="proposal='posterior': choose one of guide, prior, defensive"):
        pv.log_likelihood(pair, x, proposal="posterior")


def test_quasi_random_points_beat_independent_ones() -> None:
    """Done-when 3: on Rainforth's toy at K = 4096, over 100 scramblings, at most 0.4 of Monte Carlo's error."""
    x = torch.ones(1, exact.DIMS, dtype=torch.float64)
    truth = exact.toy_evidence(x)

    def error(proposal: str) -> float:
        found = [
            pv.log_likelihood(exact.toy(), x, num_samples=4096, proposal=proposal, seed=s).log_px for s in range(100)
        ]
        return float((torch.stack(found) - truth).square().mean().sqrt())

    assert error("qmc") < 0.4 * error("guide")


def test_the_error_of_quasi_random_points_is_honest_and_uncorrelated_between_data() -> None:
    """The scatter over seeds, of one datum and of the mean of 30, is what the scramblings of one run say."""
    x = torch.ones(30, exact.DIMS, dtype=torch.float64)
    found = [
        pv.log_likelihood(exact.toy(), x, num_samples=2048, chunk=128, block=30, proposal="qmc", seed=s)
        for s in range(60)
    ]
    values = torch.stack([e.log_px for e in found])
    said = torch.stack([e.std_error.square() for e in found]).mean().sqrt()
    assert float(values.std(0).square().mean().sqrt() / said) == pytest.approx(1, abs=0.15)
    of_mean = values.mean(1).std() / torch.tensor([e.monte_carlo_error for e in found]).square().mean().sqrt()
    assert 0.7 < float(of_mean) < 1.35
    low, high = found[0].interval(0.95)
    wider = (high - low) / (2 * 1.96 * found[0].std_error)
    assert float(wider.min()) == pytest.approx(2.131 / 1.96, abs=0.01)  # Student's t with 15 degrees of freedom


@pytest.mark.parametrize("name", list(exact.CONJUGATE))
def test_quasi_random_points_reach_constrained_latents(name: str) -> None:
    """Gamma and Beta through scipy's inverse distribution functions."""
    model, guide = exact.CONJUGATE[name]
    pair = pv.Pair(model(), guide(0.7))
    x = pv.sample(pair, 50, seed=0)
    est = pv.log_likelihood(pair, x, num_samples=4096, chunk=256, proposal="qmc")
    plain = pv.log_likelihood(pair, x, num_samples=4096)
    truth = pair.model.evidence(x)
    assert float(((est.log_px - truth).abs() / est.std_error.clamp(min=1e-6)).max()) < 6
    assert float((est.log_px - truth).square().mean()) < float((plain.log_px - truth).square().mean()) / 4


def test_points_of_the_cube_are_uniform_and_each_datum_has_its_own() -> None:
    from ppl_vae.likelihood.quantiles import sobol

    u = sobol(512, 3, 4)
    assert u.shape == (512, 3, 4)
    assert 0 < float(u.min()) < float(u.max()) < 1
    counts = torch.stack([torch.histc(u[:, b, d], 16, 0, 1) for b in range(3) for d in range(4)])
    assert bool((counts == 32).all())  # a net: equal numbers in equal intervals
    assert not torch.equal(u[:, 0], u[:, 1])
    assert not torch.equal(u, sobol(512, 3, 4))


FAMILIES = {
    "Normal": dist.Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])),
    "Laplace": dist.Laplace(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])),
    "Gamma": dist.Gamma(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 4.0])),
    "Beta": dist.Beta(torch.tensor([3.0, 2.0]), torch.tensor([4.0, 2.0])),
    "Exponential": dist.Exponential(torch.tensor([3.0, 0.5])),
    "Uniform": dist.Uniform(torch.tensor([0.0, -1.0]), torch.tensor([2.0, 1.0])),
    "LogNormal": dist.LogNormal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.7])),
    "MultivariateNormal": dist.MultivariateNormal(torch.tensor([0.3, -1.0]), torch.tensor([[2.0, 0.9], [0.9, 1.0]])),
    "LowRank": dist.LowRankMultivariateNormal(torch.tensor([0.3, -1.0]), torch.tensor([[1.0], [0.5]]), torch.ones(2)),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_quantiles_draw_from_the_distribution(name: str) -> None:
    """The mean and the covariance of 2^14 quasi-random draws are those of the distribution."""
    from ppl_vae.likelihood.quantiles import noise_shape, quantile, sobol

    fn = FAMILIES[name]
    fn = fn if fn.event_shape else fn.to_event(1)
    shape = noise_shape(fn)
    draws = quantile("z", fn.expand([2**14, 1]), sobol(2**14, 1, shape.numel()).reshape(2**14, 1, *shape))[:, 0]
    assert draws.dtype == torch.float32
    torch.testing.assert_close(draws.mean(0), fn.mean, rtol=0.01, atol=0.01)
    torch.testing.assert_close(draws.var(0), fn.variance, rtol=0.03, atol=0.01)
    if name == "MultivariateNormal":
        torch.testing.assert_close(torch.cov(draws.T), fn.covariance_matrix, rtol=0.03, atol=0.02)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "LogNormal"])
def test_tempering_is_a_power_of_the_density(name: str) -> None:
    """log q_T - log q / T does not depend on z."""
    from ppl_vae.likelihood.tempering import tempered

    fn = FAMILIES[name]
    fn = fn if fn.event_shape else fn.to_event(1)
    z = fn.sample((50,))
    wider = tempered("z", fn, 3.0)
    rest = wider.log_prob(z) - fn.log_prob(z) / 3.0
    assert float(rest.max() - rest.min()) < 1e-4
    assert torch.equal(tempered("z", fn, 1.0).log_prob(z), fn.log_prob(z)) or name == "LowRank"


def test_a_tempered_guide_mends_one_that_is_too_narrow() -> None:
    """A guide three times too narrow, in variance nine times: at T = 9 the weights are those of the posterior."""
    pair, x, truth = toy(1 / 3)
    plain = pv.log_likelihood(pair, x, num_samples=2000)
    mended = pv.log_likelihood(pair, x, num_samples=2000, proposal=pv.proposals.tempered(9.0))
    assert float(plain.khat.median()) > 0.7
    assert float(mended.khat.median()) < 0.5
    assert float(((mended.log_px - truth).abs() / mended.std_error).max()) < 4
    assert mended.proposal == "tempered(9)"
    with pytest.raises(pv.UserError, match="below 1 a guide gets narrower"):
        pv.proposals.tempered(0.5)


def test_what_a_proposal_cannot_do_names_the_site() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.StudentT(3.0, x / 2, 1.0).to_event(1))

    pair, x = pv.Pair(model, guide), torch.zeros(3, 2)
    with pytest.raises(pv.PairError, match="site 'z': StudentT has no inverse distribution function"):
        pv.log_likelihood(pair, x, num_samples=16, proposal="qmc")
    with pytest.raises(pv.PairError, match="site 'z': StudentT can't be tempered"):
        pv.log_likelihood(pair, x, num_samples=16, proposal="tempered")
    assert pv.log_likelihood(pair, x, num_samples=16, proposal="defensive").log_px.shape == (3,)


@pytest.mark.parametrize("family", [dist.Gumbel, dist.Kumaraswamy])
def test_a_family_that_only_looks_like_one_is_not_tempered_in_silence(family: Any) -> None:
    from ppl_vae.likelihood.tempering import tempered

    with pytest.raises(pv.PairError, match="can't be tempered"):
        tempered("z", family(torch.ones(2), 1.0).to_event(1), 2.0)
    z = dist.HalfNormal(torch.ones(2)).sample((20,))
    wider = tempered("z", dist.HalfNormal(torch.ones(2)), 4.0)
    rest = wider.log_prob(z) - dist.HalfNormal(torch.ones(2)).log_prob(z) / 4
    assert float(rest.max() - rest.min()) < 1e-5


@pytest.mark.parametrize("shape", [0.05, 0.3])
def test_quasi_random_draws_stay_inside_an_open_support(shape: float) -> None:
    """Small shapes have draws that round to 0 or 1 in single precision, where the density is infinite."""
    from ppl_vae.likelihood.quantiles import quantile, sobol

    u = sobol(2**12, 1, 1)
    for fn in (dist.Gamma(torch.full((1,), shape), 1.0), dist.Beta(torch.full((1,), shape), shape)):
        z = quantile("z", fn.to_event(1).expand([2**12, 1]), u)
        assert bool(fn.support.check(z).all())
        assert bool(fn.log_prob(z).isfinite().all())


def test_the_bound_on_the_weights_holds_in_every_chunk() -> None:
    """Also for odd chunks, and for a remainder of one particle, where each datum draws its source."""
    from ppl_vae.likelihood.proposals import PROPOSALS

    pair, x, truth = toy(0.1)
    for size in (1, 2, 3, 14, 15):
        for _ in range(20):
            t = PROPOSALS["defensive"](pair.model, pair.guide, x, None, size)
            assert bool((t.log_w <= t.log_lik + math.log(10) + 1e-9).all())
    many = x.repeat(50, 1)  # each of the data fifty times, forty times over
    ones = [PROPOSALS["defensive"](pair.model, pair.guide, many, None, 1).log_w[0].detach() for _ in range(40)]
    w = (torch.stack(ones).reshape(2000, 40) - truth).exp().mean(1)
    assert abs(float(w.mean()) - 1) < 4.5 * float(w.std()) / math.sqrt(2000)


def test_options_follow_the_name_of_a_proposal() -> None:
    pair, x, _ = toy(1.3)
    est = pv.log_likelihood(pair, x[:4], num_samples=200, proposal="refined:family=diagonal,steps=5")
    assert est.refined is not None
    assert est.refined["family"] == "diagonal"
    assert est.proposal == "refined(family='diagonal', steps=5)"
    same = pv.log_likelihood(pair, x[:4], num_samples=200, proposal=pv.proposals.refined(family="diagonal", steps=5))
    assert torch.equal(est.log_px, same.log_px)
    assert pv.log_likelihood(pair, x[:4], num_samples=9, proposal="tempered:temperature=4").proposal == "tempered(4)"
    for text, message in {
        "refined:famly=full": "proposal 'refined' has no option famly; it takes family, components, steps",
        "refined:steps=many": "proposal 'refined': steps='many' is not of the type int",
        "refined:family=cauchy": "family='cauchy'",
        "auto:steps=5": "proposal 'auto' has no option steps; it takes num_temperatures, num_chains",
        "auto:num_temperatures=0": "auto: num_temperatures=0: at least one is needed",
        "qmc:steps=5": "only refined, tempered, auto take options",
        "tempered:temperature=0.5": "give 1 or more",
    }.items():
        with pytest.raises(pv.UserError, match=message) as caught:
            pv.log_likelihood(pair, x[:4], num_samples=9, proposal=text)
        assert "\n" not in str(caught.value)
