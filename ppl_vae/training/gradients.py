"""Loss and gradients of an eager step, left on the parameters; those of a captured one are in ``step_graph``."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.errors import PairError
from ..objectives.base import Objective
from ..scoring import trace
from ..scoring.param_store import Program, constants_beside, with_params


def eager(objective: Objective, model: Program, guide: Program, params: list[Tensor], args: Any, kwargs: Any) -> Tensor:
    """Leave the gradients of an objective on known parameters; returns the loss."""
    return _backward(objective.differentiable_loss(model, guide, *args, **kwargs), params)


def stock(
    loss: Any, objective: Objective | None, model: Program, guide: Program, held: list[Tensor] | None, args: Any,
    kwargs: Any,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Leave the gradients of any loss on the parameters that its ``pyro.param`` statements name.

    A plain module has no such statements: its parameters are declared for it.

    Args:
        loss: a ``pyro.infer.ELBO``, run as it is.
        objective: the same as one of ours, which is computed instead; or None.
        model: ``model(*args)``.
        guide: ``guide(*args)``.
        held: the parameters that the optimiser holds; None where it takes those that are found.
        args: of both programs.
        kwargs: of both programs.

    Returns:
        The loss, and the parameters to update.

    Raises:
        PairError: there is no parameter, or one that the optimiser does not hold and would not update.
    """
    programs = with_params(model, "model"), with_params(guide, "guide")
    with trace.captured_params() as found:
        if objective is not None:
            value = objective.differentiable_loss(*programs, *args, **kwargs)
        else:
            with constants_beside(model, *args):
                value = torch.as_tensor(number(loss.loss_and_grads(*programs, *args, **kwargs)), dtype=torch.float64)
    params = [p for p in found if p.requires_grad]
    if not params:
        raise PairError("the pair has no parameter to train: no module with parameters and no pyro.param")
    if held is not None:
        _refuse_missing(params, held)
        params = held
    return (value if objective is None else _backward(value, params)), params


def _backward(loss: Tensor, params: list[Tensor]) -> Tensor:
    if not loss.requires_grad:
        raise PairError("the loss depends on no parameter of the pair, so there is nothing to train")
    live = [p for p in params if p.requires_grad]
    if live:  # only these: nothing would clear the gradients of others
        loss.backward(inputs=live)
    return loss.detach()


def _refuse_missing(params: list[Tensor], held: list[Tensor]) -> None:
    """Refuse a bare ``pyro.param`` that the optimiser does not hold."""
    known = {id(p) for p in held}
    for p in params:
        if id(p) not in known and not isinstance(p, nn.Parameter):
            name = pyro.get_param_store().param_name(p)
            raise PairError(
                f"pyro.param {name!r} is not among the parameters of the optimiser, so it would not change; make it an "
                f"nn.Parameter of a module, or give SVI a callable, functools.partial(torch.optim.Adam, lr=1e-3)"
            )


def number(loss: Any) -> float:
    """A loss as Pyro returns it: a number, a 0-d tensor, or a tuple of these (wake-sleep)."""
    return sum(map(number, loss)) if isinstance(loss, tuple) else float(loss)
