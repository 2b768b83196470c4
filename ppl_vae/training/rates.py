"""What moves while a fit runs: the learning rate of each group, and the weight of the KL term."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ..common.errors import UserError
from ..common.files import first_line
from ..common.numbers import plain
from ..objectives.base import Objective


class Rates:
    """The learning rates of an optimiser's groups: each group's own, times the factor of a schedule.

    A rate that is not what was set last was moved by somebody else, and holds: it is the group's own from then on,
    over the factor of the moment.

    Example:
        >>> import torch
        >>> adam = torch.optim.Adam([{"params": [torch.zeros(1)], "lr": r} for r in (0.1, 0.0)])
        >>> rates = Rates(adam)
        >>> rates.move(0.5), adam.param_groups[0].update(lr=0.01), rates.move(0.5), rates.now()
        (None, None, None, [0.01, 0.0])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = plain(group["lr"])  # a schedule writes numbers; those of tensors are taken
            if not isinstance(group["lr"], int | float):
                raise UserError(f"optimizer: the lr of group {i} is a {type(group['lr']).__name__}; give a number")
        self.own = self.now()
        self.last = self.now()

    def now(self) -> list[float]:
        """The rate of each group."""
        return [float(plain(group["lr"])) for group in self.optimizer.param_groups]

    def look(self) -> None:
        """Take the rates as they are: a torch scheduler sets them."""
        self.last = self.now()

    def move(self, by: float) -> None:
        """Set each group's own rate times the factor ``by``."""
        for i, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if i == len(self.own):  # a group that was added
                self.own.append(float(plain(rate)))
                self.last.append(self.own[i])
            elif rate != self.last[i]:
                self.own[i] = float(plain(rate)) / by if by else float(plain(rate))
            group["lr"] = self.last[i] = self.own[i] * by


class Weight:
    """The objective's own weight of the KL term, times a factor that moves; one that a callback sets is its own."""

    def __init__(self, objective: Objective | None, device: torch.device, dtype: torch.dtype) -> None:
        self.objective = objective
        self.before = None if objective is None else objective.beta
        self.own: float = 1.0 if objective is None else plain(objective.beta)
        self.last: Any = self.before
        self.moved = False
        self.device, self.dtype = device, torch.promote_types(dtype, torch.float32)

    def look(self) -> float:
        """The objective's own weight: what it was, or what a callback set."""
        if self.objective is not None and self.objective.beta is not self.last:
            self.last = self.objective.beta
            self.own, self.moved = plain(self.last), True
        return self.own

    def move(self, by: float) -> None:
        """Set the weight: a number where the factor is 1, else a tensor, whose change makes no other graph."""
        o = self.objective
        self.look()
        if o is None:
            return
        if by == 1:
            o.beta = self.own
        elif torch.is_tensor(self.last) and self.last is not self.before and o.beta is self.last:
            self.last.fill_(self.own * by)
        else:
            o.beta = torch.full((), self.own * by, device=self.device, dtype=self.dtype)
        self.last = o.beta

    def give_back(self) -> None:
        """What the objective had, or what a callback gave it."""
        self.look()
        if self.objective is not None:
            self.objective.beta = self.own if self.moved or self.before is None else self.before


def scheduler(schedule: Any, optimizer: Any) -> LRScheduler | None:
    """A scheduler of ``torch.optim`` on this optimiser; None where ``schedule`` is a function of the share of steps.

    Args:
        schedule: a class of ``torch.optim.lr_scheduler``, a partial of one, a function of the optimiser that returns
            one, or a function of the share of steps.
        optimizer: what it moves.

    Raises:
        UserError: it is none of these, or can't be had here.
    """
    if isinstance(schedule, LRScheduler):
        raise UserError(
            f"schedule: this {type(schedule).__name__} belongs to another optimiser; fit makes its own, so give the "
            f"class or a partial, functools.partial({type(schedule).__name__}, ...)"
        )
    if not callable(schedule):
        raise UserError(f"schedule: a {type(schedule).__name__} is neither a name, a function nor a torch scheduler")
    target = schedule
    while isinstance(target, functools.partial):
        target = target.func
    if not isinstance(target, type):
        try:
            float(schedule(0.0))
            return None
        except Exception as error:  # a function of the optimiser, or one that fails
            why: Exception = error
        if not isinstance(optimizer, Optimizer):
            return None
    try:
        made = schedule(optimizer)
    except Exception as error:
        if isinstance(target, type):
            raise UserError(f"schedule: {target.__name__} can't be made: {first_line(error)}") from error
        raise UserError(
            f"schedule: neither a function of the share of steps ({first_line(why)}) nor of the optimiser "
            f"({first_line(error)})"
        ) from error
    if not isinstance(made, LRScheduler):
        raise UserError(f"schedule: it makes a {type(made).__name__}, not a scheduler of torch.optim.lr_scheduler")
    by_step(made)
    if isinstance(made, ReduceLROnPlateau) and made.mode != "min":
        raise UserError("schedule: ReduceLROnPlateau looks at a loss, the less the better; leave mode at 'min'")
    return made


def by_step(made: LRScheduler) -> bool:
    """Whether torch steps a scheduler after each batch, not after each epoch.

    Raises:
        UserError: it joins some of both kinds, or ReduceLROnPlateau with others.
    """
    inner = list(getattr(made, "_schedulers", ()))
    if any(isinstance(s, ReduceLROnPlateau) for s in inner):
        raise UserError(f"schedule: {type(made).__name__} can't hold ReduceLROnPlateau, which looks at a loss")
    kinds = set(map(by_step, inner)) if inner else {isinstance(made, OneCycleLR | CyclicLR)}
    if len(kinds) > 1:
        raise UserError(f"schedule: {type(made).__name__} joins schedulers of batches and of epochs; use one kind")
    return kinds.pop()


def advance(made: LRScheduler, loss: float | None = None) -> None:
    """Step a scheduler; ``loss`` is for the one that looks at it.

    Raises:
        UserError: the scheduler refuses, such as one that is made for fewer steps.
    """
    try:
        if isinstance(made, ReduceLROnPlateau):
            if loss is not None:
                made.step(loss)
        else:
            made.step()
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"schedule: {type(made).__name__} stops: {first_line(error)}") from error


def packed(value: Any) -> Any:
    """The state of a scheduler as JSON, which :func:`unpacked` makes the same again, infinities and keys included.

    Raises:
        UserError: it holds what JSON can't.

    Example:
        >>> unpacked(packed({3: (1, float("inf"))}))
        {3: (1, inf)}
    """
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [packed(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [packed(v) for v in value]}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[packed(k), packed(v)] for k, v in value.items()]}
    raise UserError(
        f"schedule: the state of the scheduler holds a {type(value).__name__}, which a run folder can't keep; "
        f"choose another, or leave out run_dir"
    )


def unpacked(value: Any) -> Any:
    """What :func:`packed` was given."""
    if isinstance(value, list):
        return [unpacked(v) for v in value]
    if isinstance(value, dict):
        [(kind, held)] = value.items()
        if kind == "float":
            return float(held)
        if kind == "tuple":
            return tuple(unpacked(v) for v in held)
        return (Counter if kind == "counter" else dict)({unpacked(k): unpacked(v) for k, v in held})
    return value
