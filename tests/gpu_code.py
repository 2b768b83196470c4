"""Every step and every estimate as code for a GPU, made without one; part of ``make test``.

It says what the program would launch, and in which order; not what the numbers or the times would be.
"""

from __future__ import annotations

import re
import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from pairs_under_test import CASES, Case
from test_capture import MATRIX, OBJECTIVES, OWN
from torch import Tensor
from torch.fx import GraphModule

import ppl_vae as pv
from ppl_vae.common.errors import PairError
from ppl_vae.compile import capture
from ppl_vae.compile.decompositions import GPU
from ppl_vae.compile.guards import UncapturableError

pytest.importorskip("triton")
no_gpu = pytest.importorskip("no_gpu", exc_type=ImportError)
if torch.__version__ < "2.14":
    pytest.skip("follows the insides of torch 2.14", allow_module_level=True)

Graph = tuple[GraphModule, list[Tensor]]
DRAW = re.compile(r"\n\s*(?:(buf\d+) = )?(?:torch\.ops\.)?aten\.(\w+)\.?\w*\(")  # a draw in place has no buffer
WAITS = ("_local_scalar_dense", ".item()", ".cpu()", ".tolist()", "nonzero", "synchronize", "device='cpu'")


def graphs_of(run: Any) -> list[Graph]:
    """The graphs that ``run`` would compile on a GPU."""
    found: list[Graph] = []

    def collect(module: GraphModule, inputs: list[Tensor], again: bool = True) -> Any:
        found.append((module, inputs))
        raise UncapturableError("collected")

    collected = mock.patch.object(capture, "compile_graph", collect)
    of_a_gpu = mock.patch.object(capture, "fast", return_value=GPU)
    with collected, of_a_gpu, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run()
    if not found:
        pytest.skip(f"nothing to compile: {[str(one.message) for one in said]}")
    return found


def a_step(case: Case, objective: Any, count: int = 5) -> list[Graph]:
    """The graph of a step of SVI, or none where the objective does not apply."""
    pair, (x, y) = case.build(), case.draw(count)
    adam = torch.optim.Adam(pair.parameters(), fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, objective, capture=True)
    args = (x,) if y is None else (x, y)
    try:
        return graphs_of(lambda: [svi.step(*args) for _ in range(2)])
    except (PairError, pv.UserError):
        pytest.skip("refused: the objective does not apply to this pair")


def an_estimate(case: Case, count: int = 5) -> list[Graph]:
    """The graph of a chunk of samples."""
    pair, (x, y) = case.build(), case.draw(count)
    args = (x,) if y is None else (x, y)
    try:
        return graphs_of(lambda: pv.log_likelihood(pair, *args, num_samples=4, progress=False, capture=True))
    except (PairError, pv.UserError):
        pytest.skip("refused: no likelihood of this pair by importance sampling")


def draws_of(module: GraphModule) -> list[str]:
    """The operations that take noise, in the order of the program."""
    calls = [n.target for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return [str(t).split(".")[1].rstrip("_") for t in calls if torch.Tag.nondeterministic_seeded in t.tags]


def holds(graph: Graph) -> None:
    """The laws of a GPU's code."""
    module, inputs = graph
    asked = draws_of(module)
    code = no_gpu.code_of(module, inputs)
    drawn = [(buffer, name.removesuffix("_functional").rstrip("_")) for buffer, name in DRAW.findall(code.program)]
    drawn = [(buffer, name) for buffer, name in drawn if name in asked]
    # lowered in the order of the graph, each takes the next number; and they are launched in that order
    assert [name for _, name in drawn] == asked
    numbers = [int(buffer.removeprefix("buf")) for buffer, _ in drawn if buffer]
    assert numbers == sorted(numbers)
    # the host never waits, and no kernel whose sums another configuration would round otherwise is chosen by time
    body = code.program.partition("def call(")[2].partition("def get_args(")[0]
    assert [word for word in WAITS if word in body] == []
    assert [k for k in code.kernels if k.reduces and k.configurations > 1] == []
    assert ".run(" in body or "extern_kernels" in body or "torch.ops" in body


STEPS = [(name, loss) for name, loss in MATRIX if loss == "elbo" or name == "vae" or loss in OWN.values()]


@pytest.mark.parametrize(("name", "loss"), STEPS)
def test_a_step(name: str, loss: str) -> None:
    for graph in a_step(CASES[name], OBJECTIVES[loss]()):
        holds(graph)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_estimate(case: Case) -> None:
    for graph in an_estimate(case):
        holds(graph)


@pytest.mark.parametrize("make", [lambda c: a_step(c, pv.IWAE(4)), an_estimate], ids=["step", "estimate"])
def test_the_kernels_compile(make: Any) -> None:
    """For an H100, to its machine code."""
    (graph,) = make(CASES["vae"])
    code = no_gpu.code_of(*graph, binary=True)
    assert len(code.kernels) > 3
    assert all(kernel.size > 1000 for kernel in code.kernels)
