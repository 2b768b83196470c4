"""Estimates refuse a guide that lives elsewhere than the model, before the first number; equal supports are legal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

import ppl_vae as pv
from ppl_vae.supports import is_discrete, refuse_foreign, support_of, unconstraining

ONE, ZERO = torch.ones(3), torch.zeros(3)
X = torch.tensor([[0.3], [0.6]])
HALF = torch.full((3,), 0.5)


def pair(p: Callable[[], Any], q: Callable[[Tensor], Any], likelihood: Any = None) -> pv.Pair:
    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", p())
            mean = z.reshape(*z.shape[: z.dim() - p().event_dim], -1).double().float().sum(-1, keepdim=True)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", q(x))

    return pv.Pair(model, guide)


def relaxed(straight: bool) -> Any:
    family = dist.RelaxedOneHotCategoricalStraightThrough if straight else dist.RelaxedOneHotCategorical
    return family(torch.tensor(0.5), ONE / 3)


class Lifted(dist.RelaxedBernoulliStraightThrough):
    """A relaxed Bernoulli whose draws are exactly 0 or 1."""


FOREIGN: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "relaxed one-hot for one-hot": (lambda: dist.OneHotCategorical(ONE / 3), lambda x: relaxed(False)),
    "straight-through for one-hot": (lambda: dist.OneHotCategorical(ONE / 3), lambda x: relaxed(True)),
    "relaxed Bernoulli for Bernoulli": (
        lambda: dist.Bernoulli(HALF).to_event(1),
        lambda x: dist.RelaxedBernoulli(torch.tensor(0.5), HALF).to_event(1),
    ),
    "straight-through for Bernoulli": (
        lambda: dist.Bernoulli(HALF).to_event(1),
        lambda x: Lifted(torch.tensor(0.5), HALF).to_event(1),
    ),
    "Normal for Bernoulli": (lambda: dist.Bernoulli(HALF).to_event(1), lambda x: dist.Normal(ZERO, ONE).to_event(1)),
    "Bernoulli for Normal": (lambda: dist.Normal(ZERO, ONE).to_event(1), lambda x: dist.Bernoulli(HALF).to_event(1)),
    "Poisson for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), lambda x: dist.Poisson(ONE).to_event(1)),
    "Normal for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), lambda x: dist.Normal(ZERO, ONE).to_event(1)),
    "Normal far from zero for Gamma": (
        lambda: dist.Gamma(ONE, ONE).to_event(1),
        lambda x: dist.Normal(100 * ONE, ONE).to_event(1),
    ),
    "Gamma for Beta": (lambda: dist.Beta(ONE, ONE).to_event(1), lambda x: dist.Gamma(ONE, ONE).to_event(1)),
    "Dirichlet for Normal": (lambda: dist.Normal(ZERO, ONE).to_event(1), lambda x: dist.Dirichlet(ONE)),
    "Dirichlet for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), lambda x: dist.Dirichlet(ONE)),
    "Beta for Dirichlet": (lambda: dist.Dirichlet(ONE), lambda x: dist.Beta(ONE, ONE).to_event(1)),
    "sphere for Normal": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        lambda x: dist.ProjectedNormal(ONE.expand(len(x), 3)),
    ),
}


def weighings(p: pv.Pair) -> dict[str, Callable[[], Any]]:
    """Every entry that weighs, or bounds by, what the guide draws."""
    return {
        "terms of an estimate": lambda: pv.log_likelihood(p, X, num_samples=4),
        "log_weights": lambda: pv.log_weights(p, X, num_samples=4),
        "bound_curve": lambda: pv.bound_curve(p, X, num_samples=4),
        "panel": lambda: pv.panel(p, X, estimators=("iwae", "psis"), num_samples=4),
        "compare": lambda: pv.compare({"a": p, "b": p}, X, num_samples=4),
        "eubo": lambda: pv.eubo(p, num_data=2, num_samples=4),
        "ais": lambda: pv.ais(p, X, num_chains=2, num_temperatures=2, start="guide"),
        "bdmc": lambda: pv.bdmc(p, num_data=2, num_chains=2, num_temperatures=2, start="guide"),
        "posterior": lambda: pv.posterior(p, X, num_samples=4),
        "sir": lambda: pv.posterior(p, X, method="sir", num_samples=4),
        "to_arviz": lambda: pv.to_arviz(p, X, num_samples=4),
        "description_length": lambda: pv.description_length(p, X, num_samples=4),
        "compress": lambda: pv.compress(p, X),
        "defensive": lambda: pv.log_likelihood(p, X, num_samples=4, proposal="defensive"),
        "check_pair": lambda: pv.check_pair(p.model, p.guide, X),
    }


@pytest.mark.parametrize("name", FOREIGN)
def test_every_estimate_refuses_a_foreign_support_as_check_pair_does(name: str) -> None:
    foreign = pair(*FOREIGN[name])
    for entry, call in weighings(foreign).items():
        with pytest.raises(pv.PairError, match="'z'") as caught:
            call()
        assert "\n" not in str(caught.value), entry


@pytest.mark.parametrize("name", ["straight-through for one-hot", "Normal far from zero for Gamma"])
def test_the_refusal_names_both_supports(name: str) -> None:
    foreign = pair(*FOREIGN[name])
    with pytest.raises(pv.PairError, match=r"the guide's .* has support .*, beyond the model's .* on .*; use"):
        pv.log_likelihood(foreign, X, num_samples=4)


def exp_normal(x: Tensor) -> Any:
    return dist.TransformedDistribution(dist.Normal(ZERO, ONE), dist.transforms.ExpTransform()).to_event(1)


class AboveZero(dist.Gamma):
    """A positive distribution that calls its support otherwise."""

    support = constraints.greater_than(torch.zeros(3))


SAME: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "LogNormal for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), lambda x: dist.LogNormal(ZERO, ONE).to_event(1)),
    "transformed for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), exp_normal),
    "GreaterThan(0) for positive": (
        lambda: dist.Gamma(ONE, ONE).to_event(1),
        lambda x: AboveZero(ONE, ONE).to_event(1),
    ),
    "positive for nonnegative": (
        lambda: dist.HalfNormal(ONE).to_event(1),
        lambda x: dist.LogNormal(ZERO, ONE).to_event(1),
    ),
    "nonnegative for positive": (
        lambda: dist.Gamma(ONE, ONE).to_event(1),
        lambda x: dist.Exponential(ONE).to_event(1),
    ),
    "Uniform(0, 1) for Beta": (
        lambda: dist.Beta(ONE, ONE).to_event(1),
        lambda x: dist.Uniform(ZERO, ONE).to_event(1),
    ),
    "Kumaraswamy for Beta": (
        lambda: dist.Beta(ONE, ONE).to_event(1),
        lambda x: dist.Kumaraswamy(ONE, ONE).to_event(1),
    ),
    "real_vector for real": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        lambda x: dist.MultivariateNormal(ZERO, torch.eye(3)),
    ),
    "a wrapper for real": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        lambda x: dist.Normal(ZERO, ONE).mask(True).to_event(1),
    ),
    "simplex for simplex": (
        lambda: dist.Dirichlet(ONE),
        lambda x: dist.TransformedDistribution(
            dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.transforms.StickBreakingTransform()
        ),
    ),
    "both relaxed": (
        lambda: dist.RelaxedOneHotCategorical(torch.tensor(0.5), ONE / 3),
        lambda x: dist.RelaxedOneHotCategorical(torch.tensor(0.7), ONE / 3),
    ),
    "lower_cholesky for lower_cholesky": (
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3, 3), 1.0).to_event(2), dist.transforms.LowerCholeskyTransform()
        ),
        lambda x: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3, 3), 1.0).to_event(2), dist.transforms.SoftplusLowerCholeskyTransform()
        ),
    ),
    "LKJCholesky": (lambda: dist.LKJCholesky(3, 1.0), lambda x: dist.LKJCholesky(3, 2.0)),
    "ordered": (
        lambda: dist.TransformedDistribution(dist.Normal(ZERO, ONE).to_event(1), dist.transforms.OrderedTransform()),
        lambda x: dist.TransformedDistribution(dist.Normal(ZERO, 2.0).to_event(1), dist.transforms.OrderedTransform()),
    ),
    "one-hot for one-hot": (lambda: dist.OneHotCategorical(ONE / 3), lambda x: dist.OneHotCategorical(ONE / 3)),
    "Binomial(1) for Bernoulli": (lambda: dist.Bernoulli(0.5), lambda x: dist.Binomial(1, torch.tensor(0.5))),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_supports_under_other_names_are_legal(name: str) -> None:
    same = pair(*SAME[name])
    x = torch.tensor([[0.3], [0.6], [0.9]])
    if "cholesky" not in name.lower():  # those transforms have no determinant to score by
        pv.check_pair(same.model, same.guide, x)
        assert pv.log_likelihood(same, x, num_samples=8).log_px.isfinite().all()
    p, q = SAME[name][0](), SAME[name][1](x)
    refuse_foreign("z", q, p, cover=True)


NARROW: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "HalfNormal for Normal": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        lambda x: dist.HalfNormal(ONE).to_event(1),
    ),
    "Uniform for Normal": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        lambda x: dist.Uniform(-ONE, ONE).to_event(1),
    ),
    "Beta for Gamma": (lambda: dist.Gamma(ONE, ONE).to_event(1), lambda x: dist.Beta(2 * ONE, 3 * ONE).to_event(1)),
    "two of three categories": (
        lambda: dist.Categorical(ONE / 3),
        lambda x: dist.Categorical(torch.ones(2) / 2),
    ),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_guide_that_leaves_out_a_part_of_the_prior_is_for_training_and_for_mixtures(name: str) -> None:
    narrow = pair(*NARROW[name])
    pv.check_pair(narrow.model, narrow.guide, X)
    for entry in ("terms of an estimate", "log_weights", "panel", "posterior", "to_arviz", "eubo"):
        with pytest.raises(pv.PairError, match=r"'z'.*leaves out a part of the model's .*proposal='defensive'"):
            weighings(narrow)[entry]()
    for proposal in ("defensive", "prior"):
        assert pv.log_likelihood(narrow, X, num_samples=20, proposal=proposal).log_px.isfinite().all()
    if "categories" not in name:
        with pytest.raises(pv.PairError, match="leaves out a part"):
            pv.ais(narrow, X, num_chains=2, num_temperatures=2, start="guide")
        assert pv.ais(narrow, X, num_chains=2, num_temperatures=2, start="prior").log_px.isfinite().all()


def test_the_defensive_mixture_covers_a_narrow_guide() -> None:
    narrow = pair(
        lambda: dist.Normal(torch.zeros(1), 1.0).to_event(1), lambda x: dist.HalfNormal(torch.ones(1)).to_event(1)
    )
    truth = dist.Normal(0.0, 2**0.5).log_prob(X).sum(-1)
    est = pv.log_likelihood(narrow, X, num_samples=20_000, proposal="defensive")
    assert ((est.log_px - truth).abs() < 5 * est.std_error).all()


def test_a_bounded_guide_that_the_prior_never_leaves_is_legal() -> None:
    wide = pair(
        lambda: dist.Normal(torch.zeros(1), 1.0).to_event(1),
        lambda x: dist.Uniform(-9 * torch.ones(1), 9.0).to_event(1),
    )
    truth = dist.Normal(0.0, 2**0.5).log_prob(X).sum(-1)
    est = pv.log_likelihood(wide, X, num_samples=20_000)
    assert ((est.log_px - truth).abs() < 5 * est.std_error).all()


def test_what_a_distribution_does_not_say_is_not_guessed() -> None:
    class Silent(dist.TorchDistribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    silent = Silent(torch.Size(), torch.Size((2,)))
    assert support_of(silent) is None
    assert not is_discrete(silent)
    assert unconstraining("z", silent)(torch.ones(2)).tolist() == [1.0, 1.0]
    with pytest.raises(pv.PairError, match=r"'z'.*has no map from unconstrained numbers"):
        unconstraining("z", dist.ProjectedNormal(ONE))


def test_a_shifted_interval_is_known_where_the_transform_calls_itself_real() -> None:
    shift = dist.transforms.AffineTransform(1.0, -2.0)
    bounded = dist.TransformedDistribution(dist.Uniform(ZERO, ONE), [shift]).to_event(1)
    assert support_of(bounded).base_constraint.lower_bound.tolist() == [-1.0, -1.0, -1.0]
    half = dist.TransformedDistribution(dist.HalfNormal(ONE), [shift])
    assert float(support_of(half).upper_bound) == 1.0
    narrow = pair(lambda: dist.Normal(ZERO, ONE).to_event(1), lambda x: bounded)
    with pytest.raises(pv.PairError, match=r"leaves out a part of the model's Normal"):
        pv.log_likelihood(narrow, X, num_samples=4)


@pytest.mark.parametrize("swap", [False, True])
def test_an_angle_is_no_real_number(swap: bool) -> None:
    both = [lambda *_: dist.Normal(ZERO, 2.0).to_event(1), lambda *_: dist.VonMises(ZERO, ONE).to_event(1)]
    one, two = both[::-1] if swap else both
    with pytest.raises(pv.PairError, match=r"'z'.*(beyond|leaves out a part of) the model's"):
        pv.log_likelihood(pair(one, two), X, num_samples=4)


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_no_chain_starts_outside_the_support(method: str) -> None:
    outside = pair(*FOREIGN["Normal for Gamma"])
    with pytest.raises(pv.PairError, match=r"'z': the guide draws values outside the support of the model's Gamma"):
        pv.posterior(outside, X, method=method, num_samples=40, num_chains=10, warmup=2)
