"""What changes after a graph was made counts; what a graph can't hold runs as it is, and is left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae as pv
from ppl_vae.common.errors import NonFiniteError, RunError
from ppl_vae.compile import capture
from ppl_vae.compile.capture import Captured
from ppl_vae.compile.guards import UncapturableError
from ppl_vae.compile.products import products
from ppl_vae.pairs.base import data_plate
from ppl_vae.training import step_graph
from ppl_vae.training.step import Guard

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced graph stands for the compiled one, which is made of it, and takes seconds."""
    monkeypatch.setattr(capture, "compile_graph", lambda module, inputs: module)
    monkeypatch.setattr(capture, "_compiled", {})


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, *rest: Any) -> None:
        with data_plate(x, 1):
            pyro.sample("z", dist.Normal(self.m * x[:, :1], 1.0).to_event(1))


class Model(nn.Module):
    """z ~ N(0, 1); x ~ N(mean(z), sigma), with a mean that each test writes."""

    def __init__(self, mean: Callable[..., Tensor] | None = None, **parts: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.sigma = 1.0
        self.mean = mean or (lambda self, z, x, *rest: self.w * z)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor, *rest: Any) -> None:
        with data_plate(x, 1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(self, z, x, *rest), self.sigma).to_event(1), obs=x)


X = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))


def still(model: nn.Module, *more: nn.Module, **options: Any) -> pv.SVI:
    """A captured SVI that moves nothing, so that the same seed asks for the same loss."""
    guide = Guide()
    params = [p for m in (model, guide, *more) for p in m.parameters()]
    return pv.SVI(model, guide, torch.optim.SGD(params, lr=0.0, fused=True), capture=True, **options)


def agrees(svi: pv.SVI, *args: Any) -> None:
    """A step's loss is the eager loss on the same noise."""
    assert svi.objective is not None
    with pyro.validation_enabled(False), torch.no_grad():
        torch.manual_seed(7)
        wanted = float(svi.objective.differentiable_loss(svi.model, svi.guide, *args))
    torch.manual_seed(7)
    assert float(svi.step(*args)) == pytest.approx(wanted, rel=1e-5)


def change_child(model: Any) -> None:
    model.net = nn.Linear(1, 1)


def change_data(model: Any) -> None:
    model.net.weight.data = model.net.weight.data * 3


CHANGES: dict[str, tuple[Callable[[], Model], Callable[[Any], Any]]] = {
    "a number": (Model, lambda m: setattr(m, "sigma", 2.0)),
    "a child": (lambda: Model(lambda s, z, x: s.net(z), net=nn.Linear(1, 1)), change_child),
    "other memory": (lambda: Model(lambda s, z, x: s.net(z), net=nn.Linear(1, 1)), change_data),
    "dropout": (
        lambda: Model(lambda s, z, x: s.net(z) * s.w, net=nn.Dropout(0.9)),
        lambda m: setattr(m.net, "p", 0.0),
    ),
    "the mode": (lambda: Model(lambda s, z, x: s.net(z) * s.w, net=nn.Dropout(0.9)), lambda m: m.eval()),
    "a buffer": (lambda: Model(lambda s, z, x: s.t * z * s.w, t=torch.ones(1)), lambda m: m.t.fill_(3.0)),
    "another buffer": (
        lambda: Model(lambda s, z, x: s.t * z * s.w, t=torch.ones(1)),
        lambda m: setattr(m, "t", torch.full((1,), 3.0)),
    ),
    "a function": (lambda: Model(lambda s, z, x: s.f(s.w * z), f=torch.tanh), lambda m: setattr(m, "f", torch.relu)),
    "a tuple": (lambda: Model(lambda s, z, x: s.w * z * s.by[0], by=(1.0,)), lambda m: setattr(m, "by", (3.0,))),
    "a number in a list": (
        lambda: Model(lambda s, z, x: s.w * z * s.by[0], by=[1.0]),
        lambda m: m.by.append(m.by.pop() + 2),
    ),
    "a longer list": (lambda: Model(lambda s, z, x: s.w * z * sum(s.by), by=[1.0]), lambda m: m.by.append(2.0)),
    "a hook": (
        lambda: Model(lambda s, z, x: s.net(z), net=nn.Linear(1, 1)),
        lambda m: m.net.register_forward_hook(lambda net, args, out: 3 * out),
    ),
    "a method": (
        lambda: Model(lambda s, z, x: s.net(z), net=nn.Linear(1, 1)),
        lambda m: setattr(m.net, "forward", lambda z: 5 * z),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_in_a_module_counts_at_the_next_step(what: str) -> None:
    make, change = CHANGES[what]
    model = make()
    svi = still(model)
    for _ in range(3):
        agrees(svi, X)
    before = float(svi.step(X))
    change(model)
    agrees(svi, X)
    torch.manual_seed(7)
    assert float(svi.step(X)) != before
    assert svi.eager_because is None


def test_a_child_that_comes_later_is_watched_too() -> None:
    model = Model(lambda s, z, x: s.net(z), net=nn.Dropout(0.0))
    svi = still(model)
    agrees(svi, X)
    agrees(svi, X)
    model.net = nn.Dropout(0.5)
    agrees(svi, X)
    model.net.p = 0.9
    agrees(svi, X)
    assert svi.eager_because is None


def test_a_program_that_appends_to_a_list_is_refused_and_its_list_put_back() -> None:
    model = Model(lambda s, z, x: (s.seen.append(1), s.w * z)[1], seen=[])
    svi = still(model)
    svi.step(X)
    with pytest.warns(UserWarning, match="sets the attribute 'seen'"):
        svi.step(X)
    assert len(model.seen) == 2  # once a step, as without a graph


def settle(svi: pv.SVI) -> pv.SVI:
    for _ in range(3):
        agrees(svi, X)
    return svi


def test_what_changes_in_an_svi_or_its_objective_counts() -> None:
    class Scaled(pv.Objective):
        def __init__(self) -> None:
            super().__init__(lambda t, beta: self.by * t.log_w.mean(0))
            self.by = 1.0

    svi = settle(still(Model(), loss=Scaled()))
    svi.objective.by = 3.0  # type: ignore[union-attr]
    agrees(svi, X)
    svi.objective = pv.IWAE(num_particles=3)
    agrees(svi, X)
    other = Model(lambda s, z, x: 2 * z)
    svi.model = other
    agrees(svi, X)
    assert svi.eager_because is None


@pytest.mark.parametrize("capture", ["off", "auto", 1])
def test_svi_takes_a_flag(capture: Any) -> None:
    with pytest.raises(pv.UserError, match="choose True or False"):
        pv.SVI(Model(), Guide(), torch.optim.Adam, capture=capture)


class Noisy(nn.Module):
    """Adds noise to the data, and counts its calls where they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.1
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        self.count.add_(1)
        return (x + self.scale * torch.randn_like(x),)


@pytest.mark.parametrize("loss", [None, "analytic_kl"])
def test_prepare_runs_once_a_step_and_is_watched(loss: str | None) -> None:
    def run(capture: bool) -> tuple[list[float], int]:
        prepare = Noisy()
        svi = still(Model(), loss=loss, prepare=prepare)
        svi.capture = capture
        losses = []
        for step in range(6):
            if step == 4:
                prepare.scale = 2.0
            torch.manual_seed(7)
            losses.append(float(svi.step(X)))
        assert svi.eager_because is None
        return losses, int(prepare.count)

    (a, n), (b, m) = run(True), run(False)
    assert a == pytest.approx(b, rel=1e-5)
    assert n == m == 6


def test_a_result_that_is_zero_but_for_rounding_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the gradient of a bias before batch normalisation: it has no scale but that of the other results."""

    def off(module: Any, inputs: Any) -> Any:
        return lambda *a: (module(*a)[0], module(*a)[1] + 1e-4)

    monkeypatch.setattr(capture, "compile_graph", off)
    Captured(lambda x: (1e3 * x.exp(), 1e-6 * x))(X)
    with pytest.raises(UncapturableError, match="result 2 of 2"):
        Captured(lambda x: (x.exp(), 1e-6 * x))(X)


def test_a_graph_with_other_numbers_is_refused_and_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "compile_graph", lambda module, inputs: lambda *a: tuple(1.01 * r for r in module(*a)))
    with pytest.raises(UncapturableError, match=r"result 1 of 2 is off by 0\.01 of its largest number"):
        Captured(lambda x: (x.exp(), x))(X)


def test_another_bound_counts() -> None:
    svi = still(Model(), loss="iwae")
    agrees(svi, X)
    agrees(svi, X)
    svi.objective.bound = lambda t, beta: t.log_w.mean(0)  # type: ignore[union-attr, method-assign, assignment]
    agrees(svi, X)


def test_arguments_of_one_value_and_two_types_are_two_kinds() -> None:
    svi = still(Model(lambda s, z, x, how: s.w * z + (5.0 if how is True else 0.0)))
    for how in (1, 1, True, 1):
        agrees(svi, X, how)
    assert svi.eager_because is None


@pytest.mark.parametrize("captured", [False, True])
def test_each_shape_moves_its_own_parameters(captured: bool) -> None:
    """The model has one head for large batches and one for small: a step moves the one that it used."""
    model = Model(lambda s, z, x: s.w * z + (s.a if len(x) > 4 else s.b), a=nn.Parameter(torch.zeros(1)))
    model.b = nn.Parameter(torch.zeros(1))
    guide = Guide()
    svi = pv.SVI(model, guide, torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.01), capture=captured)
    for x in (X, X, X[:3]):
        svi.step(x + 3)
    a, b = model.a.item(), model.b.item()
    svi.step(X + 3)
    assert (model.a.item() != a, model.b.item() != b) == (True, False)
    assert svi.eager_because is None


def moved(captured: bool, change: Callable[[pv.Pair, Any], Any], **options: Any) -> list[Tensor]:
    torch.manual_seed(3)
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    adam = torch.optim.Adam(pair.guide.parameters() if "half" in options else pair.parameters(), lr=0.1, fused=True)
    options.pop("half", None)
    svi = pv.SVI(pair.model, pair.guide, adam, capture=captured, **options)
    for step in range(6):
        torch.manual_seed(step)
        if step == 3:
            change(pair, adam)
        svi.step((torch.rand(8, 6) > 0.5).float())
    return [p.detach() for p in pair.parameters()]


def add_the_model(pair: pv.Pair, adam: Any) -> None:
    adam.add_param_group({"params": list(pair.model.parameters()), "lr": 0.05})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda pair, adam: pair.guide.requires_grad_(False), {}),
        (add_the_model, {"half": True}),
        (lambda pair, adam: adam.load_state_dict(adam.state_dict()), {}),
        (lambda pair, adam: adam.state.clear(), {}),
        (lambda pair, adam: adam.param_groups[0].update(betas=(0.5, 0.9), weight_decay=0.1), {}),
        (lambda pair, adam: None, {"clip_norm": 0.5}),
    ],
    ids=["freeze", "add a group", "load", "forget", "betas", "clip"],
)
def test_what_changes_in_the_optimiser_counts(change: Any, options: dict[str, Any]) -> None:
    for one, other in zip(moved(True, change, **options), moved(False, change, **options), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_parameters_of_one_sum_are_clipped_once() -> None:
    def run(captured: bool) -> list[float]:
        model = Model(lambda s, z, x: s.w * z + (s.a + s.b), a=nn.Parameter(torch.zeros(1)))
        model.b = nn.Parameter(torch.zeros(1))
        guide = Guide()
        sgd = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=1.0, fused=True)
        svi = pv.SVI(model, guide, sgd, clip_norm=1.0, capture=captured)
        for seed in range(3):
            torch.manual_seed(seed)
            svi.step(X + 10)
        return [p.item() for p in model.parameters()]

    assert run(True) == pytest.approx(run(False), rel=1e-5)


def test_a_gradient_that_is_there_is_added_to() -> None:
    def run(captured: bool) -> float:
        model, guide = Model(), Guide()
        sgd = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=1.0, fused=True)
        svi = pv.SVI(model, guide, sgd, capture=captured)
        for seed in range(3):
            torch.manual_seed(seed)
            model.w.grad = torch.full((1,), 5.0)
            svi.step(X)
        return model.w.item()

    assert run(True) == pytest.approx(run(False), rel=1e-5)


def test_softplus_with_another_threshold_is_itself() -> None:
    """Above its threshold torch's softplus is the identity, so the threshold is part of the function."""
    x = torch.linspace(-4, 4, 41)
    (found,) = Captured(lambda x: (nn.functional.softplus(x, threshold=1.0),))(x)
    torch.testing.assert_close(found, nn.functional.softplus(x, threshold=1.0))


class Keeps(Model):
    """Keeps something of a call in an attribute."""

    def __init__(self, how: str) -> None:
        super().__init__(lambda s, z, x: s.keep(z))
        self.how, self.calls, self.last, self.seen = how, 0, torch.zeros(()), {}

    def keep(self, z: Tensor) -> Tensor:
        if self.how == "a count":
            self.calls += 1
        elif self.how == "an average":
            self.last = 0.9 * self.last + 0.1 * z.detach().mean()
        elif self.how == "the last draw":
            self.last = z.detach()
        elif z.shape not in self.seen:
            self.seen[z.shape] = torch.ones(z.shape)
        return self.w * z + self.last.mean()


@pytest.mark.parametrize("how", ["a count", "an average", "the last draw"])
def test_a_program_that_keeps_something_runs_as_it_is_and_keeps_it(how: str) -> None:
    model = Keeps(how)
    svi = still(model)
    svi.step(X)
    with pytest.warns(UserWarning, match="sets the attribute '(calls|last)' of a module"):
        svi.step(X)
    svi.step(X)
    assert type(model.last) is Tensor
    assert model.last.isfinite().all()
    assert how != "a count" or model.calls == 3  # not counting what the tracer did


def test_a_cache_by_shape_is_left_without_fakes() -> None:
    model = Keeps("by shape")
    svi = still(model)
    svi.step(X)
    svi.step(X)
    assert svi.eager_because is None
    with pytest.warns(UserWarning, match="sets the attribute"):
        svi.step(X[:3])  # of this shape there is nothing in the cache yet
    assert {type(v) for v in model.seen.values()} == {Tensor}


READS: dict[str, Callable[..., Tensor]] = {
    "a buffer's item": lambda s, z, x: s.w * z * s.t.item(),
    "if on a buffer": lambda s, z, x: s.w * z if s.t > 0 else z,
    "float of a parameter": lambda s, z, x: s.w * z * float(s.w.detach()),
}


@pytest.mark.parametrize("what", READS)
def test_what_reads_a_tensor_that_may_change_is_refused(what: str) -> None:
    svi = still(Model(READS[what], t=torch.tensor(1.0)))
    svi.step(X)
    with pytest.warns(UserWarning, match="reads a tensor's value"):
        svi.step(X)
    agrees(svi, X)


def test_what_is_changed_in_place_is_changed_once_a_step() -> None:
    count = torch.tensor(0.0)
    svi = still(Model(lambda s, z, x: s.w * z * count.add_(1)))
    for _ in range(4):
        svi.step(X)
    assert svi.eager_because is None
    assert float(count) == 4


def holds_a_generator(s: Any, z: Tensor, x: Tensor) -> Tensor:
    return s.w * z + torch.rand(1, generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("args", "mean", "reason"),
    [
        ((X, {1, 2}), lambda s, z, x, two: s.w * z, "neither tensors nor constants: set"),
        ((X,), holds_a_generator, "Generator"),  # who says it differs between versions of torch
    ],
    ids=["set", "generator"],
)
def test_the_reason_is_said(args: Any, mean: Any, reason: str) -> None:
    svi = still(Model(mean))
    svi.step(*args)
    with pytest.warns(UserWarning, match=reason):
        svi.step(*args)


def test_a_step_without_arguments_is_captured() -> None:
    class Fixed(Model):
        def forward(self, *rest: Any) -> None:
            super().forward(X)

    class Start(Guide):
        def forward(self, *rest: Any) -> None:
            super().forward(X)

    model, guide = Fixed(), Start()
    sgd = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.0, fused=True)
    svi = pv.SVI(model, guide, sgd, capture=True)
    for _ in range(3):
        agrees(svi)
    assert svi.eager_because is None


def test_a_hook_on_the_accumulated_gradient_is_run() -> None:
    model = Model()
    model.w.register_post_accumulate_grad_hook(lambda p: None)
    svi = still(model)
    svi.step(X)
    with pytest.warns(UserWarning, match="hook on its accumulated gradient"):
        svi.step(X)


def test_inside_a_handler_the_step_runs_as_it_is() -> None:
    svi = still(Model())
    agrees(svi, X)
    agrees(svi, X)
    with poutine.scale(scale=0.25), pytest.warns(UserWarning, match="inside a handler"):
        agrees(svi, X)


def test_graphs_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MOST", 3)
    graph = Captured(lambda x: (x + 1,), compiled=False)
    for n in (1, 2, 3):
        graph(torch.ones(n))
    graph(torch.ones(2))
    with pytest.raises(UncapturableError, match="keep changing"):
        graph(torch.ones(4))


def test_arguments_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graph, "MOST", 3)
    svi = still(Model(lambda s, z, x, how: s.w * z * how))
    for how in (0.0, 1.0, 2.0, 3.0):
        svi.step(X, how)
    with pytest.warns(UserWarning, match="arguments keep changing"):
        svi.step(X, 4.0)


def test_a_wrong_graph_is_refused_beside_infinities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        capture, "compile_graph", lambda module, inputs: lambda *a: tuple(7 * r + 3 for r in module(*a))
    )
    with pytest.raises(UncapturableError, match="other numbers"):
        Captured(lambda x: (1 / x,))(torch.tensor([0.0, 1.0, 2.0]))
    monkeypatch.setattr(capture, "compile_graph", lambda module, inputs: module)
    (found,) = Captured(lambda x: (1 / x,))(torch.tensor([0.0, torch.nan, 2.0]))
    torch.testing.assert_close(found, torch.tensor([torch.inf, torch.nan, 0.5]), equal_nan=True)


def test_bad_data_are_named_where_the_graph_is_made_of_them() -> None:
    """The first captured step sees a NaN: the same error as without a graph, which names site and batch."""
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    for captured in (False, True):
        torch.manual_seed(3)
        pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))

        def spoil(row: Any, pair: pv.Pair) -> None:
            with torch.no_grad():
                next(pair.model.parameters()).fill_(torch.nan)  # type: ignore[attr-defined]

        with pytest.raises(NonFiniteError, match="site 'x'"):
            pv.fit(pair, x, epochs=2, batch_size=40, progress=False, device="cpu", capture=captured, callbacks=[spoil])


# ---- the guard


def test_the_guard_counts_good_steps_and_stops_for_good() -> None:
    guard = Guard(torch.device("cpu"))
    one, bad = torch.tensor(1.0), torch.tensor(torch.nan)
    for loss, norm, stop, good in ((one, one, 0, 1), (one, one, 0, 2), (one, bad, 1, 2), (one, one, 1, 2)):
        guard.check(loss, norm)
        assert (int(guard.stop), int(guard.good)) == (stop, good)


def test_a_hook_that_comes_later_is_called() -> None:
    calls: list[int] = []
    moved(True, lambda pair, adam: adam.register_step_post_hook(lambda *a: calls.append(1)))
    assert len(calls) == 3


# ---- a run and its resumption


class Counts(torch.optim.Optimizer):
    """Signs, by a rate that falls with a count in the state of a parameter, or of a group."""

    def __init__(self, params: Any, lr: float, where: str) -> None:
        super().__init__(params, {"lr": lr, "k": 0})
        self.where = where

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                own = self.state[p]
                own["k"] = own.get("k", 0) + 1
                p.add_(p.grad.sign(), alpha=-group["lr"] / (own["k"] if self.where == "slot" else group["k"]))


def data(kind: str) -> Any:
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    if kind == "loader":
        own = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(x), batch_size=8, shuffle=True, generator=own)
    return pv.load_data(x, binarize="none")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tensor", {"optimizer": lambda p, lr: Counts(p, lr, "slot")}),
        ("tensor", {"optimizer": lambda p, lr: Counts(p, lr, "group")}),
        ("loader", {}),
        ("tensor", {"objective": "analytic_kl", "capture": True}),
        ("tensor", {"objective": pyro.infer.TraceMeanField_ELBO(), "capture": True}),
    ],
    ids=["count of a parameter", "count of a group", "loader with a generator", "analytic_kl", "Pyro's analytic_kl"],
)
def test_a_resumed_run_is_the_whole_one(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    def run(folder: str, epochs: int, **more: Any) -> Tensor:
        torch.manual_seed(3)
        pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
        given = {"batch_size": 7, "lr": 1e-2, **options, **more}
        pv.fit(pair, data(kind), epochs=epochs, run_dir=tmp_path / folder, progress=False, device="cpu", **given)
        return torch.cat([p.detach().flatten() for p in pair.parameters()])

    whole = run("whole", 4)
    run("cut", 2)
    assert torch.equal(run("cut", 4, resume=True), whole)


def test_a_run_that_is_resumed_keeps_its_graphs_or_says_no(tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> None:
        pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
        pv.fit(pair, data("tensor"), epochs=epochs, run_dir=tmp_path, progress=False, device="cpu", **options)

    run(1, capture=True)
    with pytest.raises(RunError, match="capture=False: the run that you resume was captured"):
        run(2, capture=False, resume=True)
    run(2, resume=True)
    assert json.loads((tmp_path / "train_state.json").read_text())["captured"] == "all"


def test_frozen_parameters_stay_where_they_are_in_shards() -> None:
    torch.manual_seed(3)
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    kept: list[Tensor] = []

    def freeze(row: Any, pair: pv.Pair) -> None:
        if row["epoch"] == 1:
            pair.guide.requires_grad_(False)  # type: ignore[attr-defined]
            kept.extend(p.detach().clone() for p in pair.guide.parameters())  # type: ignore[attr-defined]

    pv.fit(
        pair, data("tensor"), epochs=3, batch_size=4, progress=False, device="cpu", lr=1e-2, callbacks=[freeze],
        shards=2, capture=False,
    )  # fmt: skip
    for before, now in zip(kept, pair.guide.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(before, now)


def test_bf16_leaves_products_of_other_types_alone() -> None:
    layer, x = nn.Linear(4, 4).bfloat16(), torch.randn(2, 4).bfloat16()
    with products("bf16"):
        assert layer(x).dtype == torch.bfloat16
