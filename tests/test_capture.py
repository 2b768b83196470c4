"""A graph is the program: the same numbers on the same noise, at what its tensors hold now, or none at all."""

from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES, Case
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.errors import PairError
from ppl_vae.common.fields import each
from ppl_vae.compile import capture, decompositions
from ppl_vae.compile.capture import Captured, worthwhile
from ppl_vae.compile.guards import UncapturableError
from ppl_vae.likelihood import hmc, streaming
from ppl_vae.pairs.base import data_plate
from ppl_vae.training.step import Guard
from ppl_vae.training.step_graph import StepGraphs

OBJECTIVES: dict[str, Callable[[], Any]] = {
    "elbo": lambda: pv.Elbo(),
    "elbo-stl": lambda: pv.Elbo(3, "stl"),
    "elbo-in-turn": lambda: pv.Elbo(2, vectorize=False),
    "analytic_kl": lambda: pv.AnalyticKL(2),
    "iwae": lambda: pv.IWAE(4),
    "iwae-stl": lambda: pv.IWAE(4, "stl"),
    "iwae-dreg": lambda: pv.IWAE(4, "dreg"),
    "adversarial": lambda: pv.objective("adversarial"),
    "one_term": lambda: pv.objective("one_term"),
}


def compiles() -> bool:
    try:
        Captured(lambda x: (x + 1,))(torch.ones(2))
    except UncapturableError:
        return False
    return True


compiler = pytest.mark.skipif("not compiles()", reason="no C++ compiler here")
pytestmark = pytest.mark.filterwarnings("error")


def eager(objective: Any, pair: pv.Pair, args: tuple[Any, ...], beta: float) -> tuple[Tensor, list[Tensor | None]]:
    objective.beta = beta
    loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    return loss.detach(), list(torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True))


def close(one: Tensor, other: Tensor, relative: float = 1e-5) -> None:
    assert float((one - other).norm()) <= relative * float(other.norm()) + 1e-30


# every pair under the objectives that ask the most of it, and every objective with each kind of pair
MANY, FEW = ("elbo", "iwae-dreg"), ("vae", "cvae", "hierarchical", "linear-exact", "made")
OWN = {"gan": "adversarial", "diffusion": "one_term"}  # a pair whose objective is for it alone
MATRIX = [
    *((name, loss) for (name, case), loss in itertools.product(CASES.items(), MANY) if case.name not in OWN),
    *itertools.product(FEW, [loss for loss in OBJECTIVES if loss not in (*MANY, *OWN.values())]),
    *OWN.items(),
]


@pytest.mark.parametrize(("name", "loss"), MATRIX)
def test_every_pair_and_objective(name: str, loss: str) -> None:
    """Loss and gradients equal the eager ones on the same noise, anew at every replay, at any weight of the KL."""
    case, objective = CASES[name], OBJECTIVES[loss]()
    pair = case.build().double()
    x, y = case.draw(5)
    x = each(Tensor.double, x)
    args = (x,) if y is None else (x, y)
    try:
        eager(objective, pair, args, 1.0)
    except PairError:
        pytest.skip("refused: the objective does not apply to this pair")
    graphs = StepGraphs(objective, (pair.model, pair.guide), Guard(torch.device("cpu")), compiled=False)
    losses = []
    for seed, beta in ((1, 1.0), (2, 1.0), (2, 0.3)):
        with pyro.validation_enabled(False):
            torch.manual_seed(seed)
            wanted, gradients = eager(objective, pair, args, beta)
        torch.manual_seed(seed)
        for p in pair.parameters():
            p.grad = None
        found, norm, _ = graphs(list(pair.parameters()), args, {})
        close(found, wanted)
        for p, g in zip(pair.parameters(), gradients, strict=True):
            assert (p.grad is None) == (g is None)
            if g is not None and p.grad is not None:
                close(p.grad, g)
                assert p.grad.stride() == p.stride()
        close(norm, torch.stack([g.norm() for g in gradients if g is not None]).norm())
        losses.append(float(found))
    if case.latents and not case.delta and name != "linear-exact":
        assert len(set(losses)) == 2 + objective.weighs


def pair_and_data() -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(3)
    return pv.build("vae", data_shape=(6,), latent=2, hidden=(5,)), (torch.rand(8, 6) > 0.5).float()


def trained(captured: bool, **options: Any) -> tuple[list[float], list[Tensor]]:
    pair, x = pair_and_data()
    adam = torch.optim.Adam(pair.parameters(), lr=1e-2, fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, capture=captured, **options)
    losses = []
    for step in range(6):
        torch.manual_seed(step)
        for group in adam.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        svi.objective.beta = min(1.0, 0.2 * step)  # type: ignore[union-attr]
        losses.append(float(svi.step(x)))
    assert svi.eager_because is None
    return losses, [p.detach() for p in pair.parameters()]


@compiler
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"loss": "iwae"}], ids=str)
def test_a_compiled_run_is_the_eager_run(options: dict[str, Any]) -> None:
    """Learning rate and weight of the KL change after capture, and count."""
    (a, p), (b, q) = trained(True, **options), trained(False, **options)
    assert a == pytest.approx(b, rel=1e-5)
    for one, other in zip(p, q, strict=True):
        close(one, other, 1e-4)


@compiler
def test_one_graph_a_shape_and_one_compilation_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    whole = capture.compile_graph
    monkeypatch.setattr(capture, "compile_graph", lambda *a: (made.append(1), whole(*a))[1])
    monkeypatch.setattr(capture, "_compiled", {})
    for _ in range(2):  # the second pair shares what was compiled for the first, and has weights of its own
        pair, x = pair_and_data()
        with torch.no_grad():
            next(pair.parameters()).add_(torch.randn(()))
        svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), fused=True), capture=True)
        for part in (x, x, x[:3], x, x[:3]):
            torch.manual_seed(0)
            with torch.no_grad(), pyro.validation_enabled(False):
                wanted = float(pv.Elbo().differentiable_loss(pair.model, pair.guide, part))
            torch.manual_seed(0)
            assert float(svi.step(part)) == pytest.approx(wanted, rel=1e-5)
    assert len(made) == 2


@pytest.mark.parametrize(
    "look",
    [
        lambda pair, x: pv.log_likelihood(pair, x, num_samples=20, progress=False),
        lambda pair, x: pv.sample(pair, 2),
        lambda pair, x: pv.posterior(pair, x[:2], num_samples=5),
    ],
    ids=["log_likelihood", "sample", "posterior"],
)
def test_an_estimate_between_two_epochs_costs_no_graph(
    look: Callable[[pv.Pair, Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph is traced when it is made; whoever looks at a pair changes no attribute that a graph depends on."""
    traced: list[Any] = []
    whole = capture.trace
    monkeypatch.setattr(capture, "trace", lambda *a: (traced.append(1), whole(*a))[1])
    pair, x = pair_and_data()
    counts: list[int] = []

    def callback(row: dict[str, Any], pair: pv.Pair) -> None:
        counts.append(len(traced))
        look(pair, x)

    pv.fit(pair, x, epochs=4, batch_size=len(x), device="cpu", progress=False, capture=True, callbacks=[callback])
    assert counts[1] > 0
    assert counts[1:] == [counts[1]] * 3


class Odd(nn.Module):
    """A model of one latent that does something in Python that a graph can't hold."""

    def __init__(self, trick: str) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.trick = trick
        self.calls = 0

    def forward(self, x: Tensor | None = None, y: Any = None, n: int = 1) -> None:
        if self.trick == "counter":
            self.calls += 1
        with data_plate(x, n):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            shift: Any = 0.0
            if self.trick == "item":
                shift = z.mean().item()
            if self.trick == "if" and bool(z.mean() > 0):
                shift = 1.0
            if self.trick == "chance":
                shift = random.random()
            pyro.sample("x", dist.Normal(self.w * z + shift, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Any = None) -> None:
        with data_plate(x, 1):
            pyro.sample("z", dist.Normal(self.m * x, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("item", "reads a tensor's value"),
        ("if", "reads a tensor's value"),
        ("counter", "sets the attribute 'calls'"),
        ("chance", "something else at every call"),
    ],
)
def test_what_a_graph_cannot_hold_runs_as_it_is(trick: str, reason: str) -> None:
    model, guide = Odd(trick), Guide()
    x = torch.randn(4, 1)
    optim = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.0, fused=True)
    svi = pv.SVI(model, guide, optim, capture=True)
    svi.step(x)
    with pytest.warns(UserWarning, match=f"not captured, and runs as it is: .*{reason}"):
        svi.step(x)
    assert reason in str(svi.eager_because)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(x)  # it says so once


def test_foreign_losses_and_optimisers_run_as_they_are() -> None:
    for change, reason in (
        ({"loss": pyro.infer.TraceGraph_ELBO()}, "TraceGraph_ELBO"),
        ({"optim": pyro.optim.Adam({"lr": 1e-3})}, "not a torch.optim"),
    ):
        pair, x = pair_and_data()
        given = {"optim": torch.optim.Adam(pair.parameters(), fused=True), **change}
        svi = pv.SVI(pair.model, pair.guide, **given, capture=True)
        svi.step(x)
        with pytest.warns(UserWarning, match=reason):
            svi.step(x)
        assert reason in str(svi.eager_because)


def test_another_number_of_threads_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled reductions hold one place a thread: run by more threads than they were made for, they write beyond."""
    made: list[int] = []
    monkeypatch.setattr(
        capture, "compile_graph", lambda module, inputs: (made.append(torch.get_num_threads()), module)[1]
    )
    monkeypatch.setattr(capture, "_compiled", {})
    graph = Captured(lambda x: (x.sum(),))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            assert float(graph(torch.ones(5))[0]) == 5
    finally:
        torch.set_num_threads(before)
    assert made == [1, 2]


def test_no_compiler_is_said_and_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise UncapturableError("there is no C++ compiler")

    monkeypatch.setattr(capture, "compile_graph", refuse)
    monkeypatch.setattr(capture, "_compiled", {})
    pair, x = pair_and_data()
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        history = pv.fit(pair, x, epochs=2, batch_size=4, progress=False, capture=True, device="cpu")
    assert len(history) == 2
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        found = pv.log_likelihood(pair, x, num_samples=20, capture=True)
    assert torch.equal(found.log_px, pv.log_likelihood(pair, x, num_samples=20, capture=False).log_px)


@compiler
def test_a_graph_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "compile_graph", lambda module, inputs: lambda *a: tuple(1.01 * r for r in module(*a)))
    monkeypatch.setattr(capture, "_compiled", {})
    with pytest.raises(UncapturableError, match="other numbers"):
        Captured(lambda x: (x * 2,))(torch.ones(3))


@compiler
def test_proving_a_graph_leaves_buffers_and_noise_alone() -> None:
    norm = nn.BatchNorm1d(3)
    x = torch.randn(8, 3)
    twin = nn.BatchNorm1d(3)
    graph = Captured(lambda x: (norm(x).detach() + torch.randn(3),), modules=[norm])
    for _ in range(3):
        torch.manual_seed(1)
        (found,) = graph(x)
        torch.manual_seed(1)
        torch.testing.assert_close(found, twin(x).detach() + torch.randn(3))
        torch.testing.assert_close(norm.running_mean, twin.running_mean)
        assert int(norm.num_batches_tracked) == int(twin.num_batches_tracked)


def test_a_module_that_moves_is_followed() -> None:
    layer = nn.Linear(3, 2)
    graph = Captured(lambda x: (layer(x.to(layer.weight.dtype)).detach(),), compiled=False)
    x = torch.randn(4, 3)
    for change in (lambda: None, layer.double, lambda: layer.load_state_dict(nn.Linear(3, 2).state_dict())):
        change()
        torch.testing.assert_close(graph(x)[0], layer(x.to(layer.weight.dtype)).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_stands_in_for_slow_functions_is_right_to_rounding(dtype: torch.dtype) -> None:
    """log1p, expm1, softplus and the cross entropy, against torch in double precision and at the ends of the line."""
    eps = torch.finfo(dtype).eps
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-500.0, 500.0, 1e-30, -1e-9, 0.0])]).to(dtype)
    exact = x.double()
    tiny = torch.finfo(dtype).tiny
    for found, wanted in (
        (decompositions._log1p(x.abs()), torch.log1p(exact.abs())),
        (decompositions._expm1(x.clamp(max=80)), torch.expm1(exact.clamp(max=80))),
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=16 * eps, atol=tiny)
    # in float32 by exp2 of a rounded multiple of x, which costs |x| roundings of exp(x)
    bound = (8 + 2 * exact.abs()) * eps if dtype == torch.float32 else torch.full_like(exact, 16 * eps)
    for found, wanted in (
        (decompositions._log1p_exp(x), torch.log1p(torch.exp(-exact.abs()))),
        (decompositions._softplus(x), nn.functional.softplus(exact)),
        (decompositions._softplus(x, 2.0), nn.functional.softplus(exact, 2.0)),
        (decompositions._log_sigmoid(x)[0], torch.nn.functional.logsigmoid(exact)),
    ):
        assert bool(((found.double() - wanted).abs() <= bound * wanted.abs() + tiny).all())
    ends = torch.tensor([-1.0, torch.inf, torch.nan, 0.0], dtype=dtype)
    torch.testing.assert_close(decompositions._log1p(ends), torch.log1p(ends), equal_nan=True)
    ends = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0], dtype=dtype)
    torch.testing.assert_close(decompositions._expm1(ends), torch.expm1(ends), equal_nan=True)
    torch.testing.assert_close(decompositions._softplus(ends), torch.nn.functional.softplus(ends), equal_nan=True)


def test_gradients_through_them_are_right() -> None:
    """Through the traced graph of a function, forwards and backwards, against torch's own."""

    def slope(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            f = nn.functional
            value = f.softplus(at) + f.logsigmoid(at) + torch.log1p(at.exp()) + torch.expm1(at / 9)
            value = value + f.binary_cross_entropy_with_logits(at, torch.full_like(at, 0.3), reduction="none")
            return value.detach(), *torch.autograd.grad(value.sum(), at)

    x = torch.linspace(-9, 9, 101, dtype=torch.float64)
    for found, wanted in zip(Captured(slope, compiled=False)(x), slope(x), strict=True):
        torch.testing.assert_close(found, wanted)


def both(case: Case, **options: Any) -> tuple[pv.Estimate, pv.Estimate]:
    pair = case.build()
    x, y = case.draw(4)
    one, other = (pv.log_likelihood(pair, x, y, chunk=16, block=2, capture=c, **options) for c in (True, False))
    return one, other


def same(one: pv.Estimate, other: pv.Estimate) -> None:
    for field in ("log_px", "std_error", "ess", "elbo", "khat"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["vae", "vae-conv", "cvae", "hierarchical", "made", "vae-discretized"])
@pytest.mark.parametrize("proposal", ["guide", "prior", "defensive", "tempered"])
def test_a_captured_estimate_is_the_estimate(name: str, proposal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "Captured", functools.partial(Captured, compiled=False))
    same(*both(CASES[name], num_samples=50, proposal=proposal))


@compiler
def test_a_compiled_estimate_is_the_estimate() -> None:
    same(*both(CASES["vae"], num_samples=32))


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("name", ["vae", "cvae", "hierarchical"])
def test_captured_annealing_is_annealing(name: str, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, where no move is accepted by a hair's breadth in one and refused in the other."""
    monkeypatch.setattr(hmc, "Captured", functools.partial(Captured, compiled=False))
    pair = CASES[name].build().double()
    x, y = CASES[name].draw(3)
    how: dict[str, Any] = {"num_chains": 3, "num_temperatures": 6, "start": start, "block": 2}
    one, other = (pv.ais(pair, x.double(), y, capture=c, **how) for c in (True, False))
    torch.testing.assert_close(one.log_px, other.log_px)


@compiler
def test_compiled_annealing_is_annealing() -> None:
    pair, x = pair_and_data()
    pair, x = pair.double(), x.double()
    one, other = (pv.ais(pair, x, num_chains=3, num_temperatures=6, capture=c) for c in (True, False))
    torch.testing.assert_close(one.log_px, other.log_px)


@compiler
def test_a_captured_estimate_sees_new_weights_and_names_what_is_not_finite() -> None:
    pair, x = pair_and_data()
    first = pv.log_likelihood(pair, x, num_samples=20, capture=True)
    with torch.no_grad():
        for p in pair.model.parameters():
            p.mul_(1.5)
    second = pv.log_likelihood(pair, x, num_samples=20, capture=True)
    assert not torch.equal(first.log_px, second.log_px)
    torch.testing.assert_close(second.log_px, pv.log_likelihood(pair, x, num_samples=20, capture=False).log_px)
    with torch.no_grad():
        list(pair.model.parameters())[-1].fill_(torch.nan)
    with pytest.raises(pv.NonFiniteError, match="datum 0: the log density of site 'x'"):
        pv.log_likelihood(pair, x, num_samples=20, capture=True)


@compiler
def test_a_captured_fit_resumes_to_the_same_bits(tmp_path: Any) -> None:
    """Whole or cut in two, a captured fit ends with the same weights; by default it goes on as it began."""

    def run(folder: str, epochs: int, **options: Any) -> list[Tensor]:
        pair, x = pair_and_data()
        data = pv.load_data(x.repeat(4, 1), binarize="none")
        pv.fit(pair, data, epochs=epochs, batch_size=5, progress=False, run_dir=tmp_path / folder, device="cpu",
               checkpoint_every=0, **options)  # fmt: skip
        return [p.detach().clone() for p in pair.parameters()]

    whole = run("whole", 3, capture=True)
    run("cut", 1, capture=True)
    for one, other in zip(whole, run("cut", 3, capture=True, resume=True), strict=True):
        assert torch.equal(one, other)


def test_auto_counts_the_work() -> None:
    """A thousand steps of a small pair run as they are, a hundred thousand are compiled, whatever the clock says."""
    pair, _ = pair_and_data()
    assert not worthwhile(1_000, 128, pair, 6)
    assert worthwhile(100_000, 128, pair, 6)


@pytest.mark.parametrize("value", ["yes", None, 2])
def test_other_values_of_capture_are_refused(value: Any) -> None:
    pair, x = pair_and_data()
    for call in (pv.fit, pv.log_likelihood, pv.ais):
        with pytest.raises(pv.UserError, match="choose True, False or 'auto'"):
            call(pair, x, capture=value)


@compiler
def test_a_known_graph_still_sees_constants() -> None:
    """One that changes between two captures counts in the second; one that changes while it is traced is refused."""
    drawn = [1.0] * 4  # two traces, the compiled graph's proof, and one more

    def run(x: Tensor) -> tuple[Tensor]:
        return (x * torch.tensor([drawn.pop(0) if len(drawn) > 1 else drawn[0]] * 2),)

    x = torch.tensor([1.0, 2.0])
    assert torch.equal(Captured(run)(x)[0], x)
    drawn[:] = [3.0]
    assert torch.equal(Captured(run)(x)[0], 3 * x)
    drawn[:] = [4.0, 5.0, 6.0]
    with pytest.raises(UncapturableError, match="something else at every call"):
        Captured(run)(x)


def test_a_library_that_a_killed_compiler_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    broken = tmp_path / "c.main.so"
    broken.touch()

    def inductor(module: Any, *_: Any, **__: Any) -> Any:
        if broken.exists():
            raise ImportError(f"{broken}: file too short")
        return module

    monkeypatch.setattr(torch._inductor, "compile", inductor)
    monkeypatch.setattr(capture, "_compiled", {})
    assert torch.equal(Captured(lambda x: (x * 3,))(torch.ones(2))[0], 3 * torch.ones(2))
    assert not broken.exists()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="another system")
def test_ctrl_c_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes inherit that they don't hear it: killed, they would leave a run that goes on as it is."""
    import torch._inductor

    masks: list[str] = []

    def inductor(module: Any, *_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
        masks.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
        return module

    monkeypatch.setattr(torch._inductor, "compile", inductor)
    monkeypatch.setattr(capture, "_compiled", {})
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            Captured(lambda x: (x * 5,))(torch.ones(2))
    finally:
        signal.signal(signal.SIGINT, was)
    assert masks == ["True"]


def test_infinite_logits_meet_as_in_torch() -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 100.0, -100.0]).repeat_interleave(3)
    t = torch.tensor([0.0, 1.0, 0.3]).repeat(5)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    torch.testing.assert_close(decompositions._cross_entropy(x, t, None, None, 0), wanted, equal_nan=True)


def test_softplus_in_double_precision_ends_where_torchs_does() -> None:
    x = torch.linspace(19, 21, 9, dtype=torch.float64)
    torch.testing.assert_close(decompositions._softplus(x), torch.nn.functional.softplus(x), rtol=1e-15, atol=0)


@compiler
def test_products_in_bfloat16_are_captured() -> None:
    """They differ by a bfloat16 rounding here and there, which is no reason to refuse them."""
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(64,), latent=5, hidden=(40,))
    adam = torch.optim.Adam(pair.parameters(), fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, capture=True, precision="bf16")
    for _ in range(3):
        svi.step((torch.rand(32, 64) < 0.3).float())
    assert svi.eager_because is None


def test_a_graph_that_was_compiled_is_found_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, for which an empty table of graphs stands here."""
    from torch._dynamo.utils import counters

    x = torch.rand(40)
    for turn in range(2):
        monkeypatch.setattr("ppl_vae.compile.capture._compiled", {})
        before = counters["aot_autograd"]["autograd_cache_hit"]
        (found,) = Captured(lambda x: ((3 * x).sin() * x.exp(),))(x)
        assert torch.allclose(found, (3 * x).sin() * x.exp())
        if turn:
            assert counters["aot_autograd"]["autograd_cache_hit"] == before + 1


@pytest.mark.parametrize("p", [torch.rand(7, 5), torch.rand(5, 7).T, torch.rand(5, 1).expand(5, 7)])
def test_what_replaces_a_draw_takes_the_same_noise(p: Tensor) -> None:
    """The operation that a GPU's graph has for a Bernoulli draw gives the program's numbers, in its layout."""
    drawn = []
    for draw in (torch.bernoulli, decompositions.GPU[torch.ops.aten.bernoulli.default]):
        torch.manual_seed(3)
        drawn.append(draw(p))
    assert torch.equal(*drawn)
    assert drawn[0].stride() == drawn[1].stride()
