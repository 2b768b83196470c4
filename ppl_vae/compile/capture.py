"""A computation as a graph: traced once for each shape, compiled, and run on the present values of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ..common.errors import UserError
from ..common.memory import keep_freed, uncollected
from ..common.rng import forked
from .guards import Attributes, Held, UncapturableError, reason_of
from .inductor import compile_graph, uninterrupted
from .replay import Replayed

Function = Callable[..., tuple[Tensor, ...]]

MIN_WORK = 6e11  # multiplications from which on compiling saves time
CALL_WORK = 3e7  # multiplications in the time that a graph saves in a call on little data
CUDA_CALL_WORK = 1e8  # the same for a GPU, which waits for Python
MOST = 32  # graphs of one function


class Captured:
    """A function of tensors as a compiled graph, one for each shape of its arguments.

    The graph reads every other tensor that the function uses (parameters, buffers, 0-d settings) where it lives, so a
    value that changes in place counts in the next call. Noise comes from torch's generators, anew in every call and
    the same as in the function itself. Python runs in the first call only: its branches are fixed there. A change
    of an attribute of ``modules`` (a number, a flag, another parameter or child) makes a new graph.

    Args:
        function: takes tensors and returns a tuple of tensors, without gradients.
        compiled: False runs the traced graph as it is, operation by operation.
        modules: those that the function runs; a function that sets their attributes can't be captured.

    Example:
        >>> import torch
        >>> scale = torch.tensor(2.0)
        >>> twice = Captured(lambda x: (x * scale,), compiled=False)
        >>> twice(torch.ones(2)), scale.fill_(3.0), twice(torch.ones(2))
        ((tensor([2., 2.]),), tensor(3.), (tensor([3., 3.]),))
    """

    def __init__(self, function: Function, compiled: bool = True, modules: Iterable[nn.Module] = ()) -> None:
        self.function = function
        self.compiled = compiled
        self.modules = list(modules)
        self.count = 0
        self._graphs: dict[Any, _Graph] = {}
        keep_freed()

    def __call__(self, *args: Tensor) -> tuple[Tensor, ...]:
        """The function's value.

        Raises:
            UncapturableError: at the first call with these shapes, where tracing or compiling fails.
        """
        shapes = (torch.get_num_threads(), *map(_kind, args))  # compiled code is for one number of threads
        graph = self._graphs.get(shapes)
        if graph is None or not graph.fresh():
            graph = self._graphs[shapes] = self._made(args)
        with torch.no_grad():
            return tuple(graph.run(*graph.inputs, *args))

    def _made(self, args: Sequence[Tensor]) -> _Graph:
        self.count += 1
        if self.count > MOST:
            raise UncapturableError(
                f"more than {MOST} graphs: the shapes, or the attributes of its modules, keep changing"
            )
        try:
            with uncollected(), uninterrupted():  # torch swallows some while it imports its compiler
                return _Graph(self.function, args, self.compiled, self.modules)
        except UncapturableError:
            raise
        except Exception as error:  # a user's program may raise anything on a tensor without a value
            raise UncapturableError(reason_of(error)) from error


def chosen(capture: bool | str) -> bool | str:
    """The option ``capture`` as it was given.

    Raises:
        UserError: it is neither True, False nor ``"auto"``.

    Example:
        >>> chosen("auto")
        'auto'
    """
    if not (isinstance(capture, bool) or capture == "auto"):
        raise UserError(f"capture={capture!r}: choose True, False or 'auto'")
    return capture


def worthwhile(calls: int, rows: int, pair: Any, num_dims: int) -> bool:
    """Whether ``calls`` on ``rows`` latents save more time than compiling takes, about ten seconds.

    Counted, not timed, so that a seed gives the same figures every time: a multiplication for each parameter and row,
    a hundred for each number of an example, and for a call at least ``CALL_WORK``. On a GPU calls alone are counted.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(784,), latent=50, hidden=(400,))
        >>> worthwhile(1_000, 128, pair, 784), worthwhile(20_000, 128, pair, 784)
        (False, True)
    """
    if any(p.is_cuda for p in pair.parameters()):
        return calls * CUDA_CALL_WORK >= MIN_WORK
    each = rows * (sum(p.numel() for p in pair.parameters()) + 100 * num_dims)
    return bool(calls * max(each, CALL_WORK) >= MIN_WORK)


@contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Restore the values of tensors on the way out."""
    before = [t.clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for t, was in zip(tensors, before, strict=True):
                t.copy_(was)


def _kind(t: Tensor) -> Any:
    return t.shape, t.stride(), t.dtype, t.device


class _Graph:
    """One traced function: the tensors that it holds, and what runs it on them."""

    def __init__(self, function: Function, args: Sequence[Tensor], compiled: bool, modules: list[nn.Module]) -> None:
        modules = list({id(m): m for top in modules for m in top.modules()}.values())  # children may be added later
        self.attributes = Attributes(modules)
        try:
            module, self.held = trace(function, args)
            changed = self.attributes.changed()
            if changed is not None:
                what = f"the program sets the attribute {changed!r} of a module, which a graph would not"
                raise UncapturableError(what)
            self.inputs = [t.detach() for t in self.held]  # they share memory with what the program holds
            key = (module.code, torch.get_num_threads(), *map(_kind, (*self.inputs, *args)))
            if not (compiled and key in _compiled and _belong(self.held, modules)):  # a known graph is not traced twice
                again, held_again = trace(function, args)
                if module.code != again.code or not all(map(_same, self.held, held_again)):
                    raise UncapturableError(
                        "it does something else at every call (a counter, or noise that is not torch's)"
                    )
        finally:
            self.attributes.give_back()
        if not compiled:
            self.run: Function = module
        else:
            if key not in _compiled:
                run = compile_graph(module, [*self.inputs, *args])
                _prove(run, module, function, self.inputs, args)
                _compiled[key] = run
            self.run = _compiled[key]
            if args and args[0].is_cuda:
                self.run = Replayed(self.run, self.inputs)

    def fresh(self) -> bool:
        """Whether the tensors held still have the memory that the graph reads, and modules the same attributes."""
        for held, read in zip(self.held, self.inputs, strict=True):
            if not held.is_set_to(read):  # moving a module gives it other memory
                return False
        return self.attributes.fresh()


_compiled: dict[Any, Function] = {}  # by the code of the graph: pairs of one architecture share it


def _prove(run: Function, module: GraphModule, function: Function, held: list[Tensor], args: Sequence[Tensor]) -> None:
    """Refuse a compiled graph that gives other numbers than the program; restores noise and tensors.

    The error of a result may be a thousandth of its largest number (0.03 with 16-bit products), or the rounding error
    of the largest number of all results, which is the scale of a gradient that is zero but for rounding.
    """
    device = next((t.device for t in (*args, *held)), torch.device("cpu"))
    results: list[list[Tensor]] = []
    eps = 0.0
    for compute, given in ((function, args), (run, (*held, *args))):
        with torch.no_grad(), forked(device, 0), _kept(held):
            found = compute(*given)
            results.append([r.double().clone() for r in found])
            eps = max([torch.finfo(r.dtype).eps for r in found if r.is_floating_point()], default=0.0)
    tolerance = 0.03 if "float16" in module.code else 1e-3  # bfloat16 too
    floor = 10 * eps * max(map(_largest, results[0]), default=0.0)
    for i, (one, other) in enumerate(zip(*results, strict=True)):
        about = max(tolerance * _largest(one), floor)
        if not torch.allclose(one, other, rtol=tolerance, atol=about, equal_nan=True):
            off = _largest(one - other) / (_largest(one) or 1.0)
            raise UncapturableError(
                f"the compiled graph gives other numbers than the program: result {i + 1} of {len(results[0])} is off "
                f"by {off:.1g} of its largest number"
            )


def _largest(t: Tensor) -> float:
    """The largest finite number, regardless of its sign; 0 where there is none."""
    finite = t[t.isfinite()].abs()
    return float(finite.max()) if len(finite) else 0.0


def _belong(held: list[Tensor], modules: list[nn.Module]) -> bool:
    """Whether all tensors held are parameters or buffers of the modules: Python may have drawn a constant."""
    expected = {id(t) for m in modules for t in (*m._parameters.values(), *m._buffers.values())}
    return all(id(t) in expected for t in held if t.numel())


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))


def trace(function: Function, args: Sequence[Tensor]) -> tuple[GraphModule, list[Tensor]]:
    """The graph of a function, whose first inputs are the tensors that the function holds; nothing is computed.

    Returns:
        A module that takes (*held, *args), and the tensors held.

    Raises:
        UncapturableError: the function reads a value back from the device, or holds what a graph can't.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    device = next((t.device for t in args if t.device.type != "cpu"), torch.device("cpu"))

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:  # the tracer counts the parameters of its function
        return function(*tensors)

    make = make_fx(plain, tracing_mode="fake", _allow_non_fake_inputs=True)
    held = Held()
    try:
        with forked(device), held:
            module = make(*args)
    finally:
        held.give_back()
    return module, _lift(module)


def _lift(module: GraphModule) -> list[Tensor]:
    """Make an input of every tensor that a graph holds: inductor would bake in the values of small ones."""
    graph = module.graph
    first = next(iter(graph.nodes))
    held: list[Tensor] = []
    inputs: dict[int, Any] = {}
    for node in list(graph.nodes):
        node.meta.pop("val", None)  # values of different fake modes
        if node.op != "get_attr":
            continue
        tensor = getattr(module, node.target)
        if not isinstance(tensor, Tensor):
            raise UncapturableError(f"the program holds a {type(tensor).__name__}, which a graph can't")
        if id(tensor) not in inputs:
            with graph.inserting_before(first):
                inputs[id(tensor)] = graph.placeholder(f"held_{len(held)}")
            held.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.erase_node(node)
    graph.lint()
    module.recompile()
    return held
