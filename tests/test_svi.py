"""SVI: no host reads, the interface of Pyro's, NaN that never reaches a parameter, and stores that stay apart."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from stock import TutorialVAE, enumerated_guide, enumerated_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ppl_vae as pv


class HostReads(TorchDispatchMode):
    """Counts what waits for a device: .item(), bool(), float(), nonzero, copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "equal.default", "is_nonzero")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "loss",
    [None, Trace_ELBO(num_particles=3), TraceMeanField_ELBO(), pv.Elbo(4, gradient="stl"), pv.AnalyticKL(), pv.IWAE(4),
     pv.IWAE(4, gradient="dreg")],
    ids=["default", "Trace_ELBO", "TraceMeanField_ELBO", "stl", "AnalyticKL", "IWAE", "dreg"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["vae", "cvae", "linear", "vae-discretized"])
def test_a_step_reads_nothing_from_the_device(name: str, loss: Any) -> None:
    pair = CASES[name].build()
    x, y = CASES[name].draw(8)
    args = (x,) if y is None else (x, y)
    adam = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, loss, clip_norm=5.0)
    svi.step(*args)  # the first step validates, which reads
    with HostReads() as reads:
        for _ in range(3):
            svi.step(*args)
    assert reads.found == []


def test_the_counter_of_host_reads_counts() -> None:
    pair = CASES["vae"].build()
    x, _ = CASES["vae"].draw(8)
    with HostReads() as reads:
        Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    assert len(reads.found) >= 3


def test_a_step_returns_the_loss_and_moves_as_the_optimiser_says() -> None:
    pair = CASES["vae"].build().double()
    x = CASES["vae"].draw(8)[0].double()
    before = [p.detach().clone() for p in pair.parameters()]
    pyro.set_rng_seed(2)
    expected = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    grads = torch.autograd.grad(expected, list(pair.parameters()))
    pyro.set_rng_seed(2)
    svi = pv.SVI(pair.model, pair.guide, torch.optim.SGD(pair.parameters(), lr=0.1, fused=True))
    loss = svi.step(x)
    assert loss.shape == ()
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    for p, b, g in zip(pair.parameters(), before, grads, strict=True):
        torch.testing.assert_close(p, b - 0.1 * g)
        assert p.grad is None


def test_it_follows_stock_svi_step_by_step() -> None:
    """Same seed, same optimiser: the same losses and the same weights as pyro.infer.SVI."""
    ours, theirs = CASES["hierarchical"].build().double(), CASES["hierarchical"].build().double()
    theirs.load_state_dict(ours.state_dict())
    x = CASES["hierarchical"].draw(8)[0].double()
    pyro.set_rng_seed(4)
    svi = pv.SVI(ours.model, ours.guide, torch.optim.Adam(ours.parameters(), lr=1e-2))
    got = [float(svi.step(x)) for _ in range(5)]
    pyro.set_rng_seed(4)
    with pyro.get_param_store().scope():
        stock = pyro.infer.SVI(*theirs.as_pyro(), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        expected = [stock.step(x) for _ in range(5)]
    assert got == pytest.approx(expected, rel=1e-9)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize(
    "loss",
    [TraceGraph_ELBO(), RenyiELBO(num_particles=3), ReweightedWakeSleep(num_particles=3, vectorize_particles=False)],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("pyro_optim", [False, True])
def test_foreign_losses_run_as_they_are(loss: Any, pyro_optim: bool) -> None:
    pair = CASES["vae"].build()
    x, _ = CASES["vae"].draw(32)
    optim: Any = pyro.optim.Adam({"lr": 1e-2}) if pyro_optim else torch.optim.Adam(pair.parameters(), lr=1e-2)
    svi = pv.SVI(pair.model, pair.guide, optim, loss)
    losses = [float(svi.step(x)) for _ in range(60)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    assert svi.evaluate_loss(x) == pytest.approx(losses[-1], rel=0.2)


def test_enumeration_runs() -> None:
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = pv.SVI(enumerated_model, enumerated_guide, functools.partial(torch.optim.Adam, lr=5e-2), loss)
    x = torch.cat([torch.full((50,), -2.0), torch.full((50,), 3.0)]) + 0.1 * torch.randn(100)
    losses = [float(svi.step(x)) for _ in range(200)]
    assert losses[-1] < losses[0] - 50
    assert sorted(pyro.param("locs").tolist()) == pytest.approx([-2.0, 3.0], abs=0.2)
    pyro.clear_param_store()


def test_bare_parameters_live_in_pyros_store_and_module_parameters_in_the_module() -> None:
    vae = TutorialVAE()
    svi = pv.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}))
    before = vae.decoder.fc1.weight.detach().clone()
    svi.step(torch.rand(8, 20).round())
    assert not torch.equal(vae.decoder.fc1.weight, before)
    assert list(pyro.get_param_store().keys()) == []

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc * x, scale))

    x = torch.linspace(-2, 2, 50)
    untrained = pv.log_likelihood(pv.Pair(model, guide), x, num_samples=10)
    assert list(pyro.get_param_store().keys()) == []
    svi = pv.SVI(model, guide, functools.partial(torch.optim.Adam, lr=2e-2, fused=True))
    for _ in range(400):
        svi.step(x)
    assert float(pyro.param("loc").detach()) == pytest.approx(0.5, abs=0.05)
    assert float(pyro.param("scale").detach()) == pytest.approx(0.5**0.5, abs=0.05)
    trained = pv.log_likelihood(pv.Pair(model, guide), x, num_samples=10)
    assert float(trained.elbo.mean()) > float(untrained.elbo.mean()) + 0.1  # the trained values are the ones in use
    pyro.clear_param_store()


def test_a_second_pair_does_not_overwrite_the_first() -> None:
    """Trap 5: module parameters of one name in Pyro's global store."""
    first, second = TutorialVAE(), TutorialVAE()
    x = torch.rand(8, 20).round()
    a = pv.SVI(first.model, first.guide, pyro.optim.Adam({"lr": 1e-2}), TraceGraph_ELBO())
    b = pv.SVI(second.model, second.guide, pyro.optim.Adam({"lr": 1e-2}), TraceGraph_ELBO())
    a.step(x)
    kept = first.decoder.fc1.weight.detach().clone()
    before = second.decoder.fc1.weight.detach().clone()
    b.step(x)
    assert torch.equal(first.decoder.fc1.weight, kept)
    assert not torch.equal(second.decoder.fc1.weight, before)


class Poisoned(nn.Module):
    """A linear Gaussian pair whose scale is NaN in the steps that are named."""

    def __init__(self, bad: set[int], value: float = float("nan")) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.bad, self.calls, self.value = bad, 0, value

    def model(self, x: Tensor) -> None:
        w = self.w * (self.value if self.calls in self.bad else 1.0)
        self.calls += 1
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * w, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_moves_nothing_and_stops_within_fifty(fused: bool, value: float) -> None:
    pair = Poisoned({7}, value)
    adam = torch.optim.Adam(pair.parameters(), lr=0.1, fused=fused)
    svi = pv.SVI(pair.model, pair.guide, adam)
    x = torch.randn(4, 2)
    for _ in range(7):
        svi.step(x)
    kept = pair.w.detach().clone()
    for _ in range(42):
        svi.step(x)
    with pytest.raises(pv.NonFiniteError, match=r"step 7: .*not finite"):
        svi.step(x)
    assert svi.steps == 50
    assert torch.equal(pair.w, kept)  # the steps after the bad one were fine, and were not taken either
    assert svi.first_bad_step() == 7
    assert not bool(torch.isnan(torch.stack([s["exp_avg"] for s in adam.state.values()])).any())


def test_clipping_bounds_the_gradient() -> None:
    pair = CASES["vae"].build().double()
    x = CASES["vae"].draw(64)[0].double()
    before = [p.detach().clone() for p in pair.parameters()]
    svi = pv.SVI(pair.model, pair.guide, torch.optim.SGD(pair.parameters(), lr=1.0, fused=True), clip_norm=0.01)
    svi.step(x)
    move = torch.cat([(p - b).flatten() for p, b in zip(pair.parameters(), before, strict=True)])
    assert float(move.detach().norm()) == pytest.approx(0.01, rel=1e-3)


def test_mistakes_are_named() -> None:
    pair = CASES["vae"].build()
    x, _ = CASES["vae"].draw(4)
    with pytest.raises(pv.UserError, match="optim: int"):
        pv.SVI(pair.model, pair.guide, 3)  # type: ignore[arg-type]
    for wrong, what in ((nn.Linear, "the class Linear"), (3, "a int")):
        with pytest.raises(pv.UserError, match=f"objective: {what} is neither a name, a function of Terms, nor an"):
            pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), wrong)  # type: ignore[arg-type]
    assert isinstance(pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), pv.IWAE).loss, pv.IWAE)
    with pytest.raises(pv.UserError, match="objective 'vae' is not known"):
        pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), "vae")
    assert isinstance(pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), "iwae").loss, pv.IWAE)
    other = nn.Linear(2, 2)
    with pytest.raises(pv.PairError, match="holds no parameter that the loss depends on"):
        pv.SVI(pair.model, pair.guide, torch.optim.Adam(other.parameters())).step(x)
    for p in pair.parameters():
        p.requires_grad_(False)
    with pytest.raises(pv.PairError, match="no parameter"):
        pv.SVI(pair.model, pair.guide, torch.optim.Adam(other.parameters())).step(x)


def test_a_bare_parameter_that_the_optimiser_misses_is_named() -> None:
    vae = TutorialVAE()

    def guide(x: Tensor) -> None:
        pyro.param("shift", torch.tensor(0.0))
        vae.guide(x)

    svi = pv.SVI(vae.model, guide, torch.optim.Adam(vae.parameters()))
    with pytest.raises(pv.PairError, match=r"pyro\.param 'shift' is not among the parameters of the optimiser"):
        svi.step(torch.rand(8, 20).round())
    pyro.clear_param_store()


def test_evaluating_moves_nothing() -> None:
    pair = CASES["vae"].build()
    x, _ = CASES["vae"].draw(4)
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=1.0))
    assert isinstance(svi.evaluate_loss(x), float)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert svi.steps == 0
