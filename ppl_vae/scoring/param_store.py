"""Where parameters live: those of a module in the module, those of a bare ``pyro.param`` in Pyro's store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..common.errors import PairError
from ..common.fields import leaves

Program = Callable[..., Any]
"""A model or a guide: any callable with Pyro statements inside."""


@contextmanager
def own_store(keep: bool = False) -> Iterator[None]:
    """Run stock Pyro code without leaving anything in Pyro's parameter store.

    A parameter has one home: a module's lives in the module, a bare ``pyro.param`` in the store. Inside, the store
    holds only the bare ones, so a second instance can't overwrite the first one's weights. On the way out it is
    restored; with ``keep``, the bare parameters of the user's program are added.
    """
    store: Any = pyro.get_param_store()
    before = store.get_state()
    store.clear()
    store.set_state(_bare(before))
    try:
        yield
    finally:
        after = _bare(store.get_state()) if keep else None
        store.clear()
        store.set_state(before)
        if after is not None:
            store.set_state(after)


def _bare(state: Any) -> Any:
    params = {name: value for name, value in state["params"].items() if not isinstance(value, nn.Parameter)}
    return {"params": params, "constraints": {name: state["constraints"][name] for name in params}}


def with_params(program: Program, name: str) -> Program:
    """The same program, with the parameters of its module declared to Pyro under ``name``."""
    module = owner(program)
    if module is None:
        return program

    def declared(*args: Any, **kwargs: Any) -> Any:
        for path, parameter in module.named_parameters():
            if parameter.requires_grad:
                pyro.param(f"{name}$$${path}", parameter)
        return program(*args, **kwargs)

    declared.__wrapped__ = program  # type: ignore[attr-defined]
    return declared


def owner(program: Program) -> nn.Module | None:
    """The module whose parameters a program uses: itself, or the object that it is a method of."""
    holder = program if isinstance(program, nn.Module) else getattr(program, "__self__", None)
    return holder if isinstance(holder, nn.Module) else None


def part_of(program: Program, name: str, role: str, objective: str) -> Any:
    """An attribute of a program that an objective needs; a callable declares its parameters where the program does.

    Raises:
        PairError: there is none; names the objective.
    """
    inner = getattr(program, "__wrapped__", program)
    found = getattr(inner, name, None)
    if found is None:
        raise PairError(f"{objective}: {role} has no {name!r}, which this objective calls; use the objective 'elbo'")
    return with_params(found, role) if callable(found) and inner is not program else found


def modules_of(*programs: Any) -> list[nn.Module]:
    """Every module that programs hold: themselves, their objects, and those in a partial or in a closure."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def visit(thing: Any) -> None:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found[id(thing)] = thing
            return
        parts: list[Any] = [getattr(thing, "__self__", None), getattr(thing, "__wrapped__", None)]
        if isinstance(thing, functools.partial):
            parts += [thing.func, *thing.args, *thing.keywords.values()]
        for cell in getattr(thing, "__closure__", None) or ():
            with suppress(ValueError):  # the cell is empty
                parts.append(cell.cell_contents)
        for part in parts:
            if isinstance(part, nn.Module) or callable(part):
                visit(part)

    for program in programs:
        visit(program)
    return list(found.values())


def constants_beside(program: Program, *args: Any) -> Any:
    """A context that makes the constants of a program, ``Normal(0., 1.)``, on the device of its data and parameters.

    Stock priors are written without a device. On a CPU the context is empty.
    """
    given = (leaf for arg in args if arg is not None for leaf in leaves(arg) if torch.is_tensor(leaf))
    held = (p for module in modules_of(program) for p in module.parameters())  # evaluated only where there are no data
    found = next(chain(given, held), None)
    return nullcontext() if found is None or found.device.type == "cpu" else found.device


@contextmanager
def unmoved(*programs: Program) -> Iterator[None]:
    """Run programs in training mode without changing their buffers: running averages, vectors of a power iteration.

    Inside, modules in training mode hold copies of their buffers; on the way out the originals are put back. Nothing is
    copied back, which would invalidate what autograd has saved of a graph made inside.
    """
    modules = {id(m): m for top in modules_of(*programs) for m in top.modules() if m.training and m._buffers}
    before = [(m, dict(m._buffers)) for m in modules.values()]
    copies: dict[int, Tensor] = {}  # one for each tensor: two modules may share a buffer
    try:
        for module, buffers in before:
            for name, value in buffers.items():
                if value is not None and not is_lazy(value):
                    module._buffers[name] = copies.setdefault(id(value), value.clone())
        yield
    finally:
        for module, buffers in before:
            module._buffers.update(buffers)


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    """Stop the gradient at a program's parameters, and nowhere else, while the graph inside is made."""
    held = [p for module in modules_of(program) for p in module.parameters()]
    live = [p for p in (*held, *pyro.get_param_store()._params.values()) if p.requires_grad]
    try:
        for p in live:
            p.requires_grad_(False)
        yield
    finally:
        for p in live:
            p.requires_grad_(True)
