"""What promises to move nothing: buffers of modules in training mode come out as the same tensors, unchanged."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.common.numbers import plain
from ppl_vae.scoring.param_store import unmoved

KINDS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(3),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    "spectral norm, by a hook": lambda: torch.nn.utils.spectral_norm(nn.Linear(3, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", ["module", "method", "partial", "closure"])
def test_buffers_are_left_and_the_graph_can_be_differentiated(kind: str, hold: str) -> None:
    net = nn.Sequential(KINDS[kind](), nn.Linear(3, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p))  # as training would: the power iteration has somewhere to go
    program: Any = {
        "module": net,
        "method": net.forward,
        "partial": functools.partial(lambda net, x: net(x), net),
        "closure": lambda x: net(x),
    }[hold]
    x = torch.randn(5, 3)
    own = dict(net.named_buffers())
    before = {k: v.clone() for k, v in own.items()}
    with unmoved(program):
        inside = net(x)
        moved = [not torch.equal(v, before[k]) for k, v in net.named_buffers()]
    inside.sum().backward()
    assert any(moved)
    now = dict(net.named_buffers())
    assert all(now[k] is own[k] and torch.equal(own[k], before[k]) for k in own)
    assert torch.equal(inside, net(x))  # the same value as outside, which does move them
    assert any(not torch.equal(v, before[k]) for k, v in net.named_buffers())


def test_a_shared_buffer_is_shared_inside_and_an_error_gives_it_back() -> None:
    class Counts(nn.Module):
        def __init__(self, count: Tensor) -> None:
            super().__init__()
            self.register_buffer("count", count)

    one, two = Counts(torch.zeros(())), Counts(torch.zeros(()))
    two.count = one.count
    own = one.count

    def count() -> None:
        with unmoved(one, two):
            one.count += 1
            assert two.count == 1
            two.count = torch.ones(3)
            raise KeyError

    with pytest.raises(KeyError):
        count()
    assert one.count is own
    assert two.count is own
    assert own == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.float64(0.1), 0.1), (np.array(2), 2),
        (np.longdouble(0.5), 0.5), (np.str_("adam"), "adam"), (torch.tensor(2), 2), (torch.tensor(True), True),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5), ((np.int8(1), [np.uint8(2)]), (1, [2])), (None, None),
        ({"a": np.float16(0.5)}, {"a": 0.5}),
    ],
)  # fmt: skip
def test_a_number_of_numpy_or_torch_is_pythons(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)


def test_what_is_no_number_is_left() -> None:
    for value in (np.ones(2), torch.ones(1), object(), nn.Linear(1, 1), len):
        assert plain(value) is value
