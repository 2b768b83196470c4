"""Every objective against the exact gradient of what it claims: by quadrature, or by the sum over all draws."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.objectives.gradients import EXACT, Bits, Line, X, draws, gradient, gradients, half, log_mean_exp, mean

F64 = torch.float64


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_gradient_is_the_exact_one(name: str) -> None:
    """Quadrature over the draws, or the sum over them: nothing of the objectives is in it."""
    for row in gradients([name]):
        assert row.z < 4.5, row
        assert row.snr * 245 > 5 or row.exact < 0.05, row  # sqrt(60,000): a wrong gradient would be seen


VALUES: dict[str, tuple[Any, int]] = {
    "iwae:num_particles=2": (log_mean_exp, 2),
    "renyi:num_particles=2": (half, 2),
    "miwae:num_particles=2,groups=2": (log_mean_exp, 2),
    "piwae:num_particles=2,groups=2": (log_mean_exp, 4),
    "ciwae:num_particles=2,share=0.3": (lambda w: 0.3 * mean(w) + 0.7 * log_mean_exp(w), 2),
    "score:num_particles=2": (mean, 1),
    "vimco:num_particles=2": (log_mean_exp, 2),
    "rws:num_particles=2": (log_mean_exp, 2),
    "tvo:num_particles=2,partitions=1": (mean, 1),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_value_is_the_exact_bound(name: str) -> None:
    problem = EXACT[name][0]()
    exact = problem.expected(*VALUES[name]).detach()
    pyro.set_rng_seed(0)
    with torch.no_grad():
        found = pv.objective(name).bounds(problem.model, problem.guide, torch.full((40_000,), X, dtype=F64))
    assert abs(float(found.mean() - exact)) < 4.5 * float(found.std()) / 200


@pytest.mark.parametrize("problem", [Line(), Bits()], ids=["line", "bits"])
def test_score_and_vimco_are_unbiased_for_any_latent(problem: Any) -> None:
    for name, function, count in (("score:num_particles=2", mean, 1), ("vimco:num_particles=2", log_mean_exp, 2)):
        exact = gradient(problem, problem.expected(function, count))
        for parameter, rows in draws(problem, pv.objective(name), 60_000).items():
            z = (rows.mean(0) - exact[parameter]).abs() / (rows.std(0) / math.sqrt(len(rows)))
            assert float(z.max()) < 4.5, (name, parameter)


def thermodynamic(target: Any, temperatures: Tensor) -> Tensor:
    """The left Riemann sum with exact expectations."""
    _, joint, log_q = target.states()
    parts = []
    for b, width in zip(temperatures[:-1], temperatures.diff(), strict=True):
        pi = torch.softmax(b * joint + (1 - b) * log_q, 0)
        parts.append(width * (pi * (joint - log_q)).sum())
    return torch.stack(parts).sum()


def test_self_normalised_gradients_reach_their_limit_as_k_grows() -> None:
    """TVO its exact Riemann sum, CUBO the chi-square bound, wake-phi KL(p || q): with an error that falls as 1/K."""
    line, bits = Line(), Bits()
    line.c.data.fill_(0.7)  # the squares of weights are heavy where the guide is far off
    chi = gradient(line, -line.expected(lambda w: (2 * w).exp().mean(0), 1, 80).log() / 2)
    posterior = torch.softmax(bits.states()[1], 0).detach()
    inclusive = gradient(bits, (posterior * bits.states()[2]).sum())
    tvo = gradient(bits, thermodynamic(bits, torch.tensor([0.0, 0.1, 10**-0.5, 1.0], dtype=F64)))
    for target, make, exact, names in (
        (line, lambda k: pv.CUBO(k), chi, "cs"),
        (bits, lambda k: pv.RWS(k), inclusive, "b"),
        (bits, lambda k: pv.TVO(k, partitions=3), tvo, "mab"),
    ):
        off = []
        for k in (4, 256):
            rows = draws(target, make(k), copies=800_000 // k)
            gap = {n: (rows[n].mean(0) - exact[n]).abs() - 4 * rows[n].std(0) / math.sqrt(len(rows[n])) for n in names}
            off.append(max(float(g.max()) for g in gap.values()))
        assert off[1] < 0.02, (type(make(2)), off)
        assert off[0] > 0.0, (type(make(2)), off)  # at four particles the bias is seen


def test_objectives_meet_where_their_options_say() -> None:
    """The same draws, the same value and the same gradient."""
    pair = CASES["hierarchical"].build().double()
    x = CASES["hierarchical"].draw(5)[0].double()

    def of(objective: Any) -> list[Tensor]:
        pyro.set_rng_seed(1)
        loss = objective(pair.model, pair.guide)(x)
        return [loss.detach(), *torch.autograd.grad(loss, list(pair.parameters()))]

    def agree(one: Any, *others: Any) -> None:
        for other in others:
            for a, b in zip(of(one), of(other), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    agree(pv.IWAE(6), pv.Renyi(6, alpha=0.0), pv.MIWAE(6, groups=1), pv.CIWAE(6, share=0.0))
    dreg: dict[str, Any] = {"gradient": "dreg"}
    agree(
        pv.IWAE(6, **dreg), pv.Renyi(6, alpha=0.0, **dreg), pv.MIWAE(6, 1, **dreg), pv.CIWAE(6, share=0.0, **dreg),
        pv.PIWAE(6, groups=1),
    )  # fmt: skip
    agree(pv.IWAE(6, beta=0.3, **dreg), pv.Renyi(6, alpha=0.0, beta=0.3, **dreg), pv.PIWAE(6, groups=1, beta=0.3))
    agree(pv.Elbo(6), pv.Renyi(6, alpha=1.0), pv.MIWAE(1, groups=6), pv.CIWAE(6, share=1.0))
    agree(pv.Elbo(6, gradient="stl"), pv.Renyi(6, alpha=1.0, **dreg), pv.CIWAE(6, share=1.0, **dreg))


def test_weights_that_underflow_leave_gradients_finite() -> None:
    """A group far from the others has weights of zero among all particles, and one of its own."""
    pair = pv.build("linear", data_shape=(40,), latent=2)
    with torch.no_grad():
        pair.model.W.mul_(30)
    for objective in (pv.PIWAE(2, groups=8), pv.CUBO(16), pv.VIMCO(16), pv.RWS(16), pv.TVO(16), pv.Score(16)):
        pair.zero_grad()
        objective(pair.model, pair.guide)(torch.randn(5, 40)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters()), objective


FAMILY = ["renyi", "miwae:groups=2", "piwae:groups=2", "ciwae", "cubo", "score", "vimco", "rws", "tvo"]


@pytest.mark.parametrize("guide", ["diagonal", "full", "flow", "mixture:components=2"])
def test_every_objective_trains_every_guide(guide: str) -> None:
    """Finite gradients for every parameter, and a loss that falls."""
    torch.manual_seed(0)
    x = (torch.rand(32, 8) > 0.5).float()
    for name in FAMILY:
        pair = pv.build("vae", data_shape=(8,), latent=2, hidden=(8,), guide=guide)
        objective = pv.objective(name, num_particles=4)
        history = pv.fit(
            pair, x, objective, epochs=12, batch_size=32, lr=3e-2, device="cpu", progress=False, capture=False
        )
        assert history[-1]["train_bound"] > history[0]["train_bound"], name
        pair.zero_grad()
        objective(pair.model, pair.guide)(x).backward()
        for parameter in pair.parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_names_options_and_mistakes() -> None:
    found = pv.objective("renyi:alpha=0.3,gradient=dreg", num_particles=7)
    assert (found.alpha, found.gradient, found.num_particles) == (0.3, "dreg", 7)
    assert pv.objective("miwae", num_particles=3, groups=4).draws == 12
    for text, message in {
        "renyi:alpha=1.5": "alpha=1.5: a number from 0 .iwae. to 1",
        "renyi:gamma=1": "takes no option gamma; it takes num_particles, alpha",
        "vimco:num_particles=1": "num_particles=2 or more is needed",
        "vimco:baseline=best": "baseline='best': choose one of 'geometric'",
        "score:num_particles=1": "with one, use baseline='batch'",
        "tvo:partitions=0": "partitions=0: a whole number is needed",
        "miwae:groups=half": "groups='half': a whole number is needed",
        "ciwae:share=2": "share=2: the share of the ELBO is a number from 0 to 1",
        "rws:phi=dream": "phi='dream': choose one of 'wake', 'sleep', 'both'",
    }.items():
        with pytest.raises(pv.UserError, match=message) as caught:
            pv.objective(text)
        assert "\n" not in str(caught.value)


def test_draws_without_a_gradient_are_refused_by_name() -> None:
    bits = Bits()
    for name in ("renyi", "miwae", "ciwae"):
        with pytest.raises(pv.PairError, match=f"'z'.*{name}.* differentiates through the draws"):
            pv.objective(name)(bits.model, bits.guide)(torch.zeros(3, dtype=F64))


class Labelled(nn.Module):
    """z ~ N(0, 1), y ~ N(z, 0.5), x ~ N(z, 1): the labels are below the latent."""

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.4 * x, 0.5))


def test_the_sleep_phase_refuses_labels_below_a_latent() -> None:
    pair, x, y = Labelled(), torch.randn(5), torch.randn(5)
    assert pv.RWS(4)(pair.model, pair.guide)(x, y).isfinite()
    with pytest.raises(pv.PairError, match=r"rws, phi='sleep': site 'y' observes the labels and depends on 'z'"):
        pv.RWS(4, phi="sleep")(pair.model, pair.guide)(x, y)


def test_the_scale_of_a_plate_is_on_both_phases_and_what_is_missing_stays_so() -> None:
    seen: list[Tensor] = []
    bits = Bits()

    def guide(x: Tensor) -> None:
        seen.append(x)
        bits.guide(x)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=bits.a).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0] + bits.m, 1.0).mask(~x.isnan()), obs=x)

    x = torch.tensor([1.0, math.nan, 2.0], dtype=F64)
    gradients_at = []
    for scale in (1.0, 10.0):
        pyro.set_rng_seed(0)
        both = [pyro.poutine.scale(program, scale=scale) for program in (model, guide)]
        loss = pv.RWS(4, phi="both")(*both)(x)
        gradients_at.append(torch.autograd.grad(loss, bits.b)[0])
        assert seen[-1].isnan().tolist() == [False, True, False]
        assert not torch.equal(seen[-1][0], x[0])  # drawn
    assert torch.allclose(10 * gradients_at[0], gradients_at[1])


def test_a_warm_up_does_not_turn_cubo_round() -> None:
    """At every beta the guide moves towards the posterior, whose mean is above its own."""
    line = Line()
    for beta in (0.1, 0.5, 1.0):
        rows = draws(line, pv.CUBO(64, beta=beta), 4000)
        assert float(rows["c"].mean()) > 0, beta


@pytest.mark.parametrize("objective", [pv.IWAE(3, gradient="dreg"), pv.PIWAE(2, 2), pv.CUBO(3), pv.VIMCO(3), pv.RWS(3)])
def test_a_particle_of_weight_zero_gives_no_nan(objective: Any) -> None:
    """Uniform data: some draws can't have made them."""
    loc = torch.nn.Parameter(torch.tensor(0.3, dtype=F64))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", dist.Uniform(z - 1.2, z + 1.2, validate_args=False), obs=x)

    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = loc

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 0.6))

    pyro.set_rng_seed(0)
    guide, x = Guide(), torch.zeros(200, dtype=F64)
    with torch.no_grad():
        log_w = pv.terms(model, guide, x, num_samples=objective.draws).log_w
    assert (log_w > -math.inf).any(0).all()
    pyro.set_rng_seed(0)
    bounds = objective.bounds(model, guide, x)
    assert (log_w == -math.inf).any(0).sum() > 20
    assert bounds.isfinite().all()
    assert torch.autograd.grad(bounds.sum(), loc)[0].isfinite()
