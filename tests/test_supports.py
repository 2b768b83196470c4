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
from ppl_vae.scoring.coverage import refuse_foreign
from ppl_vae.scoring.support import is_discrete, support_of, unconstraining

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


T = torch.tensor(0.5)
STRAIGHT: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "Bernoulli, guide": (
        lambda: dist.RelaxedBernoulli(T, HALF).to_event(1),
        lambda x: dist.RelaxedBernoulliStraightThrough(T, HALF).to_event(1),
    ),
    "Bernoulli, model": (
        lambda: dist.RelaxedBernoulliStraightThrough(T, HALF).to_event(1),
        lambda x: dist.RelaxedBernoulli(T, HALF).to_event(1),
    ),
    "one-hot, guide": (lambda: relaxed(False), lambda x: relaxed(True)),
    "one-hot, model": (lambda: relaxed(True), lambda x: relaxed(False)),
    "for Beta": (
        lambda: dist.Beta(ONE, ONE).to_event(1),
        lambda x: dist.RelaxedBernoulliStraightThrough(T, HALF).to_event(1),
    ),
    "for Dirichlet": (lambda: dist.Dirichlet(ONE), lambda x: relaxed(True)),
    "masked": (lambda: relaxed(False), lambda x: relaxed(True).mask(True)),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_straight_through_distribution_on_one_side_gives_no_weight(name: str) -> None:
    one = pair(*STRAIGHT[name])
    for entry, call in weighings(one).items():
        with pytest.raises(pv.PairError, match=r"'z'.*StraightThrough") as caught:
            call()
        assert "\n" not in str(caught.value), entry
    with pytest.raises(pv.PairError, match=r"(guide's|model's) Relaxed\w+StraightThrough rounds its draws"):
        pv.log_likelihood(one, X, num_samples=4)


def both_straight() -> pv.Pair:
    return pair(
        lambda: dist.RelaxedBernoulliStraightThrough(T, torch.tensor([0.3])).to_event(1),
        lambda x: dist.RelaxedBernoulliStraightThrough(T, torch.tensor([0.5])).to_event(1),
    )


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_straight_through_on_both_sides_is_the_discrete_model(proposal: str) -> None:
    likelihood = torch.stack([dist.Normal(z, 1.0).log_prob(X[:, 0]) for z in (0.0, 1.0)])
    truth = torch.logsumexp(likelihood + torch.tensor([[0.7], [0.3]]).log(), 0)  # a draw is 1 with probability 0.3
    est = pv.log_likelihood(both_straight(), X, num_samples=20_000, proposal=proposal)
    assert ((est.log_px - truth).abs() < 5 * est.std_error).all()


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_what_joins_or_moves_values_refuses_draws_that_carry_their_density(start: str) -> None:
    one = both_straight()
    small = {"num_chains": 2, "num_temperatures": 2, "start": start}
    calls: dict[str, Callable[[], Any]] = {
        "ais": lambda: pv.ais(one, X, **small),
        "bdmc": lambda: pv.bdmc(one, num_data=2, **small),
        "hmc": lambda: pv.posterior(one, X, method="hmc", num_samples=4, num_chains=2, warmup=2),
        "nuts": lambda: pv.posterior(one, X, method="nuts", num_samples=8, num_chains=2, warmup=2),
        "defensive": lambda: pv.log_likelihood(one, X, num_samples=4, proposal="defensive"),
    }
    for call in calls.values():
        with pytest.raises(pv.PairError, match=r"'z': RelaxedBernoulliStraightThrough rounds its draws .*can't use"):
            call()
    soft_prior = pair(*STRAIGHT["Bernoulli, guide"])
    with pytest.raises(pv.PairError, match="StraightThrough rounds its draws"):
        pv.posterior(soft_prior, X, method="hmc", num_samples=4, num_chains=2, warmup=2)


FIVE = constraints.interval(0.0, 5.0)
TRANSFORMS: dict[str, tuple[Callable[[], Any], list[Any]]] = {
    "biject_to(interval)": (lambda: dist.Uniform(ZERO, 5 * ONE).to_event(1), [torch.distributions.biject_to(FIVE)]),
    "sigmoid, affine": (
        lambda: dist.Uniform(ZERO, 5 * ONE).to_event(1),
        [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(0.0, 5.0)],
    ),
    "composed": (
        lambda: dist.Uniform(ZERO, 5 * ONE).to_event(1),
        [
            dist.transforms.ComposeTransform(
                [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(0.0, 5.0)]
            )
        ],
    ),
    "tanh, affine downwards": (
        lambda: dist.Uniform(-ONE, 3 * ONE).to_event(1),
        [dist.transforms.TanhTransform(), dist.transforms.AffineTransform(1.0, -2.0)],
    ),
    "exp, affine": (
        lambda: dist.HalfNormal(ONE).to_event(1),
        [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(0.0, 2.0)],
    ),
    "affine, exp": (
        lambda: dist.HalfNormal(ONE).to_event(1),
        [dist.transforms.AffineTransform(0.0, 2.0), dist.transforms.ExpTransform()],
    ),
    "affine of affine": (
        lambda: dist.Normal(ZERO, ONE).to_event(1),
        [dist.transforms.AffineTransform(0.0, 2.0), dist.transforms.AffineTransform(1.0, 2.0)],
    ),
}


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_support_of_a_chain_of_transforms_is_the_image_of_its_base(name: str, outer: bool) -> None:
    p, chain = TRANSFORMS[name]
    chain = [dist.transforms.IndependentTransform(t, 1) for t in chain] if outer else chain

    def q(x: Tensor) -> Any:
        base = dist.Normal(ZERO, ONE).expand((len(x), 3))
        return dist.TransformedDistribution(base.to_event(1), chain)

    same = pair(p, q)
    pv.check_pair(same.model, same.guide, X)
    assert pv.log_likelihood(same, X, num_samples=8).log_px.isfinite().all()
    drawn = q(X).sample(torch.Size([50]))
    assert support_of(q(X)).check(drawn).all()


class Cubed(torch.distributions.Transform):
    """A map of the line, here of a part of it, whose image its codomain does not tell."""

    domain = codomain = constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x**3

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs() ** (1 / 3)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (3 * x**2).log()


def test_values_decide_where_the_chain_does_not_say() -> None:
    chain = [Cubed(), dist.transforms.AffineTransform(0.0, 5.0)]
    unit = dist.TransformedDistribution(dist.Uniform(ZERO, ONE), chain).to_event(1)
    assert support_of(unit) is None
    refuse_foreign("z", unit, dist.Uniform(ZERO, 5 * ONE).to_event(1), cover=False)
    with pytest.raises(pv.PairError, match=r"TransformedDistribution\(Uniform\) has support an unknown set, beyond"):
        refuse_foreign("z", unit, dist.Uniform(ZERO, 2 * ONE).to_event(1))


@pytest.mark.parametrize(
    ("p", "q", "line"),
    [
        (
            dist.HalfNormal(ONE),
            dist.Normal(ZERO, ONE),
            r"guide's Normal has support Real\(\), beyond .* HalfNormal on \(0,",
        ),
        (
            dist.Uniform(ZERO, 5.0),
            dist.Pareto(ONE, ONE),
            r"guide's Pareto has support \(1, inf\), .* Uniform on \(0, 5\)",
        ),
        (
            dist.Uniform(ZERO, torch.tensor([1.0, 2.0, 5.0])),
            dist.TransformedDistribution(dist.Normal(ZERO, ONE), [dist.transforms.AffineTransform(0.0, 2.0)]),
            r"guide's TransformedDistribution\(Normal\) has support Real\(\), beyond .* Uniform on \(0, 1\.\.5\)",
        ),
    ],
)
def test_lines_name_what_the_user_wrote_and_bounds_as_ranges(p: Any, q: Any, line: str) -> None:
    with pytest.raises(pv.PairError, match=line) as caught:
        refuse_foreign("z", q.to_event(1), p.to_event(1))
    assert "None" not in str(caught.value)
    assert "tensor" not in str(caught.value)


EMPTY: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "Categorical by probs": (
        lambda: dist.Categorical(ONE / 3),
        lambda x: dist.Categorical(torch.tensor([1.0, 1.0, 0.0])),
    ),
    "Categorical by logits": (
        lambda: dist.Categorical(ONE / 3),
        lambda x: dist.Categorical(logits=torch.tensor([0.0, 0.0, -torch.inf])),
    ),
    "one-hot": (
        lambda: dist.OneHotCategorical(ONE / 3),
        lambda x: dist.OneHotCategorical(torch.tensor([1.0, 1.0, 0.0])),
    ),
    "Bernoulli of 0": (lambda: dist.Bernoulli(0.5), lambda x: dist.Bernoulli(torch.zeros(len(x)))),
    "Bernoulli of 1": (lambda: dist.Bernoulli(0.5), lambda x: dist.Bernoulli(torch.ones(len(x)))),
    "Bernoulli events": (
        lambda: dist.Bernoulli(HALF).to_event(1),
        lambda x: dist.Bernoulli(torch.tensor([0.5, 0.5, 0.0])).to_event(1),
    ),
    "masked Bernoulli": (
        lambda: dist.Bernoulli(HALF).mask(torch.tensor([True, False, True])).to_event(1),
        lambda x: dist.Bernoulli(torch.tensor([0.5, 0.5, 0.0])).mask(torch.tensor([True, False, True])).to_event(1),
    ),
    "Binomial": (lambda: dist.Binomial(2, torch.tensor(0.5)), lambda x: dist.Binomial(2, torch.tensor(0.0))),
    "Poisson": (lambda: dist.Poisson(1.0), lambda x: dist.Poisson(torch.tensor(0.0))),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_guide_that_never_draws_some_values_leaves_out_a_part_of_the_prior(name: str) -> None:
    empty = pair(*EMPTY[name])
    pv.check_pair(empty.model, empty.guide, X)
    for entry in ("terms of an estimate", "log_weights", "panel", "posterior"):
        with pytest.raises(pv.PairError, match=r"'z'.*leaves out a part of the model's .*proposal='defensive'"):
            weighings(empty)[entry]()


def test_the_share_that_is_left_out_is_exact_where_the_values_are_few() -> None:
    with pytest.raises(pv.PairError, match=r"\(0\.75 of the draws of the prior\)"):
        refuse_foreign("z", dist.Bernoulli(torch.tensor([1.0, 0.0, 0.5])).to_event(1), dist.Bernoulli(HALF).to_event(1))


LEGAL: dict[str, tuple[Any, Any]] = {
    "zero where p is zero": (
        dist.Categorical(torch.tensor([0.5, 0.5, 0.0])),
        dist.Categorical(torch.tensor([0.2, 0.8, 0.0])),
    ),
    "zero where p is zero by logits": (
        dist.Categorical(logits=torch.tensor([0.0, 0.0, -torch.inf])),
        dist.Categorical(torch.tensor([0.2, 0.8, 0.0])),
    ),
    "a sure logit": (dist.Bernoulli(0.5), dist.Bernoulli(logits=torch.tensor(30.0))),
    "a sure logit of a class": (dist.Categorical(ONE / 3), dist.Categorical(logits=torch.tensor([0.0, 0.0, -200.0]))),
    "zero where both are masked": (
        dist.Bernoulli(HALF).mask(torch.tensor([True, False, True])).to_event(1),
        dist.Bernoulli(torch.tensor([0.5, 0.0, 0.5])).mask(torch.tensor([True, False, True])).to_event(1),
    ),
    "one-hot": (dist.OneHotCategorical(ONE / 3), dist.OneHotCategorical(logits=ZERO)),
    "Binomials of several counts": (
        dist.Binomial(torch.tensor([2.0, 3.0]), torch.tensor(0.5)).to_event(1),
        dist.Binomial(torch.tensor([2.0, 3.0]), torch.tensor(0.4)).to_event(1),
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_zero_of_the_guide_is_legal_where_the_model_has_one_and_small_is_no_zero(name: str) -> None:
    """Nothing is raised, before and after a draw; what the model draws has a density in the guide, hence a weight."""
    p, q = LEGAL[name]
    refuse_foreign("z", q, p, cover=True)
    for fn in (p, q):
        fn.expand((2,)).sample()  # which fills in probs for logits
    refuse_foreign("z", q, p, cover=True)
    with torch.random.fork_rng(devices=[]):
        drawn = p.expand((200,)).sample()
    assert bool(q.log_prob(drawn).isfinite().all())


BEYOND: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Any]]] = {
    "Categorical(4) for three": (lambda: dist.Categorical(ONE / 3), lambda x: dist.Categorical(torch.ones(4) / 4)),
    "Poisson for Categorical": (lambda: dist.Categorical(ONE / 3), lambda x: dist.Poisson(torch.tensor(1.0))),
    "Categorical(3) for Bernoulli": (lambda: dist.Bernoulli(0.5), lambda x: dist.Categorical(ONE / 3)),
    "Poisson for Bernoulli": (lambda: dist.Bernoulli(0.5), lambda x: dist.Poisson(torch.tensor(1.0))),
    "four classes for three": (
        lambda: dist.OneHotCategorical(ONE / 3),
        lambda x: dist.OneHotCategorical(torch.ones(4) / 4),
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_discrete_guide_beyond_the_model_is_refused_in_one_line(name: str) -> None:
    beyond = pair(*BEYOND[name])
    for entry in ("check_pair", "terms of an estimate", "log_weights", "posterior", "description_length"):
        with pytest.raises(pv.PairError, match="'z'") as caught:
            weighings(beyond)[entry]()
        assert "\n" not in str(caught.value), entry
        if "four classes" not in name:
            assert "beyond the model's" in str(caught.value), entry


def test_a_family_that_cannot_score_whole_numbers_names_both() -> None:
    integer = pair(lambda: dist.Bernoulli(0.5), lambda x: dist.Categorical(torch.ones(2) / 2))
    for entry in ("check_pair", "terms of an estimate", "posterior"):
        with pytest.raises(
            pv.PairError, match=r"'z': the model's Bernoulli can't score .* Categorical \(int64 numbers"
        ):
            weighings(integer)[entry]()
