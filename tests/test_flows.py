"""Flows as guide and as prior: zuko's through Pyro, Pyro's own, and those that can't score what they did not draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from captured import assert_captured_weights_agree
from pyro.distributions import transforms as T
from torch import Tensor, nn

import ppl_vae as pv

zuko = pytest.importorskip("zuko")
from pyro.contrib.zuko import ZukoToPyro  # noqa: E402

pyro.enable_validation(True)  # which importing zuko turns off

X = torch.tensor([[0.5, -1.0], [1.5, 0.2], [-0.3, 0.1]])
TRUTH = dist.Normal(torch.zeros(2), math.sqrt(2.0)).to_event(1).log_prob(X)


class Model(nn.Module):
    """z ~ N(0, I2), x | z ~ N(z, I2): p(x) = N(0, 2 I2), p(z | x) = N(x / 2, I / 2)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Zuko(nn.Module):
    """A zuko flow of x."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", ZukoToPyro(self.flow(x)))


class Own(nn.Module):
    """A diagonal Gaussian of x, and transforms of Pyro on top."""

    def __init__(self, *transforms: Any) -> None:
        super().__init__()
        self.transforms = transforms
        self.learned = nn.ModuleList(t for t in transforms if isinstance(t, nn.Module))
        self.scale = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(x / 2, self.scale).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, list(self.transforms)))


def near_identity(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        p.data.mul_(0.1)
    return module


def zuko_flow(kind: str) -> nn.Module:
    options: dict[str, Any] = {"hidden_features": (8,), "transforms": 1}
    return getattr(zuko.flows, kind)(2, 2, **options)


INVERTIBLE: dict[str, Callable[[], nn.Module]] = {
    "NSF": lambda: Zuko(zuko_flow("NSF")),
    "MAF": lambda: Zuko(zuko_flow("MAF")),
    "NICE": lambda: Zuko(zuko_flow("NICE")),
    "IAF": lambda: Own(near_identity(T.affine_autoregressive(2, hidden_dims=[4]))),
    "spline": lambda: Own(near_identity(T.spline(2))),
    "affine coupling": lambda: Own(near_identity(T.affine_coupling(2, hidden_dims=[4]))),
    "two of a kind": lambda: Own(
        near_identity(T.affine_autoregressive(2, hidden_dims=[4])),
        T.permute(2, torch.tensor([1, 0])),
        near_identity(T.affine_autoregressive(2, hidden_dims=[4])),
    ),
}
ONE_WAY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Planar": (lambda: Own(near_identity(T.planar(2))), "Planar"),
    "Radial": (lambda: Own(near_identity(T.radial(2))), "Radial"),
    "Sylvester": (lambda: Own(near_identity(T.sylvester(2))), "Sylvester"),
    "planar under affine": (
        lambda: Own(near_identity(T.planar(2)), near_identity(T.affine_autoregressive(2, hidden_dims=[4]))),
        "Planar",
    ),
    "polynomial": (lambda: Own(near_identity(T.polynomial(2, hidden_dims=[4]))), "Polynomial"),
    "block autoregressive": (lambda: Own(T.block_autoregressive(2, residual="normal")), "BlockAutoregressive"),
    "neural autoregressive": (lambda: Own(T.neural_autoregressive(2, hidden_dims=[4])), "NeuralAutoregressive"),
}


def made(make: Callable[[], nn.Module]) -> pv.Pair:
    torch.manual_seed(0)
    return pv.Pair(Model(), make())


@pytest.mark.parametrize("name", INVERTIBLE)
def test_every_estimate_with_an_invertible_flow_finds_the_evidence(name: str) -> None:
    pair = made(INVERTIBLE[name])
    for objective in (pv.Elbo(), pv.IWAE(2), pv.IWAE(2, gradient="dreg"), pv.Elbo(gradient="stl")):
        pv.check_pair(pair.model, pair.guide, X, objective=objective)
    for proposal in ("guide", "prior", "defensive", "tempered", "qmc"):
        est = pv.log_likelihood(pair, X, num_samples=2048, proposal=proposal)
        assert ((est.log_px - TRUTH).abs() < 6 * est.std_error + 0.02).all(), proposal
    for start in ("guide", "prior"):
        est = pv.ais(pair, X, num_chains=32, num_temperatures=6, start=start)
        assert ((est.log_px - TRUTH).abs() < 6 * est.std_error + 0.05).all(), start


@pytest.mark.parametrize("name", ["NSF", "IAF"])
def test_posterior_bounds_and_codes_with_a_flow(name: str) -> None:
    pair = made(INVERTIBLE[name])
    for method in ("sir", "hmc"):
        z = pv.posterior(pair, X, method=method, num_samples=200, num_chains=20, warmup=20)["z"]
        assert (z.mean(0) - X / 2).abs().max() < 0.25, method
    assert pv.posterior(pair, X, num_samples=10)["z"].shape == (10, 3, 2)
    assert pv.eubo(pair, num_data=20, num_samples=50).gap > -0.1
    assert abs(pv.bdmc(pair, num_data=5, num_chains=8, num_temperatures=10, start="guide").gap) < 2
    assert pv.description_length(pair, X, num_samples=5).total.isfinite().all()
    assert pv.reconstruct(pair, X).shape == X.shape
    with pytest.raises(pv.PairError, match=r"'z'.*can't be coded|is a density"):
        pv.compress(pair, X)


@pytest.mark.parametrize("name", ["NSF", "MAF"])
@pytest.mark.parametrize("objective", [pv.Elbo(), pv.IWAE(3), pv.IWAE(3, gradient="dreg"), pv.Elbo(gradient="stl")])
def test_flows_train_and_come_back_from_a_folder(name: str, objective: Any, tmp_path: Path) -> None:
    pair = made(INVERTIBLE[name])
    x = X.repeat(20, 1)
    before = pv.log_likelihood(pair, X, num_samples=100).elbo.mean()
    pv.fit(pair, x, objective=objective, epochs=4, batch_size=20, lr=1e-2, device="cpu", progress=False, capture=False)
    after = pv.log_likelihood(pair, X, num_samples=100)
    assert after.elbo.mean() > before
    pv.save(tmp_path / "run", pair)
    again = pv.load(tmp_path / "run", pair=made(INVERTIBLE[name]))
    assert torch.equal(pv.log_likelihood(again, X, num_samples=100).log_px, after.log_px)


def test_the_two_gradients_of_a_flow_agree_in_the_mean() -> None:
    """The score term has mean zero: stopping it changes no expectation."""
    pair = made(INVERTIBLE["MAF"])
    x = X[:1].expand(4000, 2)
    found = []
    for gradient in ("path", "stl"):
        pair.zero_grad()
        pv.Elbo(gradient=gradient)(pair.model, pair.guide)(x).backward()
        found.append(torch.cat([p.grad.flatten() for p in pair.parameters() if p.grad is not None]) / 4000)
    assert (found[0] - found[1]).norm() < 0.15 * max(1.0, float(found[1].norm()))


def test_dreg_of_a_flow_is_the_gradient_of_the_bound_in_the_mean() -> None:
    pair = made(INVERTIBLE["MAF"])
    x = X[:1].expand(4000, 2)
    found = []
    for gradient in ("path", "dreg"):
        pair.zero_grad()
        pv.IWAE(3, gradient=gradient)(pair.model, pair.guide)(x).backward()
        found.append(torch.cat([p.grad.flatten() for p in pair.parameters() if p.grad is not None]) / 4000)
    assert (found[0] - found[1]).norm() < 0.15 * max(1.0, float(found[1].norm()))


@pytest.mark.parametrize("name", ["NSF", "MAF"])
def test_a_zuko_flow_is_captured_to_the_same_numbers(name: str) -> None:
    assert_captured_weights_agree(made(INVERTIBLE[name]), X)


class FlowPrior(nn.Module):
    """p(z) is a flow; the likelihood is that of the linear model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.flow = zuko.flows.MAF(2, 0, hidden_features=(8,), transforms=1)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", ZukoToPyro(self.flow()))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_a_flow_as_the_prior_agrees_over_estimators() -> None:
    pair = pv.Pair(FlowPrior(), Own())
    pv.check_pair(pair.model, pair.guide, X)
    grid = torch.cartesian_prod(*[torch.linspace(-7, 7, 281)] * 2)
    with torch.no_grad():
        log_p = pair.model.flow().log_prob(grid)[:, None] + dist.Normal(X, 1.0).to_event(1).log_prob(grid[:, None])
    truth = torch.logsumexp(log_p, 0) + 2 * math.log(14 / 280)
    for proposal in ("guide", "prior", "defensive", "qmc"):
        est = pv.log_likelihood(pair, X, num_samples=4096, proposal=proposal)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.02).all(), proposal
    for start in ("guide", "prior"):
        est = pv.ais(pair, X, num_chains=64, num_temperatures=10, start=start)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.05).all(), start
    assert abs(pv.bdmc(pair, num_data=5, num_chains=8, num_temperatures=10).gap) < 2
    assert pv.posterior(pair, X, method="hmc", num_samples=8, num_chains=2, warmup=5)["z"].isfinite().all()
    pv.fit(pair, X.repeat(4, 1), epochs=1, batch_size=6, device="cpu", progress=False, capture=False)


@pytest.mark.parametrize("name", ONE_WAY)
def test_a_flow_without_an_inverse_trains_and_says_what_it_can_not_do(name: str) -> None:
    make, transform = ONE_WAY[name]
    pair = made(make)
    pv.check_pair(pair.model, pair.guide, X)
    pv.check_pair(pair.model, pair.guide, X, objective=pv.IWAE(2))
    pv.fit(pair, X.repeat(4, 1), epochs=1, batch_size=6, device="cpu", progress=False, capture=False)
    est = pv.log_likelihood(pair, X, num_samples=2000)
    assert ((est.log_px - TRUTH).abs() < 6 * est.std_error + 0.05).all()
    assert pv.ais(pair, X, num_chains=2, num_temperatures=2).log_px.isfinite().all()
    message = rf"'z': {transform} has no inverse, so it can't score a value that it did not draw"
    calls: list[Callable[[], Any]] = [
        lambda: pv.check_pair(pair.model, pair.guide, X, objective=pv.IWAE(2, gradient="dreg")),
        lambda: pv.check_pair(pair.model, pair.guide, X, objective=pv.Elbo(gradient="stl")),
        lambda: pv.fit(
            pair, X, objective=pv.IWAE(2, gradient="dreg"), epochs=1, device="cpu", progress=False, capture=False
        ),
        lambda: pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), loss=pv.Elbo(gradient="stl")).step(
            X
        ),
        lambda: pv.log_likelihood(pair, X, num_samples=20, proposal="defensive"),
        lambda: pv.ais(pair, X, num_chains=2, num_temperatures=2, start="guide"),
        lambda: pv.bdmc(pair, num_data=2, num_chains=2, num_temperatures=2, start="guide"),
        lambda: pv.eubo(pair, num_data=2, num_samples=5),
        lambda: pv.panel(pair, X, estimators=("defensive",), num_samples=20),
    ]
    for call in calls:
        with pytest.raises(pv.PairError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["NSF", "Planar"])
def test_the_mean_of_a_flow_is_that_of_its_draws_with_their_error(name: str) -> None:
    pair = made(INVERTIBLE[name] if name in INVERTIBLE else ONE_WAY[name][0])
    one, two = (pv.encode(pair, X, seed=s) for s in (0, 1))
    error = (one.std_error["z"].square() + two.std_error["z"].square()).sqrt()
    assert (error > 0).all()
    assert ((one.mean["z"] - two.mean["z"]).abs() < 5 * error).all()
    assert (error < 0.2).all()
    fine = pv.encode(pair, X, num_samples=16_000, seed=2)
    assert (fine.std_error["z"] / one.std_error["z"]).mean() == pytest.approx(0.25, rel=0.1)


def test_a_mean_in_closed_form_has_no_error() -> None:
    pair = pv.build("hierarchical", data_shape=(6,), latent=(3, 2), hidden=(4,), hidden2=(4,))
    code = pv.encode(pair, torch.zeros(2, 6), seed=0)
    assert all(not e.any() for e in code.std_error.values())
    assert set(code.std_error) == set(code.mean)
    with pytest.raises(pv.UserError, match="num_samples=0"):
        pv.encode(pair, torch.zeros(2, 6), num_samples=0)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "ELU"])
def test_a_flow_whose_range_has_an_end_is_refused_where_the_number_would_be_too_low(activation: str) -> None:
    """E_q[w] = p(x, z in the range): the sum of two units is below log p(x), whatever the number of samples."""
    torch.manual_seed(0)
    flow = T.block_autoregressive(2, activation=activation)
    pair = pv.Pair(Model(), Own(flow)).eval()
    t = pv.terms(pair.model, pair.guide, X, num_samples=20000)
    short = torch.logsumexp(t.log_w.detach(), 0) - math.log(20000)
    assert bool((short < TRUTH - 0.1).any())  # what it would be
    with pytest.raises(pv.PairError, match=r"site 'z': the guide's BlockAutoregressive sums .* residual='normal'"):
        pv.log_likelihood(pair, X)
    with torch.no_grad():
        assert bool(pv.Elbo()(pair.model, pair.guide)(X).isfinite())  # a bound still


@pytest.mark.parametrize("options", [{"residual": "normal"}, {"residual": "gated"}, {"activation": "LeakyReLU"}])
def test_a_flow_onto_all_numbers_is_not_refused(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    pair = pv.Pair(Model(), Own(T.block_autoregressive(2, **options))).eval()
    assert bool(pv.log_likelihood(pair, X, num_samples=20).log_px.isfinite().all())


class Listed(ZukoToPyro):
    """As the line says."""

    def expand(self, shape: Any, _: Any = None) -> Any:
        return type(self)(self.dist.expand(torch.Size(shape)))


class MixturePrior(nn.Module):
    """z ~ a mixture, x | z ~ N(z, I2)."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap, self.flow = wrap, zuko.flows.GMM(2, components=1)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.wrap(self.flow()))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_a_mixture_of_zuko_is_one_line_and_its_mend_gives_the_evidence() -> None:
    torch.manual_seed(0)
    for wrap in (ZukoToPyro, Listed):
        pair = pv.Pair(MixturePrior(wrap), Own())
        if wrap is ZukoToPyro:
            with pytest.raises(pv.PairError, match=r"the model fails.*zuko's mixtures.*expand\(self, shape"):
                pv.check_pair(pair.model, pair.guide, X)
            continue
        pv.check_pair(pair.model, pair.guide, X)
        prior = pair.model.flow().base  # one component: a Gaussian
        mean, cov = prior.mean.squeeze(-2), prior.covariance_matrix.squeeze(-3)
        truth = dist.MultivariateNormal(mean, cov + torch.eye(2)).log_prob(X)
        found = pv.log_likelihood(pair, X, num_samples=20000)
        assert bool(((found.log_px - truth).abs() < 6 * found.std_error + 1e-3).all())
