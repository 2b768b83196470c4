"""log p(x) against closed forms; the streaming sums against the plain ones; diagnostics against ArviZ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import GammaGuide, GammaPoisson
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.likelihood.diagnostics import tail_length
from ppl_vae.likelihood.streaming import CHUNK


def ppca(guide: str, shape: tuple[int, ...] = (20,), latent: int = 4, dtype: torch.dtype = torch.float64) -> pv.Pair:
    return pv.build("linear", data_shape=shape, latent=latent, sigma=0.6, guide=guide).to(dtype)


@pytest.mark.parametrize("shape", [(20,), (1, 4, 5)])
@pytest.mark.parametrize("num_samples", [2, 30, 1000])
def test_with_the_exact_posterior_every_weight_is_p_of_x(num_samples: int, shape: tuple[int, ...]) -> None:
    """Done-when 2, in float64: the closed form to 1e-9, k "exact", ESS = K, no error."""
    pair = ppca("exact", shape)
    x = 2 * torch.randn(50, *shape, dtype=torch.float64)
    est = pv.log_likelihood(pair, x, num_samples=num_samples)
    exact = pair.model.evidence(x).detach()
    assert float((est.log_px - exact).abs().max()) < 1e-9
    assert float((est.elbo - exact).abs().max()) < 1e-9
    assert bool((est.khat == -math.inf).all())
    assert est.ess.tolist() == pytest.approx([num_samples] * 50, rel=1e-9)
    assert float(est.std_error.max()) < 1e-6
    assert not bool(est.unreliable.any())
    assert est.summary()["khat_exact"] == 50
    assert est.summary()["khat_max"] is None


def test_in_single_precision_it_is_the_closed_form_to_1e_4() -> None:
    pair = ppca("exact", dtype=torch.float32)
    x = torch.randn(100, 20)
    est = pv.log_likelihood(pair, x, num_samples=500)
    exact = pair.double().model.evidence(x.double()).detach()
    assert float((est.log_px - exact).abs().max()) < 1e-4
    assert bool((est.khat == -math.inf).all())


def test_with_a_mismatched_guide_the_error_bars_are_right() -> None:
    """Done-when 2: within 4 of its own standard errors for at least 99 % of 1,000 data; and not much wider."""
    pair = ppca("exact", latent=2)

    class Wide(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                p = pair.model.posterior(x)
                pyro.sample("z", dist.Normal(p.mean + 0.1, 1.5 * p.variance.sqrt()).to_event(1))

    x = torch.randn(1000, 20, dtype=torch.float64)
    est = pv.log_likelihood(pv.Pair(pair.model, Wide()), x, num_samples=2000)
    z = (est.log_px - pair.model.evidence(x).detach()) / est.std_error
    assert float((z.abs() < 4).double().mean()) >= 0.99
    assert 0.85 < float(z.std()) < 1.15  # the error is neither too small nor too large
    assert bool((est.elbo < est.log_px).all())


@pytest.mark.parametrize("stretch", [1.0, 0.8])
def test_a_constrained_latent_has_the_closed_form(stretch: float) -> None:
    x = torch.distributions.Poisson(1.3).sample((200, 2))
    pair = pv.Pair(GammaPoisson(), GammaGuide(stretch))
    exact = pair.model.evidence(x)
    pv.check_pair(pair.model, pair.guide, x)
    est = pv.log_likelihood(pair, x, num_samples=4000)
    if stretch == 1.0:
        assert float((est.log_px - exact).abs().max()) < 1e-4
    else:
        z = (est.log_px - exact).abs() / est.std_error
        assert float((z < 4).double().mean()) >= 0.99
        assert float(z.mean()) > 0.3


def test_streaming_is_the_plain_formula() -> None:
    """One chunk of K, scored by hand at the same seed, gives the same figures."""
    from ppl_vae.common.rng import forked, seed_for

    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,)).double()
    x = (torch.rand(6, 9) > 0.5).double()
    est = pv.log_likelihood(pair, x, num_samples=300, seed=3, chunk=300)
    with forked(seed=seed_for(3, "log_likelihood", 0, 0)):
        log_w = pv.terms(pair.model, pair.guide, x, num_samples=300).log_w.detach()
    torch.testing.assert_close(est.log_px, log_w.logsumexp(0) - math.log(300))
    torch.testing.assert_close(est.elbo, log_w.mean(0))
    torch.testing.assert_close(est.ess, pv.ess(log_w))
    torch.testing.assert_close(est.khat, pv.pareto_khat(log_w))
    w = log_w.exp()
    torch.testing.assert_close(est.std_error, w.std(0) / math.sqrt(300) / w.mean(0))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_merging_chunks_loses_nothing(chunk: int) -> None:
    """Fixed weights, however they are cut, give the sums of all of them, also far outside the range of exp."""
    from ppl_vae.likelihood.accumulator import Accumulator, weights_of

    log_w = 30 * torch.randn(1000, 5, dtype=torch.float64) + torch.tensor([0.0, 2000.0, -3000.0, 700.0, -700.0])
    log_w[:400, 4] = -math.inf
    whole, cut = Accumulator(1000), Accumulator(1000)
    zero = torch.zeros_like(log_w)
    whole.add(weights_of(pv.Terms(log_w, zero, zero, sites={})))
    for part in log_w.split(chunk):
        cut.add(weights_of(pv.Terms(part, torch.zeros_like(part), torch.zeros_like(part), sites={})))
    for key, value in whole.result().items():
        torch.testing.assert_close(cut.result()[key], value, equal_nan=True, msg=key)
    torch.testing.assert_close(cut.result()["log_px"], log_w.logsumexp(0) - math.log(1000))


@pytest.mark.parametrize("num_samples", [1, 5, CHUNK, CHUNK + 1, 1000])
def test_exactly_k_samples_are_drawn(num_samples: int) -> None:
    """Trap 6: neither the batch size nor the remainder decides how many."""
    drawn: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                drawn.append(z.shape[0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    est = pv.log_likelihood(pv.Pair(model, Counting()), torch.zeros(3, 1), num_samples=num_samples)
    assert sum(drawn) == num_samples
    assert est.num_samples == num_samples
    assert float(est.ess.max()) <= num_samples + 1e-9
    assert bool(est.std_error.isnan().all()) is (num_samples == 1)


def test_the_sum_is_over_the_samples_that_were_drawn() -> None:
    """Trap 6: 1,000 samples in passes of 300 are divided by 1,000, and data in blocks of 7 by their number."""
    pair = ppca("linear", latent=2)
    x = torch.randn(20, 20, dtype=torch.float64)
    est = pv.log_likelihood(pair, x, num_samples=1000, chunk=300, block=7)
    log_w = pv.log_weights(pair, x, num_samples=1000, chunk=300, block=7)
    assert log_w.shape == (1000, 20)
    torch.testing.assert_close(est.log_px, log_w.logsumexp(0) - math.log(1000))
    assert est.summary()["log_px_mean"] == pytest.approx(float(est.log_px.sum()) / 20)
    assert est.summary()["elbo_mean"] == pytest.approx(float(log_w.mean()))


def test_no_estimate_moves_a_parameter() -> None:
    """Trap 6: to judge is not to train, in training mode either."""
    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,)).train()
    x = (torch.rand(6, 9) > 0.5).float()
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    pv.panel(pair, x, estimators=("iwae", "psis", "defensive", "qmc", "ais"), num_samples=64, num_temperatures=3)
    pv.posterior(pair, x, method="hmc", num_samples=4, warmup=2)
    pv.description_length(pair, x)
    pv.eubo(pair, 3, 5)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())
    assert pair.training


def test_each_datum_has_its_own_weights() -> None:
    """Trap 2: weights summed over the batch have an ESS near 1 where each datum's is near K."""
    pair = ppca("exact", latent=2)
    x = torch.randn(64, 20, dtype=torch.float64)
    est = pv.log_likelihood(pair, x, num_samples=100)
    assert float(est.ess.min()) > 99.9


def test_figures_depend_on_the_seed_and_the_blocks_and_on_nothing_else() -> None:
    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,))
    x = (torch.rand(20, 9) > 0.5).float()
    one = pv.log_likelihood(pair, x, num_samples=50, block=5)
    torch.rand(100)
    two = pv.log_likelihood(pair, x, num_samples=50, block=5)
    assert torch.equal(one.log_px, two.log_px)
    assert torch.equal(pv.log_likelihood(pair, x[:10], num_samples=50, block=5).log_px, one.log_px[:10])
    assert not torch.equal(one.log_px, pv.log_likelihood(pair, x, num_samples=50, block=5, seed=1).log_px)
    assert (one.block, one.chunk, one.seed) == (5, 50, 0)


def test_plate_scale_plays_no_part_and_masks_do() -> None:
    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,))
    x = (torch.rand(4, 9) > 0.5).float()
    plain = pv.log_likelihood(pair, x, num_samples=50)
    scale = pyro.poutine.scale
    scaled = pv.Pair(scale(pair.model, scale=7.0), scale(pair.guide, scale=7.0))
    assert torch.equal(pv.log_likelihood(scaled, x, num_samples=50).log_px, plain.log_px)

    half = torch.zeros(9, dtype=torch.bool)
    half[:4] = True

    def masked(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pair.model.prior())
            p = dist.Bernoulli(logits=pair.model.decoder(z).squeeze(-2)).mask(half).to_event(1)
            pyro.sample("x", p, obs=x)

    class Prior(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", pair.model.prior())

    other = x.clone()
    other[:, 4:] = 1 - other[:, 4:]
    one = pv.log_likelihood(pv.Pair(masked, Prior()), x, num_samples=50).log_px
    assert torch.equal(one, pv.log_likelihood(pv.Pair(masked, Prior()), other, num_samples=50).log_px)
    assert not torch.equal(one, pv.log_likelihood(pv.Pair(pair.model, Prior()), x, num_samples=50).log_px)


@pytest.mark.parametrize("num_samples", [100, 1000, 10_000])
@pytest.mark.parametrize("kind", ["normal", "pareto", "bounded", "student"])
def test_pareto_k_is_arvizs(kind: str, num_samples: int) -> None:
    """To 1e-6 where both keep a tail of the same length: always on 0.23, at some lengths on 1.x."""
    g = np.random.default_rng(0)
    log_w = {
        "normal": g.normal(size=(num_samples, 6)) * np.linspace(0.1, 4, 6),
        "pareto": g.exponential(size=(num_samples, 6)) * np.linspace(0.1, 1.5, 6),
        "bounded": -g.exponential(size=(num_samples, 6)),
        "student": g.standard_t(3, size=(num_samples, 6)),
    }[kind]
    ours = pv.pareto_khat(torch.from_numpy(log_w)).numpy()
    theirs = arviz_khat(log_w)
    if theirs is None:
        pytest.skip("arviz-stats 1.x keeps a tail of another length here")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def arviz_khat(log_w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from arviz import psislw  # 0.23: log weights

            return np.array([psislw(column.copy())[1] for column in log_w.T])
        except ImportError:
            from arviz_stats.base import array_stats  # 1.x: their negative

            k = log_w.shape[0]
            if tail_length(k) - 1 != int(min(0.2 * k, 3 * math.sqrt(k))):
                return None
            return np.array([array_stats.psislw(-column)[1] for column in log_w.T])


def test_pareto_k_of_gaussian_proposals() -> None:
    """Target N(0, 1), proposal N(0, s^2): k = 1 - s^2, in the mean over replicates."""
    g = torch.Generator().manual_seed(0)
    for s2 in (0.3, 0.5, 0.7):
        z = math.sqrt(s2) * torch.randn(20_000, 40, generator=g, dtype=torch.float64)
        log_w = -0.5 * z**2 + 0.5 * z**2 / s2
        assert float(pv.pareto_khat(log_w).mean()) == pytest.approx(1 - s2, abs=0.12)


def test_pareto_k_at_the_edges() -> None:
    assert pv.pareto_khat(torch.randn(3, 2)).isnan().all()  # fewer than five in the tail
    assert (pv.pareto_khat(torch.full((50, 2), -1234.5)) == -math.inf).all()
    assert pv.pareto_khat(torch.zeros(1, 2)).isnan().all()  # one weight says nothing
    ties = torch.cat([torch.zeros(990, 1), torch.ones(10, 1)])
    assert pv.pareto_khat(ties).shape == (1,)
    assert pv.khat_threshold(100) == pytest.approx(0.5)
    assert pv.khat_threshold(10**9) == 0.7
    assert pv.khat_threshold(1) == -math.inf


class Modes(nn.Module):
    """A prior of two modes, far apart, and a likelihood that can't tell them apart."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            mix = dist.Categorical(torch.tensor([0.5, 0.5]))
            z = pyro.sample("z", dist.MixtureSameFamily(mix, dist.Normal(torch.tensor([-20.0, 20.0]), 1.0)))
            pyro.sample("x", dist.Normal(0 * z, 1.0), obs=x)


class OneMode(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(20 * torch.ones_like(x), 1.0))


class Three(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)


class TwoOfThree(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Categorical(logits=torch.tensor([0.0, 0.0, -30.0]).expand(len(x), 3)))


@pytest.mark.parametrize(("model", "guide"), [(Modes, OneMode), (Three, TwoOfThree)])
def test_equal_weights_prove_nothing_where_the_guide_never_goes(model: Any, guide: Any) -> None:
    """The estimate is log 2, or log 3/2, too low, with equal weights: draws of the prior find it out."""
    est = pv.log_likelihood(pv.Pair(model(), guide()), torch.zeros(5), num_samples=300)
    assert float(est.log_px.max()) < dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) - 0.4
    assert est.khat.isnan().all()
    assert bool(est.unreliable.all())
    assert est.side == "lower"


@pytest.mark.parametrize("num_samples", [255, 256, 257, 513])
def test_an_exact_discrete_guide_is_exact_at_any_remainder(num_samples: int) -> None:
    class Exact(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Categorical(torch.ones(len(x), 3) / 3))

    est = pv.log_likelihood(pv.Pair(Three(), Exact()), torch.zeros(20), num_samples=num_samples)
    assert est.side == "exact"


@pytest.mark.parametrize("call", ["log_likelihood", "log_weights", "bound_curve", "ais", "posterior", "panel"])
def test_a_failure_puts_back_what_it_took(call: str) -> None:
    """While the exception is still held, as in a debugger: mode, gradients and generators are the host's again."""
    pair = pv.build("linear", data_shape=(5,), latent=2).train()
    count = 0

    def guide(x: Tensor) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        pair.guide(x)

    failing: dict[str, Callable[[pv.Pair, Tensor], Any]] = {
        "log_likelihood": pv.log_likelihood,
        "log_weights": pv.log_weights,
        "bound_curve": pv.bound_curve,
        "panel": pv.panel,
        "posterior": lambda pair, x: pv.posterior(pair, x, num_samples=2000),
        "ais": lambda pair, x: pv.ais(pair, x, num_temperatures=9, start="guide"),
    }
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt) as held:
        failing[call](pv.Pair(pair.model, guide), torch.zeros(40, 5))
    assert held.value is not None
    assert torch.is_grad_enabled()
    assert pair.model.training
    assert torch.equal(state, torch.get_rng_state())


def test_ess_is_between_one_and_k() -> None:
    log_w = torch.zeros(100, 3)
    log_w[0, 1] = 1000.0
    log_w[50:, 2] = -math.inf
    torch.testing.assert_close(pv.ess(log_w), torch.tensor([100.0, 1.0, 50.0], dtype=torch.float64))


def test_zero_weights_are_legal_and_nan_is_named() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros(1), 1.0).to_event(1))
            width = torch.where(x > 5, torch.full_like(z, math.nan), torch.ones_like(z))
            pyro.sample("x", dist.Normal(z, width, validate_args=False).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Uniform(torch.zeros(1), 1.0).to_event(1))

    with pytest.raises(pv.NonFiniteError, match="datum 2: the log density of site 'x'"):
        pv.log_likelihood(pv.Pair(model, guide), torch.tensor([[0.0], [1.0], [9.0]]), num_samples=10)

    def half(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)
            pyro.sample("positive", dist.Delta((z[..., 0] > 0).float()), obs=torch.ones(len(x)))

    def normal(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    est = pv.log_likelihood(pv.Pair(half, normal), torch.zeros(3, 1), num_samples=4000)
    exact = math.log(0.5) - 0.5 * math.log(2 * math.pi)
    assert bool(((est.log_px - exact).abs() < 4 * est.std_error).all())
    assert est.elbo.tolist() == [-math.inf] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: pv.log_likelihood(p, torch.zeros(3, 5), num_samples=0), "num_samples=0"),
        (lambda p: pv.log_likelihood(p, torch.zeros(0, 5)), "holds no data"),
        (lambda p: pv.log_likelihood(p, torch.zeros(3, 5), torch.zeros(2)), "2 labels for 3 data"),
        (lambda p: pv.log_likelihood(p, torch.full((3, 5), math.nan)), "example 0 has a missing entry .NaN. at"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[pv.Pair], Any], message: str) -> None:
    pair = pv.build("linear", data_shape=(5,), latent=2)
    with pytest.raises(pv.UserError, match=message) as caught:
        call(pair)
    assert "\n" not in str(caught.value)


def test_the_text_says_which_side_of_the_truth_it_is_on() -> None:
    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,))
    text = str(pv.log_likelihood(pair, torch.zeros(4, 9), num_samples=40, seed=5))
    for part in ("lower bound in expectation", "K = 40", "seed 5", "Pareto k", "ESS", "bits/dim"):
        assert part in text
    exact = str(pv.log_likelihood(pv.build("made", data_shape=(9,)), torch.zeros(4, 9), num_samples=40))
    assert "exact" in exact


def test_autoguides_are_proposals_and_stray_auxiliary_sites_are_refused() -> None:
    """An autoguide makes the latents from what it draws on the side; without that the weights would be wrong."""
    from pyro.infer.autoguide import AutoNormal
    from pyro.infer.autoguide.initialization import init_to_value

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)

    x = torch.linspace(-1, 1, 5)
    guide = AutoNormal(model, init_scale=1.0, init_loc_fn=init_to_value(values={"z": torch.ones(5)}))
    guide(x)
    est = pv.log_likelihood(pv.Pair(model, guide), x, num_samples=4000)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert bool(((est.log_px - exact).abs() < 5 * est.std_error).all())
    pyro.clear_param_store()

    def stray(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.LogNormal(a, 1.0))

    with pytest.raises(pv.PairError, match="'a' is auxiliary"):
        pv.log_likelihood(pv.Pair(model, stray), x, num_samples=10)


def test_a_zero_weight_is_not_exact() -> None:
    """A guide that leaves the support of the prior: some weights are zero, which is legal and not exact."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros(1), 1.0, validate_args=False).to_event(1))
            pyro.sample("x", dist.Normal(20 * z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Uniform(torch.full((1,), -0.5), 1.5).to_event(1))

    for num_samples in (10, 1000):
        est = pv.log_likelihood(pv.Pair(model, guide), torch.tensor([[3.0], [9.0]]), num_samples=num_samples)
        assert not bool((est.khat == -math.inf).any())
        assert bool(est.unreliable.all()) is (num_samples == 10)
    log_w = torch.randn(1000, 1) * 3
    log_w[5] = -math.inf
    assert float(pv.pareto_khat(log_w)) > 0


def test_equal_weights_of_one_discrete_value_are_not_called_exact() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.7))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(logit: float) -> Callable[[Tensor], None]:
        def program(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("c", dist.Bernoulli(logits=torch.tensor(logit)))

        return program

    x = torch.tensor([0.0, 1.0])
    stuck = pv.log_likelihood(pv.Pair(model, guide(-30.0)), x, num_samples=2000)
    assert bool(stuck.unreliable.all())
    fine = pv.log_likelihood(pv.Pair(model, guide(0.5)), x, num_samples=20_000)
    exact = torch.logsumexp(
        torch.stack([math.log(p) + dist.Normal(c, 1.0).log_prob(x) for c, p in ((0.0, 0.3), (1.0, 0.7))]), 0
    )
    assert bool(((fine.log_px - exact).abs() < 4 * fine.std_error).all())


def test_rounding_in_single_precision_does_not_make_weights_exact() -> None:
    """Large densities that hardly depend on z: the weights differ by 0.3 nats, and rounding by nearly as much."""

    class Model(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(torch.zeros(784), 0.01).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((1,), 0.3), 1.0).to_event(1))

    for num_samples in (2, 3000):
        est = pv.log_likelihood(pv.Pair(Model(), guide), torch.randn(60, 784), num_samples=num_samples)
        assert float((est.khat == -math.inf).double().mean()) < 0.05


def test_a_code_beside_an_autoguide_is_still_a_code() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x / 3, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(a))
            pyro.sample("w", dist.Delta(x / 3))

    with pytest.raises(pv.PairError, match="'w': the guide is deterministic"):
        pv.log_likelihood(pv.Pair(model, guide), torch.zeros(4), num_samples=50)


def test_data_that_would_broadcast_into_particles_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.PairError, match=r"site 'x' observes data of shape \(4, 1\) where .* = \(4,\) is needed"):
        pv.log_likelihood(pv.Pair(model, guide), torch.randn(4, 1), num_samples=4)


@pytest.mark.parametrize("kind", ["Cauchy", "flow"])
def test_a_reconstruction_is_never_the_data(kind: str) -> None:
    """A likelihood without a mean gives its mode, and one with neither gives a draw: never the input."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            likelihood = dist.Cauchy(100 + z, 1.0)
            if kind == "flow":
                move = torch.distributions.transforms.AffineTransform(100.0, 1.0)
                likelihood = dist.TransformedDistribution(dist.Normal(z, 1.0), [move])
            pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    again = pv.reconstruct(pv.Pair(model, guide), x, seed=0)
    assert again.shape == x.shape
    assert float(again.median()) > 50


def test_the_maximum_likelihood_of_pca_needs_noise() -> None:
    model = pv.build("linear", data_shape=(3,), latent=3).model
    with pytest.raises(pv.UserError, match="latent=3 of 3 dimensions leaves none"):
        model.set_maximum_likelihood(torch.randn(10, 3))


def test_splits_and_arrays_are_data_too() -> None:
    data = pv.load_data("digits")
    pair = pv.build("cvae", data=data, latent=2, hidden=(8,))
    test = data.test.limit(10)
    est = pv.log_likelihood(pair, test, num_samples=20)
    assert torch.equal(est.log_px, pv.log_likelihood(pair, test.x, test.y, num_samples=20).log_px)
    assert torch.equal(est.log_px, pv.log_likelihood(pair, test.x.numpy(), test.y, num_samples=20).log_px)
    assert est.conditional
    assert str(est).startswith("log p(x | y)")
    assert len(pv.log_likelihood(pair, data.train.limit(5), num_samples=5)) == 5  # drawn once, fixed by the seed
    vae = pv.build("vae", data=data, latent=2, hidden=(8,))
    assert not pv.log_likelihood(vae, test, num_samples=20).conditional
    with pytest.raises(pv.UserError, match="compare like with like"):
        pv.compare({"vae": vae, "cvae": pair}, test.x, test.y, num_samples=20)


def test_all_data_at_once_are_refused() -> None:
    data = pv.load_data("digits")
    pair = pv.build("vae", data=data, latent=2, hidden=(8,))
    for call in (pv.log_likelihood, pv.panel, pv.ais):
        with pytest.raises(pv.UserError, match=r"name a split of the data: data\.test"):
            call(pair, data)


def test_an_error_inside_a_program_is_one_line() -> None:
    """Pyro appends the shapes of the trace to what is raised inside it."""
    pair = pv.build("cvae", data_shape=(4,), num_classes=3, latent=2, hidden=(3,))
    with pytest.raises(pv.UserError) as caught:
        pv.reconstruct(pair, torch.zeros(2, 4))
    assert str(caught.value) == "this pair is conditional: give labels y with the data"


def test_a_split_brings_its_labels_to_encode_and_reconstruct() -> None:
    torch.manual_seed(0)
    x, y = (torch.rand(6, 5) < 0.5).float(), torch.arange(6) % 3
    pair = pv.build("cvae", data_shape=(5,), num_classes=3, latent=2, hidden=(4,))
    split = pv.Split(x, y)
    assert torch.equal(pv.encode(pair, split, seed=0).mean["z"], pv.encode(pair, x, y, seed=0).mean["z"])
    assert torch.equal(pv.reconstruct(pair, split, seed=0), pv.reconstruct(pair, x, y, seed=0))
    with pytest.raises(pv.DataError, match="2 labels for 6 data"):
        pv.encode(pair, x, y[:2])
