"""Optimisers of ``fit``: a name, a callable from parameters, or an instance; resolved here. Imports torch when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

OPTIMIZERS: dict[str, str] = {
    # name: class of torch.optim, made with fused=True, so that a step that is not finite is skipped on the device
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "adagrad": "Adagrad",
}


def make(optimizer: Any, params: Sequence[Tensor], lr: float) -> Optimizer:
    """An optimiser of these parameters: a new one, or an instance that holds some of them.

    Raises:
        UserError: it is none, holds other parameters, or is one that ``fit`` can't run.

    Example:
        >>> import torch
        >>> type(make("adam", [torch.zeros(2, requires_grad=True)], 1e-3)).__name__
        'Adam'
    """
    import torch
    from pyro.optim import PyroOptim

    from ..common.files import first_line

    if isinstance(optimizer, str):
        return getattr(torch.optim, OPTIMIZERS[optimizer])(params, lr=lr, fused=True)  # type: ignore[no-any-return]
    made = optimizer
    if not isinstance(made, torch.optim.Optimizer):
        if isinstance(optimizer, PyroOptim) or not callable(optimizer):
            raise UserError(
                f"optimizer: a {type(optimizer).__name__} is neither a name, a torch.optim optimiser, nor a callable "
                f"from parameters to one; write functools.partial(torch.optim.Adam, fused=True), for example"
            )
        try:
            made = optimizer(params, lr=lr)
        except Exception as error:  # whatever a user's function raises
            name = getattr(optimizer, "__name__", type(optimizer).__name__)
            raise UserError(f"optimizer: {name}(params, lr={lr}) fails: {first_line(error)}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise UserError(f"optimizer: it makes a {type(made).__name__}; a torch.optim optimiser is needed")
    if isinstance(made, torch.optim.LBFGS):
        raise UserError("optimizer: LBFGS runs the loss several times a step, which fit does not; use another")
    if made is optimizer and not {id(p) for g in made.param_groups for p in g["params"]} & {id(p) for p in params}:
        raise UserError(f"optimizer: this {type(made).__name__} holds no parameter of the pair; build it from them")
    return made


def record(optimizer: Any, made: Any) -> Any:
    """An optimiser as facts for a configuration: its name; else its factory, its class and its groups."""
    from ..common.identity import describe

    if isinstance(optimizer, str) or made is None:
        return describe(optimizer)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in made.param_groups]
    made_by = "instance" if made is optimizer else optimizer
    described = describe({"made_by": made_by, "class": type(made), "groups": groups})
    return {**described, "sizes": [len(g["params"]) for g in made.param_groups]}
