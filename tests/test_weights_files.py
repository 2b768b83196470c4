"""Whatever a module holds: a saved pair comes back to the same bits, tied as it was, or is refused when it is saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.nn.networks import over_batch
from ppl_vae.pairs.base import data_plate
from ppl_vae.priors.standard import StandardNormal
from ppl_vae.runs import state

D = 4


class Model(nn.Module):
    """z ~ N(0, I); x ~ N(net(z), 1)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.prior, self.net = StandardNormal(2), net

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


class Holding(nn.Module):
    """A linear layer, and what ``hold`` puts on the module; ``use`` gives what it adds to the output."""

    def __init__(self, hold: Callable[[nn.Module], None], use: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, D)
        self.use = use
        hold(self)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.linear(z) + self.use(self).to(z.dtype)
        return out


def buffer(make: Callable[[], Tensor], use: Callable[[Tensor], Tensor] = lambda b: b) -> Callable[[], nn.Module]:
    return lambda: Holding(lambda m: m.register_buffer("b", make()), lambda m: use(m.b))


def parameter(make: Callable[[], Tensor], trains: bool = True) -> Callable[[], nn.Module]:
    return lambda: Holding(lambda m: m.register_parameter("b", nn.Parameter(make(), trains)), lambda m: m.b)


def tied() -> nn.Module:
    def hold(m: Any) -> None:
        m.again = nn.Linear(2, D)
        m.again.weight = m.linear.weight

    return Holding(hold, lambda m: m.again.weight.sum(1))


def sharing(second: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Two buffers on one memory."""

    def hold(m: nn.Module) -> None:
        whole = torch.randn(D, D)
        m.register_buffer("whole", whole)
        m.register_buffer("part", second(whole))

    return lambda: Holding(hold, lambda m: m.whole.sum(0) + 3 * m.part.reshape(-1)[:D].float().tanh())


def several(*makes: Callable[[], Tensor]) -> Callable[[], nn.Module]:
    def hold(m: nn.Module) -> None:
        for i, make in enumerate(makes):
            m.register_buffer(f"b{i}", make())

    return lambda: Holding(hold, lambda m: sum(v.double().sum() * 0.1 * (i + 1) for i, v in enumerate(m.buffers())))


def listed() -> nn.Module:
    def hold(m: Any) -> None:
        m.many = nn.ParameterList([torch.randn(D), torch.randn(())])
        m.named = nn.ParameterDict({"a": torch.randn(D)})

    return Holding(hold, lambda m: m.many[0] * m.many[1] + m.named["a"])


KINDS: dict[str, Callable[[], nn.Module]] = {
    "expanded": buffer(lambda: torch.randn(1).expand(D)),
    "expanded in part": buffer(lambda: torch.randn(D, 1).expand(D, 3), lambda b: b.sum(1)),
    "an expanded parameter": parameter(lambda: torch.randn(1).expand(D), trains=False),
    "overlapping": buffer(lambda: torch.randn(D + 1).as_strided((D, 2), (1, 1)), lambda b: b.sum(1)),
    "transposed": buffer(lambda: torch.randn(3, D).T, lambda b: b.sum(1)),
    "a transposed parameter": parameter(lambda: torch.randn(1, D).T[:, 0]),
    "every second": buffer(lambda: torch.randn(2 * D)[::2]),
    "a frozen parameter": parameter(lambda: torch.randn(D), trains=False),
    "0-d": buffer(lambda: torch.randn(())),
    "empty": several(lambda: torch.zeros(0), lambda: torch.zeros(0, 3), lambda: torch.randn(2)),
    "two expanded alike": several(lambda: torch.randn(1).expand(D), lambda: torch.randn(1).expand(D)),
    "bool": buffer(lambda: torch.rand(D) > 0.5),
    "int8": buffer(lambda: torch.arange(D, dtype=torch.int8)),
    "float16 first": several(lambda: torch.randn(D).half(), lambda: torch.randn(D), lambda: torch.arange(3)),
    "bfloat16": several(lambda: torch.randn(D).bfloat16(), lambda: torch.randn(D).double()),
    "complex64": buffer(lambda: torch.randn(D, dtype=torch.complex64).conj(), lambda b: b.imag + b.real),
    "tied": tied,
    "the same tensor twice": sharing(lambda w: w),
    "its transpose": sharing(lambda w: w.T),
    "a row of it": sharing(lambda w: w[1]),
    "its first row": sharing(lambda w: w[0]),
    "its bits": sharing(lambda w: w.view(torch.int32)),
    "lists and dictionaries": listed,
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, D)),
    "weight norm, by a hook": lambda: torch.nn.utils.weight_norm(nn.Linear(2, D)),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(2, D)),
    "orthogonal": lambda: torch.nn.utils.parametrizations.orthogonal(nn.Linear(2, D)),
    "batch norm": lambda: nn.Sequential(nn.Linear(2, D), Flat(nn.BatchNorm1d(D))),
    "lazy": lambda: nn.LazyLinear(D),
}


class Flat(nn.Sequential):
    """Takes any leading batch dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return over_batch(super().forward, x, 1)


def pair_of(kind: str, seed: int = 0) -> pv.Pair:
    torch.manual_seed(seed)
    return pv.Pair(Model(KINDS[kind]()), Guide(nn.Linear(D, 2)), data_shape=(D,))


X = torch.linspace(-1, 1, 3 * D).reshape(3, D)
quiet = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def score(pair: pv.Pair) -> Tensor:
    return pv.log_likelihood(pair, X, num_samples=3, capture=False).log_px


def trained(pair: pv.Pair) -> Tensor:
    pv.fit(pair, X, epochs=1, batch_size=3, lr=0.1, progress=False, device="cpu", capture=False)
    return score(pair)


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_scores_and_trains_as_what_was_saved(kind: str, tmp_path: Path) -> None:
    """Into an instance of other values: bit for bit the same log p(x), and the same again after a step of training."""
    pair, other = pair_of(kind), pair_of(kind, seed=1)
    score(pair)  # what is lazy sees data
    run = pv.save(tmp_path / "run", pair)
    again = pv.load(run, other)
    assert again is other
    wanted = score(pair)
    assert torch.equal(score(again), wanted)
    for (name, a), b in zip(pair.state_dict().items(), again.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, name
        assert a.stride() == b.stride(), name
        assert torch.equal(a, b), name
    assert [k for k, _ in pair.named_parameters()] == [k for k, _ in again.named_parameters()]  # ties are the same
    after = trained(pair.eval())
    assert not torch.equal(after, wanted)
    assert torch.equal(trained(again), after)


@quiet
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("complex64", "its bits")])
def test_a_pair_of_float64_is_loaded_into_one_of_float32(kind: str, tmp_path: Path) -> None:
    """Including names whose tensors shared a place before the instance was converted."""
    pair, other = pair_of(kind), pair_of(kind, seed=1)
    score(pair)
    pair.double()
    again = pv.load(pv.save(tmp_path / "run", pair), other)
    assert torch.equal(score(again), score(pair))
    for (name, a), b in zip(pair.state_dict().items(), again.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_is_resumed_ends_as_one_that_was_not(kind: str, tmp_path: Path) -> None:
    if kind in ("spectral norm", "batch norm"):
        pytest.skip("moves in training mode: see the tests of resuming")
    how: dict[str, Any] = {
        "batch_size": 3, "lr": 0.1, "progress": False, "device": "cpu", "valid": X, "patience": 9, "capture": False,
    }  # fmt: skip
    pair, again = pair_of(kind), pair_of(kind)
    pv.fit(pair, X, epochs=2, run_dir=tmp_path / "whole", **how)
    pv.fit(pair_of(kind), X, epochs=1, run_dir=tmp_path / "parts", **how)
    pv.fit(again, X, epochs=2, run_dir=tmp_path / "parts", resume=True, **how)
    assert torch.equal(score(again), score(pair))
    files = [(tmp_path / f / "weights.safetensors").read_bytes() for f in ("whole", "parts")]
    assert files[0] == files[1]


def test_tied_parameters_stay_one_and_are_kept_once(tmp_path: Path) -> None:
    pair = pair_of("tied")
    again = pv.load(pv.save(tmp_path / "run", pair), pair_of("tied", seed=1))
    assert again.model.net.again.weight is again.model.net.linear.weight
    names = state.state_tensors(pair)
    assert "model.net.linear.weight" in names
    assert "model.net.again.weight" not in names


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"vocabulary": ["a", "b"]}

    def set_extra_state(self, state: Any) -> None:
        pass


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (
        lambda: nn.LazyLinear(D),
        "'model.net.weight' belongs to a lazy layer that was not run on data; run check_pair",
    ),
    "extra state": (lambda: Extra(2, D), "'model.net._extra_state' is a dict, which a module keeps by get_extra_state"),
    "complex128": (buffer(lambda: torch.zeros(D, dtype=torch.complex128)), "'model.net.b' is torch.complex128"),
    "sparse": (buffer(lambda: torch.eye(D).to_sparse()), "'model.net.b' is torch.sparse_coo"),
    "meta": (buffer(lambda: torch.zeros(D, device="meta")), r"'model.net.b' is on no device \(meta\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_file_cannot_hold_is_refused_in_one_line_when_it_is_saved(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(pv.RunError, match=message) as caught:
        pv.save(tmp_path / "run", pv.Pair(Model(make()), Guide(nn.Linear(D, 2))))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_fit_that_cannot_be_kept_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    how: dict[str, Any] = {"epochs": 1, "progress": False, "device": "cpu", "run_dir": tmp_path / "run"}
    with pytest.raises(pv.RunError, match="get_extra_state"):
        pv.fit(pv.Pair(Model(Extra(2, D)), Guide(nn.Linear(D, 2))), X, **how)
    with pytest.raises(pv.UserError, match="JSON"):
        pv.fit(pair_of("tied"), X, record={"note": object()}, **how)
    assert not (tmp_path / "run").exists()
    pv.fit(pair_of("lazy"), X, record={"n": np.int64(3), "sizes": np.array([1, 2])}, **how)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["sizes"] == [1, 2]


def test_numbers_of_another_kind_are_refused(tmp_path: Path) -> None:
    whole, real = (buffer(lambda t=t: t) for t in (torch.arange(D), torch.randn(D)))
    run = pv.save(tmp_path / "run", pv.Pair(Model(real()), Guide(nn.Linear(D, 2))))
    with pytest.raises(pv.RunError, match=r"'model.net.b' is torch.float32, this pair needs torch.int64"):
        pv.load(run, pv.Pair(Model(whole()), Guide(nn.Linear(D, 2))))


def test_what_is_in_no_file_keeps_its_precision(tmp_path: Path) -> None:
    """A float64 buffer that is not persistent, beside float32 parameters."""

    def make() -> nn.Module:
        return Holding(
            lambda m: m.register_buffer("b", torch.full((D,), 1 / 3).double(), persistent=False), lambda m: m.b
        )

    pair, other = (pv.Pair(Model(make()), Guide(nn.Linear(D, 2))) for _ in range(2))
    assert pv.load(pv.save(tmp_path / "run", pair), other).model.net.b.dtype == torch.float64


def test_a_record_of_numpy_numbers_is_json_and_what_is_not_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    run = pv.save(
        tmp_path / "run", pair, n=np.int64(3), on=np.bool_(True), mean=torch.tensor([0.5, 1.0]), path=tmp_path,
        nested={"lr": np.float32(0.5), "sizes": np.array([1, 2])}, loss=torch.tensor(2),
    )  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    found = {k: config[k] for k in ("n", "on", "mean", "nested", "loss")}
    wanted = {"n": 3, "on": True, "mean": [0.5, 1.0], "nested": {"lr": 0.5, "sizes": [1, 2]}, "loss": 2}
    assert found == wanted
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    for bad in (object(), {1, 2}, float("nan"), {"deep": [lambda: None]}):
        with pytest.raises(pv.UserError, match="JSON") as caught:
            pv.save(run, pair, overwrite=True, note=bad)
        assert "\n" not in str(caught.value)
        with pytest.raises(pv.UserError, match="JSON"):
            pv.save(tmp_path / "other", pair, note=bad)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", 3.5, torch.device("cuda:98")], ids=str)
def test_a_device_that_is_not_there_is_one_line(device: Any, tmp_path: Path) -> None:
    run = pv.save(tmp_path / "run", pv.build("vae", data_shape=(4,), latent=2, hidden=(3,)))
    with pytest.raises(pv.UserError, match="device="):
        pv.load(run, device=device)
    assert pv.load(run, device=torch.device("cpu")) is not None


def test_a_run_of_before_is_loaded() -> None:
    """The names and the order of what is kept are those of the files that are there."""
    pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact")
    assert list(state.state_tensors(pair)) == ["model.W", "model.m", "model.log_s"]
    again = copy.deepcopy(pair)
    state.restore_state(again, state.state_tensors(pair), Path("here"))
    assert again.guide.model is again.model
