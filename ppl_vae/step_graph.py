"""Loss and gradients of a step as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from .capture import Captured, UncapturableError
from .objectives import Objective
from .precision import products
from .store import Program, modules_of, own_store

_TENSOR = object()  # stands for a tensor among the arguments that a graph is for


class StepGraphs:
    """The graphs of one objective on one pair, one for each kind of arguments and each mode of the modules.

    Args:
        objective: the loss; its ``beta`` is read at every call.
        programs: the model and the guide.
        params: the parameters to differentiate by.
        precision: of matrix products.
        prepare: makes the arguments of both programs from those of a call.
        compiled: False runs the traced graphs operation by operation.
    """

    def __init__(
        self, objective: Objective, programs: tuple[Program, Program], params: list[Tensor], precision: str = "float32",
        prepare: Callable[..., tuple[Any, ...]] | None = None, compiled: bool = True,
    ) -> None:  # fmt: skip
        self.objective = objective
        self.programs = programs
        self.params = params
        self.precision = precision
        self.prepare = prepare
        self.compiled = compiled
        self.modules = [m for program in self.programs for top in modules_of(program) for m in top.modules()]
        self.beta = torch.ones((), device=params[0].device, dtype=params[0].dtype)
        self._graphs: dict[Any, tuple[Captured, list[Tensor]]] = {}

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], add: bool = False) -> tuple[Tensor, Tensor]:
        """Leave gradients on the parameters; return the loss and the norm of its gradient, 0-d in nats.

        With ``add``, add them to those that are there. Without, they are valid until the next call.

        Raises:
            UncapturableError: at the first call of its kind: the step can't be captured.
        """
        values = (*args, *kwargs.values())
        rest = tuple(_TENSOR if torch.is_tensor(v) else v for v in values)
        objective = self.objective
        kind = (objective.num_particles, objective.grad, objective.vectorize, *(m.training for m in self.modules))
        key = (rest, tuple(kwargs), kind)
        try:
            found = self._graphs.get(key)
        except TypeError:
            what = ", ".join(type(v).__name__ for v in rest if v is not _TENSOR)
            raise UncapturableError(f"among its arguments are neither tensors nor constants: {what}") from None
        graph, moved = found or self._graphs.setdefault(key, self._graph(rest, tuple(kwargs)))
        if torch.is_tensor(objective.beta):
            self.beta.copy_(objective.beta)
        else:
            self.beta.fill_(objective.beta)
        loss, norm, *grads = graph(*(v for v in values if torch.is_tensor(v)))
        for p, g in zip(moved, grads, strict=True):
            p.grad = g if not add else g.clone() if p.grad is None else p.grad.add_(g)
        return (loss.clone() if loss.is_cuda else loss), norm  # a CUDA graph writes its results over the last ones

    def _graph(self, rest: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Captured, list[Tensor]]:
        """A function of the tensors among the arguments: loss, norm of the gradient, gradients."""
        moved: list[Tensor] = []

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            values = [next(given) if v is _TENSOR else v for v in rest]
            first = len(rest) - len(names)
            args: tuple[Any, ...] = tuple(values[:first])
            kwargs: dict[str, Any] = dict(zip(names, values[first:], strict=True))
            was, self.objective.beta = self.objective.beta, self.beta
            try:
                with torch.enable_grad(), own_store(), pyro.validation_enabled(False), products(self.precision):
                    if self.prepare is not None:
                        args, kwargs = self.prepare(*args, **kwargs), {}
                    loss = self.objective.differentiable_loss(*self.programs, *args, **kwargs)
                    found = torch.autograd.grad(loss, self.params, allow_unused=True)
            finally:
                self.objective.beta = was
            moved[:] = [p for p, g in zip(self.params, found, strict=True) if g is not None]
            grads = [_laid_out(g, p) for p, g in zip(self.params, found, strict=True) if g is not None]
            return loss.detach(), torch.nn.utils.get_total_norm(grads), *grads

        buffers = list({id(b): b for m in self.modules for b in m.buffers(recurse=False)}.values())
        return Captured(run, self.compiled, buffers), moved


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in the memory layout of its parameter: fused optimisers read both as flat arrays."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)
