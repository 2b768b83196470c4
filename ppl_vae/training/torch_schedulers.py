"""Schedulers of ``torch.optim`` in place of a schedule: made on the optimiser, stepped, and kept as JSON."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ..common.errors import UserError
from ..common.files import first_line
from ..common.numbers import plain


def make(schedule: Any, optimizer: Any) -> LRScheduler | None:
    """A scheduler of ``torch.optim`` on this optimiser; None where ``schedule`` is a function of the share of steps.

    Args:
        schedule: a class of ``torch.optim.lr_scheduler``, a partial of one, a function of the optimiser that returns
            one, or a function of the share of steps.
        optimizer: whose rates it sets.

    Raises:
        UserError: it is none of these, or can't be used here.
    """
    if isinstance(schedule, LRScheduler):
        raise UserError(
            f"schedule: this {type(schedule).__name__} belongs to another optimiser; fit makes its own, so give the "
            f"class or a partial, functools.partial({type(schedule).__name__}, ...)"
        )
    if not callable(schedule):
        raise UserError(f"schedule: a {type(schedule).__name__} is neither a name, a function nor a torch scheduler")
    try:
        float(schedule(0.0))
        return None
    except Exception as error:  # a function of the optimiser, or one that fails
        why = first_line(error)
    if optimizer is None:
        return None
    try:
        made = schedule(optimizer)
    except Exception as error:
        target = schedule.func if isinstance(schedule, functools.partial) else schedule
        what = f"neither a function of the share of steps ({why}) nor of the optimiser ({first_line(error)})"
        if isinstance(target, type):
            what = f"{target.__name__} can't be made: {first_line(error)}"
        raise UserError(f"schedule: {what}") from error
    if not isinstance(made, LRScheduler):
        raise UserError(f"schedule: it makes a {type(made).__name__}, not a scheduler of torch.optim.lr_scheduler")
    is_by_step(made)  # refuses mixtures
    if isinstance(made, ReduceLROnPlateau) and made.mode != "min":
        raise UserError("schedule: ReduceLROnPlateau follows a loss, which falls; leave mode at 'min'")
    return made


def is_by_step(scheduler: LRScheduler) -> bool:
    """Whether torch steps a scheduler after each batch, not after each epoch.

    Raises:
        UserError: it joins some of both kinds, or ReduceLROnPlateau with others.
    """
    inner = list(getattr(scheduler, "_schedulers", ()))
    if any(isinstance(s, ReduceLROnPlateau) for s in inner):
        raise UserError(f"schedule: {type(scheduler).__name__} can't hold ReduceLROnPlateau, which follows a loss")
    kinds = set(map(is_by_step, inner)) if inner else {isinstance(scheduler, OneCycleLR | CyclicLR)}
    if len(kinds) > 1:
        raise UserError(f"schedule: {type(scheduler).__name__} joins schedulers of batches and of epochs; use one kind")
    return kinds.pop()


def advance(scheduler: LRScheduler, loss: float | None = None) -> None:
    """Step a scheduler; ``loss`` is for ReduceLROnPlateau, which waits where it is None.

    Raises:
        UserError: the scheduler refuses, such as one that is made for fewer steps.
    """
    try:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        elif loss is not None:
            scheduler.step(loss)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"schedule: {type(scheduler).__name__} stops: {first_line(error)}") from error


def packed(value: Any) -> Any:
    """The state of a scheduler as JSON holds it, from which :func:`unpacked` restores it, infinities and keys included.

    Raises:
        UserError: it has a value that JSON can't hold.

    Example:
        >>> unpacked(packed({3: (1, float("inf"))}))
        {3: (1, inf)}
    """
    value = plain(value)
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[packed(k), packed(v)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        parts = [packed(v) for v in value]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"schedule: the state of the scheduler holds a {type(value).__name__}, which a run folder can't keep; "
        f"choose another, or leave out run_dir"
    )


def unpacked(value: Any) -> Any:
    """The state that :func:`packed` packed."""
    if isinstance(value, list):
        return [unpacked(v) for v in value]
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    make: Any = {"float": float, "tuple": tuple, "dict": dict, "counter": lambda pairs: Counter(dict(pairs))}[kind]
    return make(held if kind == "float" else map(unpacked, held))
