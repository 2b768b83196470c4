"""What runs on a CPU gives the same on a GPU: ``pytest tests/on_device.py --device cuda``.

``make test`` runs it with ``--device sham``, a device that is none (see ``sham.py``): all but compiled graphs. On a CPU
it holds trivially.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from inline import Inline
from pairs_under_test import CASES, Case
from test_capture import MATRIX, OBJECTIVES, eager
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.errors import PairError
from ppl_vae.common.fields import device_of, each, leaves
from ppl_vae.common.registry import OBJECTIVES as OBJECTIVE_NAMES
from ppl_vae.common.rng import uniform
from ppl_vae.compile.capture import Captured
from ppl_vae.runs.state import state_tensors
from ppl_vae.scoring import densities, trace
from ppl_vae.training.step import Guard
from ppl_vae.training.step_graph import StepGraphs

Args = tuple[Any, ...]
ALL = {**CASES, "vae-flow": Case("vae", {"hidden": (8, 7), "latent": 3, "guide": "flow:transforms=2"})}  # every guide
every_pair = pytest.mark.parametrize("case", ALL.values(), ids=ALL)
with_density = pytest.mark.parametrize("case", [c for c in ALL.values() if not c.delta], ids=lambda c: c.name)
REFUSED = (PairError, pv.UserError)


@contextmanager
def refusal() -> Iterator[list[str]]:
    """What is refused, by its reason; an error of torch inside a program, such as two devices, is none."""
    said: list[str] = []
    try:
        yield said
    except REFUSED as why:
        if "RuntimeError" in str(why):
            raise
        said.append(str(why))


@pytest.fixture
def device(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[torch.device]:
    name = pytestconfig.getoption("--device")
    if name != "sham":
        yield torch.device(name)
        return
    if "captured" in request.node.name:
        pytest.skip("a device that is none has no compiled graph; tests/gpu_code.py makes those of a GPU")
    sham = pytest.importorskip("sham", exc_type=ImportError, reason="this torch has no backends in Python")
    with sham.Made():
        yield torch.device(name)


def built(case: Case, device: torch.device, count: int = 5) -> tuple[pv.Pair, Args]:
    """A pair and data (x,) or (x, y) on the device, made on the CPU."""
    pair, (x, y) = case.build(), case.draw(count)
    x = each(lambda t: t.to(device), x)
    return pair.to(device), ((x,) if y is None else (x, y.to(device)))


def near(one: Tensor, other: Tensor, relative: float) -> None:
    """Equal to a share of the largest number."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    scale = float(other[other.isfinite()].abs().max()) if bool(other.isfinite().any()) else 0.0
    torch.testing.assert_close(one, other, rtol=relative, atol=relative * (1 + scale), equal_nan=True)


@every_pair
def test_densities_are_those_of_a_cpu(case: Case, device: torch.device) -> None:
    """log p(x, z) and log q(z | x) at the same latents."""
    cpu = torch.device("cpu")
    pair, args = built(case, cpu)
    pair = pair.eval()
    t = pv.terms(pair.model, pair.guide, *args, num_samples=4)
    values = {name: site.value for name, site in t.sites.items()}

    def scored(where: torch.device) -> list[Tensor]:
        moved = pair.to(where)
        x, y = (None if v is None else each(lambda t: t.to(where), v) for v in (*args, None)[:2])
        at = {name: v.to(where) for name, v in values.items()}
        joint = pv.log_joint(moved.model, x, y, at)
        assert joint.device.type == where.type
        if not at or case.delta:  # a Delta asks for its value to the bit
            return [joint]
        return [joint, densities.log_densities(moved.guide, trace.call_args(moved.guide, x, y), at)[1]]

    for here, there in zip(scored(cpu), scored(device), strict=True):
        near(there, here, 1e-4)


@with_density
def test_mean_log_weights_are_those_of_a_cpu(case: Case, device: torch.device) -> None:
    """The ELBO of each example, by draws of the two generators, to its Monte Carlo error."""
    pair, args = built(case, device, 8)
    here = pv.log_weights(pair, *args, num_samples=400, seed=1).double().cpu()
    there = pv.log_weights(pair.cpu(), *each(Tensor.cpu, args), num_samples=400, seed=2).double()
    error = ((here.var(0) + there.var(0)) / 400).sqrt() + 1e-4 * (1 + there.mean(0).abs())
    off = (here.mean(0) - there.mean(0)).abs() / error
    assert bool((off < 5).all()), off  # never with a NaN: all weights are finite


@pytest.mark.parametrize(("name", "loss"), MATRIX)
def test_a_captured_step_is_the_step(name: str, loss: str, device: torch.device) -> None:
    """Compiled loss and gradients equal the eager ones on the same noise, at the third call as at the first."""
    objective, (pair, args) = OBJECTIVES[loss](), built(CASES[name], device)
    try:
        eager(objective, pair, args, 1.0)
    except PairError:
        pytest.skip("refused: the objective does not apply to this pair")
    graphs = StepGraphs(objective, (pair.model, pair.guide), Guard(device))
    for seed in (1, 2, 3):
        with pyro.validation_enabled(False):
            pv.rng.reseed(seed, device)
            wanted, gradients = eager(objective, pair, args, 1.0)
        pv.rng.reseed(seed, device)
        pair.zero_grad()
        found, _, _ = graphs(list(pair.parameters()), args, {})
        near(found, wanted, 1e-3)
        for p, g in zip(pair.parameters(), gradients, strict=True):
            assert (p.grad is None) == (g is None)
            if g is not None and p.grad is not None:
                near(p.grad, g, 3e-3)


@every_pair
@pytest.mark.parametrize("capture", [False, True], ids=["eager", "captured"])
def test_it_trains_and_resumes_to_the_same_bits(
    case: Case, capture: bool, device: torch.device, tmp_path: Path
) -> None:
    x, y = case.draw(24)

    def stop(row: dict[str, Any], pair: pv.Pair) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    def run(folder: str, **options: Any) -> tuple[dict[str, Tensor], list[float]]:
        torch.manual_seed(0)
        pair = case.build()
        history = pv.fit(
            pair, pv.Split(x, y), run_dir=tmp_path / folder, epochs=3, batch_size=8, lr=1e-3, device=device,
            progress=False, capture=capture, **options,
        )  # fmt: skip
        assert all(p.device.type == device.type for p in pair.parameters())
        return state_tensors(pair), [row["train_bound"] for row in history]

    whole, bounds = run("whole")
    assert all(map(math.isfinite, bounds))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", callbacks=[stop])
    again, _ = run("stopped", resume=True)
    assert [name for name in whole if not torch.equal(whole[name].cpu(), again[name].cpu())] == []


@every_pair
def test_samples_codes_and_files(case: Case, device: torch.device, tmp_path: Path) -> None:
    pair, args = built(case, device)
    if case.draws:
        y = (args[1:] and (args[1],)) or ()
        assert all(bool(v.isfinite().all()) for v in leaves(pv.sample(pair, 5, *y, seed=0)))
    code = pv.encode(pair, *args, seed=0)
    assert all(bool(v.isfinite().all()) for v in code.mean.values())
    if case.latents:
        pv.reconstruct(pair, *args, seed=0)
    pv.save(tmp_path / "run", pair)
    again = pv.load(tmp_path / "run")
    mine, theirs = state_tensors(pair), state_tensors(again)
    assert [k for k in mine if not torch.equal(mine[k].cpu(), theirs[k].cpu())] == []


FEW = [
    CASES[name] for name in ("vae", "cvae", "hierarchical", "vae-discretized-conv", "counts-latent-library", "table")
]
few = pytest.mark.parametrize("case", FEW, ids=lambda c: c.name)


@every_pair
@pytest.mark.parametrize(
    "proposal", [*sorted({*pv.proposals.PROPOSALS} - {"auto", "refined"}), "refined:steps=5,rounds=1"]
)
def test_every_proposal_under_every_estimator(case: Case, proposal: str, device: torch.device) -> None:
    """Whatever a pair refuses, it refuses by name: no operation meets tensors of two devices."""
    pair, args = built(case, device, 3)
    fitted = proposal.startswith("refined")  # anew for each estimator
    for estimator in ("iwae",) if fitted else pv.estimators.ESTIMATORS:
        with refusal() as refused:
            est = pv.log_likelihood(pair, *args, num_samples=60, proposal=proposal, estimator=estimator)
        assert refused or est.log_px.shape == (3,)


@pytest.mark.parametrize("name", pv.targets.names())
def test_log_px_of_a_target(name: str, device: torch.device) -> None:
    """Each proposal that applies; where the guide is the posterior, the answer."""
    target = pv.targets.make(name)
    x = target.sample(4)
    log_px = target.log_px(x)
    if target.exact is not None:
        near(pv.log_likelihood(target.exact.to(device), x, num_samples=10).log_px, log_px, 1e-9)
    pair = target.pair.to(device)
    for proposal in ("guide", "prior", "defensive", "tempered", "qmc", "refined:steps=3,rounds=1"):
        with refusal() as refused:
            found = pv.log_likelihood(pair, x, num_samples=64, proposal=proposal)
        assert refused or bool(found.log_px.isfinite().all())


@few
def test_estimates_captured_are_estimates(case: Case, device: torch.device) -> None:
    pair, args = built(case, device)
    eager, captured = (
        pv.log_likelihood(pair, *args, num_samples=1000, capture=capture).log_px for capture in (False, True)
    )
    near(captured, eager, 1e-4)


@every_pair
def test_the_rest_of_the_estimators(case: Case, device: torch.device) -> None:
    pair, args = built(case, device, 2)
    small: dict[str, Any] = {"num_temperatures": 2, "num_chains": 2}
    auto = pv.proposals.auto(**small)
    done = {
        "ais": lambda: pv.ais(pair, *args, **small).log_px,
        "ais, captured": lambda: pv.ais(pair, *args, **small, capture=True).log_px,
        "refine": lambda: pv.refine(pair, *args, steps=2, rounds=1).khat,
        "auto": lambda: pv.log_likelihood(pair, *args, num_samples=300, proposal=auto),
        "panel": lambda: pv.panel(pair, *args, num_samples=100, estimators=[*pv.estimators.ESTIMATORS]),
        "sbc": lambda: pv.sbc(pair, 2, num_samples=19),
        "bdmc": lambda: pv.bdmc(pair, 2, **small),
        "description length": lambda: pv.description_length(pair, *args, num_samples=20),
        "classify": lambda: pv.classify(pair, args[0], num_samples=20),
        "hmc": lambda: pv.posterior(pair, *args, method="hmc", num_samples=2, warmup=2),
        "sir": lambda: pv.posterior(pair, *args, method="sir", num_samples=8),
        "information": lambda: pv.information(pair, *args),
        "bound_curve": lambda: pv.bound_curve(pair, *args, num_samples=100),
    }
    if case.name in ("series", "flow"):  # many small operations: minutes where each is Python
        done = {name: work for name, work in done.items() if device.type != "sham" or name not in ("auto", "bdmc")}
    refused = {}
    for name, work in done.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on few draws, mostly
            with refusal() as said:
                work()
            if said:
                refused[name] = said[0]
    assert len(refused) <= 4 or case not in FEW, refused


def test_the_cells_of_a_study(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_vae.training.loop.resolve_device", lambda _: device)  # a study takes a GPU where one is
    base = pv.Strategy("vae", latent=2, hidden=(8,), batch_size=20, capture=False)
    found = pv.study(
        {"elbo": base, "iwae": base.replace(objective="iwae", guide="full")}, CASES["vae"].draw(60)[0], seeds=2,
        budget={"steps": 6}, evaluation={"num_samples": 30, "proposal": "refined", "gaps": 0}, out=tmp_path,
        executor=Inline(), progress=False,
    )  # fmt: skip
    assert {row["status"] for cells in found.results.values() for row in cells.values()} == {"done"}


@pytest.mark.parametrize("capture", [False, True], ids=["eager", "captured"])
def test_noise_of_binarisation_is_that_of_a_cpu(capture: bool, device: torch.device) -> None:
    """Bit for bit, also in a compiled graph."""
    like, key = torch.empty(57, 1, 28, 28, device=device), torch.tensor(0xF0000007, device=device)
    wanted = uniform(like.cpu(), key.cpu())
    graph = Captured(lambda a, k: (uniform(a, k),)) if capture else lambda a, k: (uniform(a, k),)
    for _ in range(3):
        assert torch.equal(graph(like, key)[0].cpu(), wanted)


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Inside, an operation for whose result the host has to wait raises."""
    if device.type == "sham":
        reads = importlib.import_module("sham").READS
        before = len(reads)
        yield
        assert reads[before:] == []
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mode is said to be a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps_without_waits(pair: pv.Pair, args: Args, loss: str, capture: bool, device: torch.device) -> None:
    """After the first steps nothing is read from the device: the next step is launched while the last one runs."""
    if device.type == "cpu":
        pytest.skip("a CPU waits for itself")
    adam = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, loss, capture=capture)
    for _ in range(4):
        svi.step(*args)
    assert svi.eager_because is None or not capture
    with no_waits(device):
        for _ in range(3):
            svi.step(*args)


def test_no_captured_step_waits_for_the_device(device: torch.device) -> None:
    steps_without_waits(*built(CASES["vae"], device, 64), "iwae", True, device)


def test_a_device_that_is_none_tells_what_a_gpu_would(device: torch.device) -> None:
    """Tensors of two devices do not meet, and each way to read a value is a wait."""
    if device.type != "sham":
        pytest.skip("this one is")
    x = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(3)
    for read in (
        lambda: float(x.sum()), lambda: x.cpu(), lambda: x[x > 0], lambda: x.tolist(), lambda: bool((x > 0).all()),
        lambda: torch.equal(x, x), lambda: x.nonzero(),
    ):  # fmt: skip
        with pytest.raises(AssertionError), no_waits(device):
            read()
    with no_waits(device):
        x[torch.arange(2)] = x.sum() + torch.tensor(1.0)


WAITING = {"linear-exact": "torch's Cholesky factor reads whether it exists"}


@every_pair
def test_no_step_waits_for_the_device(case: Case, device: torch.device) -> None:
    """With every objective that applies."""
    if why := WAITING.get(case.name):
        pytest.skip(why)
    done = []
    for loss in OBJECTIVE_NAMES:
        pair, args = built(case, device, 24)
        try:
            steps_without_waits(pair, args, loss, False, device)
        except (*REFUSED, NotImplementedError):  # the objective does not apply
            continue
        done.append(loss)
    assert done


def test_a_fit_on_binarised_images_is_captured(device: torch.device) -> None:
    """Warnings are errors: no reason is given why it is not."""
    x = torch.rand(64, 1, 8, 8)
    pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(8,))
    history = pv.fit(
        pair, pv.Split(x, binarize="dynamic"), epochs=3, batch_size=16, device=device, progress=False, capture=True
    )
    assert math.isfinite(history[-1]["train_bound"])
    assert device_of(next(pair.parameters())).type == device.type


def test_gradients_of_a_recurrent_cell(device: torch.device) -> None:
    """A GPU has a kernel of its own for it, with its own slope."""
    cell = torch.nn.GRUCell(3, 4)
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    slopes = []
    for where in (torch.device("cpu"), device):
        given = [t.to(where).requires_grad_() for t in (x, state)]
        cell.to(where)
        loss = cell(*given).sin().sum()
        slopes.append(torch.autograd.grad(loss, [*given, *cell.parameters()]))
    for one, other in zip(*slopes, strict=True):
        near(one, other, 1e-5)
