"""Likelihoods are probability distributions: they sum or integrate to one, and draw what they score."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch

import ppl_vae as pv
from ppl_vae.nn import likelihoods
from ppl_vae.nn.distributions import ContinuousBernoulli, DiscretizedLogistic
from ppl_vae.nn.likelihoods import LIKELIHOODS, make


@pytest.mark.parametrize(("shape", "hidden"), [((1, 3, 3), (20,)), ((7,), (20, 15)), ((1,), (4,)), ((2, 4), ())])
def test_made_sums_to_one_over_all_binary_images(shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    pair = pv.build("made", data_shape=shape, hidden=hidden).double()
    size = torch.Size(shape).numel()
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64).reshape(-1, *shape)
    est = pv.log_likelihood(pair, x, num_samples=17)
    assert float(est.log_px.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert bool((est.khat == -torch.inf).all())
    assert est.ess.tolist() == pytest.approx([17.0] * len(x))
    assert est.std_error.tolist() == [0.0] * len(x)


def test_made_draws_what_it_scores() -> None:
    pair = pv.build("made", data_shape=(3,), hidden=(20,))
    with torch.no_grad():
        for p in pair.parameters():
            p.mul_(5)
    n = 20_000
    x = pv.sample(pair, n, seed=0)
    code = (x * torch.tensor([4.0, 2.0, 1.0])).sum(1).long()
    counts = torch.bincount(code, minlength=8) / n
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    p = pv.log_likelihood(pair, images, num_samples=1).log_px.exp()
    assert bool(((counts - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all())
    assert float(p.max()) > 0.2  # far from uniform, so that the test has power


@pytest.mark.parametrize(("loc", "log_scale"), [(0.3, -2.0), (0.0, -6.0), (1.0, -7.0), (0.5, 1.0), (-0.4, -3.0)])
def test_the_discretized_logistic_sums_to_one(loc: float, log_scale: float) -> None:
    p = DiscretizedLogistic(torch.tensor(loc, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64))
    log_p = p.log_prob(torch.arange(256, dtype=torch.float64) / 255)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert bool(log_p.isfinite().all())


def test_the_discretized_logistic_is_the_mass_of_a_bin() -> None:
    """Against the distribution function written out."""
    loc, log_scale = torch.tensor(0.37, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    v = torch.arange(1, 255, dtype=torch.float64)
    s = 255 * log_scale.exp()
    mass = torch.sigmoid((v + 0.5 - 255 * loc) / s) - torch.sigmoid((v - 0.5 - 255 * loc) / s)
    got = DiscretizedLogistic(loc, log_scale).log_prob(v / 255).exp()
    torch.testing.assert_close(got, mass, rtol=1e-9, atol=1e-15)


def test_the_discretized_logistic_draws_what_it_scores() -> None:
    p = DiscretizedLogistic(torch.tensor(0.05), torch.tensor(-3.5))
    n = 40_000
    x = p.sample(torch.Size((n,)))
    counts = torch.bincount((255 * x).round().long(), minlength=256) / n
    mass = p.log_prob(torch.arange(256) / 255).exp()
    assert bool(((counts - mass).abs() < 5 * (mass * (1 - mass) / n).sqrt() + 1e-3).all())
    assert float(counts[0]) > 0.02  # the lower tail collects


@pytest.mark.parametrize("name", ["gaussian", "gaussian_learned", "gaussian_diagonal", "gaussian_network",
                                  "continuous_bernoulli"])  # fmt: skip
def test_densities_integrate_to_one(name: str) -> None:
    takes_sigma = "sigma" in inspect.signature(type(make(name, (1,)))).parameters
    p = make(name, (1,), 0.7 if takes_sigma else None).double()
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    if name == "continuous_bernoulli":
        grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    h = torch.full((1, p.multiple, 1), 0.4, dtype=torch.float64)
    density = p(h).log_prob(grid[:, None]).exp().detach()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-8)


def test_a_sigma_that_has_no_effect_is_told() -> None:
    with pytest.warns(UserWarning, match="sigma=0.3 has no effect: the likelihood bernoulli has none"):
        pv.build("vae", data_shape=(3,), latent=1, hidden=(3,), sigma=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-60.0, -20.0, -3.0, -0.06, -0.04, 0.0, 1e-3, 0.05, 2.0, 30.0])
def test_the_continuous_bernoulli_is_right_at_every_logit(logit: float, dtype: torch.dtype) -> None:
    """Normalised, with its mean and its gradient, where torch's own clamps; and its draws have its mean."""
    p = ContinuousBernoulli(torch.tensor(logit, dtype=dtype, requires_grad=True))
    grid = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    density = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64)).log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-7)
    mean = float(torch.trapezoid(grid * density, grid))
    assert float(p.mean.detach()) == pytest.approx(mean, abs=1e-5 if dtype == torch.float32 else 1e-7)
    x = torch.tensor(0.25, dtype=dtype)
    log_p = p.log_prob(x)
    log_p.backward()
    exact = math.log(float(torch.exp(torch.tensor(logit * 0.25)))) - _log_normaliser(logit)
    assert float(log_p.detach()) == pytest.approx(exact, rel=1e-5, abs=2e-6)
    assert float(p.logits.grad) == pytest.approx(0.25 - mean, abs=1e-4)  # d log p / d l = x - E[x]
    draws = p.sample(torch.Size((40_000,)))
    assert float(draws.mean()) == pytest.approx(mean, abs=5 * 0.3 / 200)
    assert bool(((draws >= 0) & (draws <= 1)).all())


def _log_normaliser(logit: float) -> float:
    if logit == 0:
        return 0.0
    size = abs(logit)
    log = size + math.log1p(-math.exp(-size)) - math.log(size)  # of (e^|l| - 1) / |l|
    return log if logit > 0 else log + logit


@pytest.mark.parametrize(("loc", "log_scale"), [(0.0, -1.5), (0.4, -2.0), (1.2, -1.0)])
def test_the_mean_of_the_discretized_logistic_is_its_mean(loc: float, log_scale: float) -> None:
    p = DiscretizedLogistic(torch.tensor(loc).double(), torch.tensor(log_scale).double())
    x = torch.arange(256, dtype=torch.float64) / 255
    assert float(p.mean) == pytest.approx(float((x * p.log_prob(x).exp()).sum()), abs=1e-12)


def test_made_looks_at_every_input_but_the_last() -> None:
    for hidden in ((500,), (10,), (10, 300)):
        pair = pv.build("made", data_shape=(784,) if hidden == (500,) else (30,), hidden=hidden).double()
        x = torch.rand(64, 784 if hidden == (500,) else 30, dtype=torch.float64, requires_grad=True)
        pair.model.net(x).sum().backward()
        seen = int((x.grad != 0).any(0).sum())  # type: ignore[union-attr]
        assert seen >= min(hidden[0], x.shape[1] - 1) * 0.9, (hidden, seen)
        first = pair.model.net.layers[0]
        weight = first.weight * first.masks[0]
        assert int((weight != 0).any(0).sum()) >= x.shape[1] - max(2, -(-x.shape[1] // hidden[0]))


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "gaussian_network", "gaussian_diagonal"])
def test_the_output_starts_at_the_mean_of_the_data(name: str) -> None:
    mean = torch.linspace(0.1, 0.9, 6).reshape(1, 2, 3)
    pair = pv.build("vae", data_shape=(1, 2, 3), data_mean=mean, latent=2, hidden=(4,), likelihood=name)
    with torch.no_grad():
        for layer in list(pair.model.decoder.net)[:-1]:
            for p in layer.parameters():
                p.zero_()
    torch.testing.assert_close(pv.decode(pair, {"z": torch.zeros(1, 2)})[0], mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [0.2, 3.0, 40.0])
def test_counts_have_the_closed_form_of_their_law(rate: float) -> None:
    """Poisson: e^-m m^x / x!. Negative binomial: Gamma(x + r) / (x! Gamma(r)) (r / (r + m))^r (m / (r + m))^x."""
    x = torch.arange(400, dtype=torch.float64)[:, None]
    h = torch.full((1, 1, 1), math.log(rate), dtype=torch.float64)
    poisson = -rate + x * math.log(rate) - torch.lgamma(x + 1)
    torch.testing.assert_close(make("poisson", (1,))(h).log_prob(x), poisson[:, 0])
    r = 2.5
    p = make("negative_binomial:total_count=2.5", (1,)).double()
    exact = torch.lgamma(x + r) - torch.lgamma(x + 1) - math.lgamma(r)
    exact = exact + r * math.log(r / (r + rate)) + x * math.log(rate / (r + rate))
    torch.testing.assert_close(p(h).log_prob(x).detach(), exact[:, 0], rtol=1e-6, atol=1e-6)
    assert float(p(h).mean.detach()) == pytest.approx(rate)
    assert float(p(h).variance.detach()) == pytest.approx(rate + rate**2 / r)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_output_starts_at_a_mean(name: str) -> None:
    """The distribution of ``start(mean)`` has that mean, also where the parameter is no mean."""
    mean = torch.tensor([[0.02, 0.3, 0.5], [0.51, 0.7, 0.98]])
    if name in ("poisson", "negative_binomial", "zero_inflated"):
        mean = 300 * mean**3
    p = make(name, (2, 3))
    start = p(p.start(mean).movedim(0, -3)[None])
    torch.testing.assert_close(start.mean[0], mean, rtol=1e-4, atol=1e-4)


def test_a_likelihood_is_a_name_a_table_a_callable_or_an_instance() -> None:
    """All five spell the same one, and the run says so in one way."""
    from functools import partial

    gaussian = likelihoods.Gaussian
    table = {"name": "gaussian", "sigma": 0.5}
    objects = gaussian(sigma=0.5), partial(gaussian, sigma=0.5), gaussian((3,), sigma=0.5)
    given = ["gaussian:sigma=0.5", table, *objects]
    for likelihood in given:
        pair = pv.build("vae", data_shape=(3,), latent=1, hidden=(3,), likelihood=likelihood, sigma=0.9)
        assert float(pair.model.likelihood.sigma) == 0.5
        again = pv.build("vae", **pair.config)
        assert float(again.model.likelihood.sigma) == 0.5
    assert float(
        pv.build("vae", data_shape=(3,), latent=1, likelihood="gaussian", sigma=0.9).model.likelihood.sigma
    ) == (pytest.approx(0.9))
    learned = likelihoods.GaussianDiagonal(sigma=0.5)
    a, b = (pv.build("vae", data_shape=(3,), latent=1, likelihood=learned) for _ in range(2))
    assert a.model.likelihood.log_sigma is not b.model.likelihood.log_sigma
    assert a.model.likelihood.log_sigma.shape == (3,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gaussian:sigmas=1", "likelihood 'gaussian' has no option sigmas; it takes sigma"),
        ("gaussian:sigma=wide", "likelihood 'gaussian': sigma='wide' is not of the type float"),
        ("gaussian:0.5", "options are written name:option=value"),
        ("bernoulli:sigma=1", "likelihood 'bernoulli' has no option sigma; it takes"),
        ({"sigma": 0.5}, "likelihood='None': choose one of bernoulli"),
        (3, "likelihood=3: give a name"),
        (lambda shape: torch.nn.Linear(1, 1), "a Likelihood is needed"),
        (likelihoods.Gaussian((3, 3)), "it was made for 2 dimensions"),
    ],
)
def test_what_is_no_likelihood_is_one_line(given: object, message: str) -> None:
    with pytest.raises(pv.UserError, match=message) as caught:
        pv.build("vae", data_shape=(3,), latent=1, hidden=(3,), likelihood=given)
    assert "\n" not in str(caught.value)


def test_every_likelihood_says_what_it_needs() -> None:
    with pytest.raises(pv.UserError, match=r"likelihood='cauchy'.*bernoulli"):
        make("cauchy", (3,))
    with pytest.raises(pv.UserError, match=r"sigma=0\.0"):
        make("gaussian", (3,), 0.0)
    with pytest.raises(pv.UserError, match="sigma=-1"):
        make("gaussian_learned", (3,), -1)


def test_pixels_off_the_grid_are_refused() -> None:
    pair = pv.build("vae", data_shape=(4,), latent=1, hidden=(3,), likelihood="discretized")
    with pytest.raises(pv.DataError, match="example 1 lies outside"):
        pv.log_likelihood(pair, torch.tensor([[0, 1, 0.2, 0.4], [0.5, 0.0, 0.0, 0.0]]), num_samples=3)


def test_a_likelihood_of_ones_own_is_a_short_class() -> None:
    import pyro.distributions as dist

    class Laplace(likelihoods.Likelihood):
        def per_coordinate(self, *h: torch.Tensor) -> object:
            return dist.Laplace(h[0], 1.0)

    p = Laplace((3,))
    assert p(torch.zeros(5, 1, 3)).log_prob(torch.zeros(5, 3)).shape == (5,)
