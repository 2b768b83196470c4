"""What stands in for torch's slow functions outside a graph."""

from __future__ import annotations

from collections.abc import Callable

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
    with torch.no_grad(), in_place.in_place(MANY):
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
    x = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0, -0.0, 1e-30]).repeat_interleave(MANY // 6 + 1)
    wanted = function(x)
    with torch.no_grad(), in_place.in_place(MANY):
        torch.testing.assert_close(function(x), wanted, equal_nan=True)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_gradients_are_torchs(function: Function) -> None:
    x = torch.linspace(-30, 30, MANY)
    found = []
    for numbers in (MANY, 1):
        leaf = x.clone().requires_grad_()
        with in_place.in_place(numbers):
            function(leaf).sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_transposed_numbers_and_other_forms() -> None:
    """Another layout keeps its places; another beta, a weight or a mean are torch's own."""
    x = torch.linspace(-30, 30, MANY).reshape(512, -1)
    weight = torch.rand(512, 1)
    with torch.no_grad():
        for function in (
            lambda v: F.softplus(v.T),
            lambda v: F.softplus(v, beta=2.0),
            lambda v: F.binary_cross_entropy_with_logits(v, torch.ones_like(v), weight, reduction="none"),
            lambda v: F.binary_cross_entropy_with_logits(v, torch.ones_like(v)),
        ):
            wanted = function(x)
            with in_place.in_place(MANY):
                torch.testing.assert_close(function(x), wanted, rtol=1e-6, atol=1e-38)


def test_an_estimate_is_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a chunk of samples are many numbers; without the replacements log p(x) is torch's."""
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(700,), latent=3, hidden=(20,), activation="softplus")
    x = torch.rand(2, 700).round()

    def estimate() -> Tensor:
        return pv.log_likelihood(pair, x, num_samples=300, progress=False, capture=False).log_px

    fast = estimate()
    monkeypatch.setattr(in_place, "REPLACEMENTS", {})
    plain = estimate()
    assert not torch.equal(fast, plain)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=0)
