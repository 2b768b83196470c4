"""What stands in for torch's slow functions outside a graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ppl_vae as pv
from ppl_vae.compile import in_place

Function = Callable[[Tensor], Tensor]
MANY = in_place.PIECE


def cross_entropy(x: Tensor) -> Tensor:
    target = torch.tensor([0.0, 0.3, 1.0], dtype=x.dtype).repeat(x.shape[-1] // 3 + 1)[: x.shape[-1]]
    return F.binary_cross_entropy_with_logits(x, target.expand_as(x), reduction="none")


FUNCTIONS: dict[str, Function] = {"softplus": F.softplus, "log_sigmoid": F.logsigmoid, "cross_entropy": cross_entropy}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("shape", [(MANY + 7,), (3, 5, 20_000), (1, MANY)])
def test_right_to_rounding_in_every_part(function: Function, shape: tuple[int, ...]) -> None:
    """Against torch in double precision: a few roundings of each number."""
    x = torch.linspace(-90, 90, torch.Size(shape).numel()).reshape(shape)
    with torch.no_grad(), in_place._InPlace():
        found = function(x)
        plain = function(x.double())
    assert found.dtype == torch.float32
    assert not torch.equal(found, function(x))
    wanted = function(x.double())
    assert torch.equal(plain, wanted)  # double precision is left alone
    rounding = 4 * torch.finfo(torch.float32).eps * wanted.abs()
    if function is cross_entropy:  # (1 - t) x - log sigmoid(x): its terms cancel, in torch too
        rounding += torch.finfo(torch.float32).eps * x.abs()
    assert bool(((found.double() - wanted).abs() <= rounding + 1e-37).all())


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_at_the_ends_of_the_line(function: Function) -> None:
    ends = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0, -0.0, 1e-30, 1.7])
    x = ends.repeat_interleave(MANY // len(ends) + 1)
    with torch.no_grad(), in_place._InPlace():
        found = function(x)
    torch.testing.assert_close(found, function(x), equal_nan=True)


GRADIENTS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "backward": lambda f, x: torch.autograd.grad(f(leaf := x.clone().requires_grad_()).sum(), leaf)[0],
    "torch.func.grad": lambda f, x: torch.func.grad(lambda v: f(v).sum())(x),
    "torch.func.jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own, by forward mode
@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradients_are_torchs(function: Function, gradient: Callable[[Function, Tensor], Tensor]) -> None:
    """A program may differentiate inside, where the values are replaced too."""
    x = torch.linspace(-30, 30, MANY)
    with in_place._InPlace():
        found = gradient(function, x)
        value = function(x)
    torch.testing.assert_close(found, gradient(function, x), rtol=1e-6, atol=1e-30)
    assert not torch.equal(value, function(x))


def test_transposed_numbers() -> None:
    """Another layout keeps its places."""
    x = torch.linspace(-30, 30, MANY).reshape(512, -1).T
    with in_place._InPlace():
        found = F.softplus(x)
    assert not torch.equal(found, F.softplus(x))
    torch.testing.assert_close(found, F.softplus(x), rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize(
    "function",
    [
        lambda v: F.softplus(v, beta=2.0),
        lambda v: F.binary_cross_entropy_with_logits(
            v, torch.ones_like(v), torch.rand(512, 1).round(), reduction="sum"
        ),
        lambda v: F.binary_cross_entropy_with_logits(v, torch.ones_like(v)),
        lambda v: F.binary_cross_entropy_with_logits(v, torch.ones_like(v).double(), reduction="none"),
        lambda v: F.softplus(v.double()),
    ],
    ids=["another beta", "weights", "their mean", "a target in double precision", "double precision"],
)
def test_other_forms_are_torchs_own(function: Function) -> None:
    x = torch.linspace(-30, 30, MANY).reshape(512, -1)
    torch.manual_seed(0)
    wanted = function(x)
    torch.manual_seed(0)
    with in_place._InPlace():
        found = function(x)
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


def test_a_target_of_whole_numbers_is_refused_as_by_torch() -> None:
    x = torch.zeros(MANY)
    for context in (nullcontext, in_place._InPlace):
        with pytest.raises(RuntimeError, match="can't be cast"), context():
            F.binary_cross_entropy_with_logits(x, torch.ones(MANY, dtype=torch.int64), reduction="none")


def test_what_a_program_compiles_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    whether = torch.distributions.Distribution._validate_args  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", whether)  # torch.compile turns it off
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    softplus = torch.compile(lambda v: F.softplus(v) + 1, backend=backend)
    with torch.no_grad(), in_place._InPlace():
        softplus(torch.zeros(MANY))
    assert len(made) == 1


def test_an_estimate_is_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a chunk of samples are many numbers; by AVX2, where torch is fast, nothing changes."""
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(700,), latent=3, hidden=(20,), activation="softplus")
    x = torch.rand(2, 700).round()

    def estimate() -> Tensor:
        return pv.log_likelihood(pair, x, num_samples=300, progress=False, capture=False).log_px

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    fast = estimate()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    plain = estimate()
    assert not torch.equal(fast, plain)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=0)
