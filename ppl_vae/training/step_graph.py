"""Loss and gradients of a step as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.fields import each, filled
from ..common.rng import forked
from ..compile.capture import MOST, Captured
from ..compile.guards import Held, UncapturableError
from ..compile.products import products
from ..objectives.base import Objective
from ..scoring import trace
from ..scoring.param_store import Program, modules_of, own_store
from .step import Guard

_TENSOR = object()  # stands for a tensor among the arguments that a graph is for
_CONSTANTS = (type(None), bool, int, float, str, torch.dtype, torch.device)


class StepGraphs:
    """The graphs of one objective on one pair, one for each kind of arguments.

    Args:
        objective: the loss; its ``beta`` is read at every call.
        programs: the model and the guide.
        guard: checks the loss and the gradient of each step, as part of the graph.
        precision: of matrix products.
        prepare: makes the arguments of both programs from those of a call.
        compiled: False runs the traced graphs operation by operation.
        dtype: of ``beta`` in the graphs, which should be that of the parameters.
    """

    def __init__(
        self, objective: Objective, programs: tuple[Program, Program], guard: Guard, precision: str = "float32",
        prepare: Callable[..., tuple[Any, ...]] | None = None, compiled: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.objective = objective
        self.programs = programs
        self.guard = guard
        self.precision = precision
        self.prepare = prepare
        self.compiled = compiled
        self.modules = modules_of(*programs, *([] if prepare is None else [prepare]))
        self.beta = torch.ones((), dtype=dtype, device=guard.stop.device)
        self._graphs: dict[Any, tuple[Captured, list[Tensor]]] = {}

    def __call__(
        self, params: Sequence[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any], add: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Leave gradients on the parameters; with ``add``, beside those that are there, which the guard does not check.

        Returns:
            The loss, 0-d in nats; the norm of its gradient; the parameters that have one, valid until the next call.

        Raises:
            UncapturableError: at the first call of its kind: the step can't be captured.
        """
        if trace.handled():
            raise UncapturableError("it runs inside a handler of Pyro")
        o = self.objective
        values: list[Any] = []
        form = each(values.append, (tuple(args), dict(kwargs)))  # the structure of the arguments, without their leaves
        live = [p for p in params if p.requires_grad]
        kinds = tuple(map(_kind, values))
        settings = tuple([(k, v) for k, v in vars(o).items() if k != "_beta" and isinstance(v, _CONSTANTS)])
        autocast = [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")]
        key = (kinds, repr(form), add, tuple(map(id, live)), settings, o.bound, *autocast)
        found = self._graphs.get(key)
        if found is None:
            if len(self._graphs) == MOST:
                raise UncapturableError(f"more than {MOST} graphs: its arguments keep changing")
            found = self._graph(values, form, live, add)
        self.beta.fill_(o.beta)
        graph, updated = found
        loss, norm, *grads = graph(*[v for v in values if torch.is_tensor(v)])
        self._graphs[key] = found
        for p, g in zip(updated, grads, strict=True):
            p.grad = p.grad.add_(g) if p.grad is not None else g.clone() if add else g
        return (loss.clone() if loss.is_cuda else loss), norm, updated  # a CUDA graph overwrites its last results

    def _graph(self, values: list[Any], form: Any, params: list[Tensor], add: bool) -> tuple[Captured, list[Tensor]]:
        """A function of the tensors among the arguments: loss, norm of the gradient, gradients."""
        if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in params):
            raise UncapturableError("a parameter has a hook on its accumulated gradient")
        self._validate(*filled(form, iter(values)))
        constants = [_TENSOR if torch.is_tensor(v) else v for v in values]
        updated: list[Tensor] = []

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            args, kwargs = filled(form, iter([next(given) if v is _TENSOR else v for v in constants]))
            was, self.objective.beta = self.objective.beta, self.beta
            try:
                with torch.enable_grad(), own_store(), pyro.validation_enabled(False), products(self.precision):
                    if self.prepare is not None:
                        args, kwargs = self.prepare(*args, **kwargs), {}
                    loss = self.objective.differentiable_loss(*self.programs, *args, **kwargs)
                    found = torch.autograd.grad(loss, params, allow_unused=True)
            finally:
                self.objective.beta = was
            loss = loss.detach()
            updated[:] = [p for p, g in zip(params, found, strict=True) if g is not None]
            grads = _unshared([_in_layout(g, p) for p, g in zip(params, found, strict=True) if g is not None])
            norm = torch.nn.utils.get_total_norm(grads)
            if not add:
                self.guard.check(loss, norm)
            return loss, norm, *grads

        return Captured(run, self.compiled, self.modules), updated

    def _validate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a pair that the objective can't train; leaves noise and tensors as they were."""
        if type(self.objective).validate is Objective.validate:
            return
        held = Held(readable=True)
        try:
            with forked(self.guard.stop.device), held, own_store(), pyro.validation_enabled(False):
                self.objective.validate(*self.programs, *(self.prepare(*args, **kwargs) if self.prepare else args))
        finally:
            held.give_back()


def _kind(value: Any) -> tuple[Any, ...]:
    """The part of a graph's key that an argument gives: the form of a tensor, the value of a constant."""
    if torch.is_tensor(value):
        return value.shape, value.stride(), value.dtype
    if not isinstance(value, _CONSTANTS):
        raise UncapturableError(f"among its arguments are neither tensors nor constants: {type(value).__name__}")
    return type(value), value


def _unshared(gradients: list[Tensor]) -> list[Tensor]:
    """Gradients that share no memory: two parameters of a sum have one gradient, which would be clipped twice."""
    seen: set[int] = set()
    return [g.clone() if id(g) in seen or seen.add(id(g)) else g for g in gradients]  # type: ignore[func-returns-value]


def _in_layout(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in the memory layout of its parameter: fused optimisers read both as flat arrays."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)
