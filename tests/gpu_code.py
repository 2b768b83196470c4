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
from on_device import WAITING
from pairs_under_test import CASES, Case
from test_capture import OWN
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node

import ppl_vae as pv
from ppl_vae.common.errors import PairError
from ppl_vae.common.registry import OBJECTIVES as OBJECTIVE_NAMES
from ppl_vae.compile import capture
from ppl_vae.compile.guards import UncapturableError

pytest.importorskip("triton")
no_gpu = pytest.importorskip("no_gpu", exc_type=ImportError)
if not torch.__version__.startswith("2.14."):
    pytest.skip("follows the insides of torch 2.14", allow_module_level=True)

Graph = tuple[GraphModule, list[Tensor]]
Draws = list[tuple[str, tuple[int, ...]]]  # operations that take noise, and the shapes of what they give
DRAW = re.compile(r"\n\s*(buf\d+) = torch\.ops\.aten\.(\w+)\.\w+\(")
SHAPE = re.compile(r"assert_tensor_metadata\((buf\d+), \(([\d, ]*)\)")
WAITS = ("_local_scalar_dense", "_linalg_check_errors", "nonzero", "synchronize")
UNCAPTURED = {"flow": "the estimate reads a value"}


def graphs_of(run: Any) -> list[Graph]:
    """The graphs that ``run`` would compile on a GPU."""
    found: list[Graph] = []

    def collect(module: GraphModule, inputs: list[Tensor], again: bool = True) -> Any:
        found.append((module, inputs))
        raise UncapturableError("collected")

    collected = mock.patch.object(capture, "compile_graph", collect)
    with collected, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run()
    assert found, [str(one.message) for one in said]
    return found


def a_step(case: Case, objective: Any, count: int = 5) -> list[Graph]:
    """The graph of a step of SVI."""
    pair, (x, y) = case.build(), case.draw(count)
    adam = torch.optim.Adam(pair.parameters(), fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, objective, capture=True)
    args = (x,) if y is None else (x, y)
    try:
        return graphs_of(lambda: [svi.step(*args) for _ in range(2)])
    except (PairError, pv.UserError, NotImplementedError):
        pytest.skip("refused: the objective does not apply to this pair")


def an_estimate(case: Case, count: int = 5) -> list[Graph]:
    """The graph of a chunk of samples."""
    pair, (x, y) = case.build(), case.draw(count)
    args = (x,) if y is None else (x, y)
    try:
        return graphs_of(lambda: pv.log_likelihood(pair, *args, num_samples=4, progress=False, capture=True))
    except (PairError, pv.UserError):
        pytest.skip("refused: no likelihood of this pair by importance sampling")


class Recorder(Interpreter):
    """Runs a graph, on tensors without values, and notes its draws."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.draws: Draws = []

    def run_node(self, n: Node) -> Any:
        out = super().run_node(n)
        draws = isinstance(n.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in n.target.tags
        if draws and isinstance(out, Tensor):  # several results: attention, whose dropout is zero
            self.draws.append((_kind(n.target.name().partition("::")[2].partition(".")[0]), tuple(out.shape)))
        return out


def draws_of(module: GraphModule, inputs: list[Tensor]) -> Draws:
    """The draws of a graph, in the order of the program."""
    recorder = Recorder(module)
    mode = FakeTensorMode()
    with mode:
        recorder.run(*map(mode.from_tensor, inputs))
    return recorder.draws


def drawn_by(program: str, kinds: set[str]) -> Draws:
    """The draws of inductor's program, in the order of their launch."""
    shapes = {buffer: tuple(map(int, filter(str.strip, shape.split(",")))) for buffer, shape in SHAPE.findall(program)}
    return [(_kind(name), shapes[buffer]) for buffer, name in DRAW.findall(program) if _kind(name) in kinds]


def _kind(operation: str) -> str:
    """``normal_`` and ``normal_functional`` are one."""
    return operation.removesuffix("_functional").rstrip("_")


def holds(graph: Graph, name: str) -> None:
    """The laws of a GPU's code for a case."""
    module, inputs = graph
    asked = draws_of(module, inputs)
    code = no_gpu.code_of(module, inputs)
    # by the program's operations, in its order: of two draws of one kind and shape the order can't be told
    assert drawn_by(code.program, {kind for kind, _ in asked}) == asked
    # the host waits for no result, and no kernel that would round its sums otherwise is chosen by time
    body = code.program.partition("def call(")[2].partition("def get_args(")[0]
    assert [word for word in WAITS if word in body] == ["_linalg_check_errors"] * (name in WAITING)
    assert [k for k in code.kernels if k.reduces and k.configurations > 1] == []
    assert ".run(" in body or "extern_kernels" in body or "torch.ops" in body


ALL = ("vae", "binary")  # under every objective that applies; the other pairs under the ELBO, or under what trains them
STEPS = [
    *((name, OWN.get(case.name, "elbo")) for name, case in CASES.items()),
    *((name, loss) for name in ALL for loss in OBJECTIVE_NAMES if loss != "elbo"),
]


@pytest.mark.parametrize(("name", "loss"), STEPS)
def test_a_step(name: str, loss: str) -> None:
    for graph in a_step(CASES[name], loss):
        holds(graph, name)


@pytest.mark.parametrize("name", CASES)
def test_an_estimate(name: str) -> None:
    if why := UNCAPTURED.get(name) or (not CASES[name].latents and "no latent: nothing is drawn"):
        pytest.skip(why)
    for graph in an_estimate(CASES[name]):
        holds(graph, name)


@pytest.mark.parametrize("make", [lambda c: a_step(c, pv.IWAE(4)), an_estimate], ids=["step", "estimate"])
def test_the_kernels_compile(make: Any) -> None:
    """For an H100, to its machine code."""
    (graph,) = make(CASES["vae"])
    code = no_gpu.code_of(*graph, binary=True)
    assert len(code.kernels) > 3
    assert all(kernel.size > 1000 for kernel in code.kernels)
