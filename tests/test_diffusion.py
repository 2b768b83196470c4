"""Diffusion: a term at a time is the whole chain's ELBO; the noise is what it is said to be; exact where it can be."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.nn import likelihoods
from ppl_vae.objectives.one_term import spread

LEVELS = 6


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def chain(**options: object) -> pv.Pair:
    return pv.build("diffusion", data_shape=(3,), hidden=(8,), **{"levels": LEVELS, **options})


def terms_at(pair: pv.Pair, x: Tensor, copies: int) -> Tensor:
    """The term of every t at the same copies of the examples, (T, copies, B)."""
    many, rows = x.repeat(copies, 1), copies * len(x)
    levels = range(1, pair.model.num_terms + 1)
    return torch.stack([pair.model.term(torch.full((rows,), t), many) for t in levels]).reshape(-1, copies, len(x))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_network"])
@torch.no_grad()
def test_the_mean_term_is_the_elbo_of_the_chain(likelihood: str) -> None:
    """By the closed-form KLs of the whole chain, and by its plain log weights, within five standard errors."""
    pair, copies = chain(likelihood=likelihood, snr=(1.0, -2.0)), 10_000
    x = (torch.rand(2, 3) > 0.5).double()
    each = terms_at(pair, x, copies).mean(0)  # (copies, B)
    t = pv.terms(pair.model, pair.guide, x, num_samples=copies)
    closed = t.log_lik - sum(s.kl for s in t.sites.values())
    for other in (closed, t.log_w):
        error = ((each.var(0) + other.var(0)) / copies).sqrt()
        assert bool(((each.mean(0) - other.mean(0)).abs() < 5 * error).all())
        assert float(error.max()) < 0.2


@torch.no_grad()
def test_the_objective_is_an_unbiased_elbo() -> None:
    pair, copies = chain(snr=(1.0, -2.0)), 40_000
    x = torch.tensor([[1.0, 0.0, 1.0]]).repeat(copies, 1)
    found = pv.objective("one_term").bounds(pair.model, pair.guide, x)
    exact = terms_at(pair, x[:1], 5000).mean(0)
    error = (found.var() / copies + exact.var() / 5000).sqrt()
    assert abs(float(found.mean() - exact.mean())) < 5 * float(error)


def test_its_gradient_is_that_of_the_whole_chain() -> None:
    """The mean of single terms has the gradient of the closed-form ELBO, on average."""
    pair, copies = chain(levels=3, snr=(0.0, -2.0)), 10_000
    x = torch.tensor([[1.0, 0.0, 1.0]]).repeat(copies, 1)
    weight = pair.model.decoder.net[-1].bias

    def gradients(name: str) -> Tensor:
        parts = [-pv.objective(name)(pair.model, pair.guide)(part) / len(part) for part in x.chunk(20)]
        return torch.stack([torch.autograd.grad(part, weight)[0] for part in parts])

    one, whole = gradients("one_term"), gradients("analytic_kl")
    error = ((one.var(0) + whole.var(0)) / 20).sqrt()
    assert bool(((one.mean(0) - whole.mean(0)).abs() < 5 * error).all())
    assert float((whole.mean(0).abs() / error).max()) > 20  # and is seen above the noise


@torch.no_grad()
def test_one_network_evaluation_a_step() -> None:
    pair = chain()
    seen: list[int] = []
    pair.model.decoder.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    pv.objective("one_term").bounds(pair.model, pair.guide, torch.zeros(7, 3))
    assert seen == [7]


@torch.no_grad()
def test_the_steps_of_the_guide_make_its_margins() -> None:
    """q(z_t|x) = int q(z_t|x) q(z_{t-1}|z_t, x): mean and variance agree at every t."""
    noise, u = chain().model.noise, torch.tensor([0.3, -1.0, 2.0])
    for t in range(2, LEVELS + 1):
        above, below = noise.noisy(t, u).base_dist, noise.noisy(t - 1, u).base_dist
        back = noise.back(t, above.mean, u).base_dist  # its mean is linear in z_t
        slope = noise.back(t, above.mean + 1, u).base_dist.mean - back.mean
        torch.testing.assert_close(back.mean, below.mean)
        torch.testing.assert_close(back.variance + slope**2 * above.variance, below.variance)


class Linear(nn.Module):
    """What the decoder says where u ~ N(0, v): E[u | z_t] for data of scale 1 and centre 0, and its variance."""

    def __init__(self, pair: pv.Pair, v: float, matched: bool) -> None:
        super().__init__()
        self.noise, self.v, self.matched = pair.model.noise, v, matched
        self.lookup = {tuple(w.tolist()): t + 1 for t, w in enumerate(pair.model.waves)}

    def forward(self, inputs: Tensor) -> Tensor:
        z, wave = inputs[..., :3], inputs[..., 3:].reshape(-1, inputs.shape[-1] - 3)[0]
        _, a, s = self.noise.at(self.lookup[tuple(wave.tolist())])
        mean = a * self.v / (a**2 * self.v + s**2) * z - a * z  # beside the guess for v = 1
        log_v = torch.log(self.v / (a**2 * self.v + s**2)).expand_as(z)  # the variance, over s^2
        return torch.stack([mean / s, log_v if self.matched else torch.full_like(z, -math.inf)], -2)


def gap(levels: int, v: float, matched: bool) -> float:
    """log p(x) less the ELBO, in nats, of Gaussian data N(0, v) under the exact denoiser."""
    snr = (4.0, -12.0)
    pair = chain(levels=levels, snr=snr, scale=1.0, likelihood="gaussian")
    a2 = torch.sigmoid(torch.tensor(snr[0]))
    pair.model.likelihood = likelihoods.Gaussian((3,), sigma=float((v * (1 - a2) / (a2 * v + 1 - a2)).sqrt())).double()
    pair.model.decoder = Linear(pair, v, matched)
    x = torch.randn(2000, 3) * math.sqrt(v)
    with torch.no_grad():
        elbo = terms_at(pair, x, 1).mean()
    return float(dist.Normal(0.0, math.sqrt(v)).log_prob(x).sum(-1).mean() - elbo)


def test_it_is_exact_for_gaussian_data() -> None:
    """With the true mean and variance of u given z_t the chain is the true one, whatever T is."""
    for levels in (2, 16):
        assert abs(gap(levels, v=0.4, matched=True)) < 0.05


def test_its_gap_closes_as_the_chain_grows() -> None:
    """With the true mean alone, as in Ho et al., the gap falls as 1 / T."""
    gaps = [gap(levels, v=0.4, matched=False) for levels in (32, 64, 128)]
    assert 0.01 < gaps[2] < 0.65 * gaps[1] < 0.45 * gaps[0]


@torch.no_grad()
def test_a_seen_bit_obeys_bayes_rule() -> None:
    p = likelihoods.Bernoulli((2,))
    mean, value, noise = torch.tensor([0.3, 0.8]), torch.tensor([0.6, 0.1]), torch.tensor(0.7)
    joint = torch.stack([m.log() + dist.Normal(b, noise).log_prob(value) for b, m in ((1.0, mean), (0.0, 1 - mean))])
    exact = joint.softmax(0)[0]
    torch.testing.assert_close(p(p.seen(mean, torch.tensor(0.5), value, noise)).mean, exact)


def test_terms_are_spread_evenly() -> None:
    t = spread(40, 5, "cpu")
    assert torch.equal(t.bincount(minlength=6), torch.tensor([0, 8, 8, 8, 8, 8]))
    many = torch.stack([spread(3, 5, "cpu") for _ in range(4000)])
    assert bool(((many[:, 0].bincount(minlength=6)[1:] / 4000 - 0.2).abs() < 0.03).all())


def test_it_learns() -> None:
    """Three coordinates that are equal: the K-sample bound comes near to log p(x) = -log 2."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    x = (torch.rand(256, 1) > 0.5).float().expand(-1, 3).contiguous()
    pair = pv.build("diffusion", data_shape=(3,), hidden=(32,), levels=10)
    options = {"epochs": 45, "batch_size": 64, "lr": 1e-2, "schedule": "linear", "device": "cpu", "progress": False}
    history = pv.fit(pair, x, capture=False, **options)
    assert history[0]["train_bound"] < -1.8
    log_px = pv.log_likelihood(pair, x[:20], num_samples=200).log_px.mean()
    assert -0.95 < float(log_px) < -0.6  # that of independent bits is -2.08
    assert float((pv.sample(pair, 400, seed=0).std(-1) == 0).float().mean()) > 0.6  # by chance: 0.25


@pytest.mark.parametrize("options", [{"levels": 1}, {"snr": (-3.0, 5.0)}, {"snr": (1.0,)}, {"scale": 0.0}])
def test_what_makes_no_chain_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(pv.UserError):
        chain(**options)


def test_a_pair_without_terms_is_refused() -> None:
    pair = pv.build("vae", data_shape=(3,), hidden=(4,), latent=2)
    with pytest.raises(pv.PairError, match="one_term: the model has no 'term'"):
        pv.objective("one_term")(pair.model, pair.guide)(torch.zeros(2, 3))
