"""What moves while a fit runs: the learning rate of each group, and the weight of the KL term."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ..common.errors import UserError
from ..common.files import first_line
from ..common.numbers import plain
from ..objectives.base import Objective
from . import schedules
from .config import FitConfig


class Rates:
    """The learning rates of an optimiser's groups: each group's own, times the factor of a schedule.

    A rate that is not what was set last was set by a callback, and holds: it is the group's own from then on, over the
    factor of the moment. A torch scheduler sets the rates itself, after each step or each epoch.

    Args:
        optimizer: None where it is made in the first step, of bare ``pyro.param`` values: nothing is scheduled.
        config: the schedule, and the rate that there is without groups.
        num_steps: of the whole fit; None where a loader has no length.

    Example:
        >>> import torch
        >>> adam = torch.optim.Adam([{"params": [torch.zeros(1)], "lr": r} for r in (0.1, 0.0)])
        >>> rates = Rates(adam, FitConfig(schedule="linear"), num_steps=2)
        >>> rates.before_step(1), adam.param_groups[0].update(lr=0.01), rates.before_step(1), rates.last
        (None, None, None, [0.01, 0.0])
    """

    def __init__(self, optimizer: Optimizer | None, config: FitConfig, num_steps: int | None) -> None:
        self.optimizer = optimizer
        for i, group in enumerate(self.groups):
            group["lr"] = plain(group["lr"])  # a schedule writes numbers; those of tensors are taken
            if not isinstance(group["lr"], int | float):
                raise UserError(f"optimizer: the lr of group {i} is a {type(group['lr']).__name__}; give a number")
        self.own = self.read()
        self.last = self.read() or [config.lr]
        self.num_steps = num_steps
        self.schedule: Any = config.schedule
        if isinstance(config.schedule, str):
            self.schedule = schedules.SCHEDULES[config.schedule]
        known = config.schedule == "constant"
        self.scheduler = None if known else torch_scheduler(self.schedule, optimizer)
        self.spans = not known and self.scheduler is None  # a schedule that the length of the fit is part of

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Those of the optimiser, which has others once its state is loaded."""
        return [] if self.optimizer is None else self.optimizer.param_groups

    def read(self) -> list[float]:
        """The rate of each group."""
        return [float(plain(group["lr"])) for group in self.groups]

    def before_step(self, step: int) -> None:
        """Set each group's own rate times the factor of the step."""
        if self.scheduler is not None or not self.groups:
            return
        by = schedules.factor("schedule", self.schedule, step / self.num_steps if self.num_steps else 0.0)
        for i, group in enumerate(self.groups):
            rate = group["lr"]
            if i == len(self.own):  # a group that was added
                self.own.append(float(plain(rate)))
                self.last.append(self.own[i])
            elif rate != self.last[i]:
                self.own[i] = float(plain(rate)) / by if by else float(plain(rate))
            group["lr"] = self.last[i] = self.own[i] * by

    def after_step(self) -> None:
        """Let a torch scheduler of steps set the rates of the next one."""
        if self.scheduler is not None:
            self.last = self.read()
            if by_step(self.scheduler):
                advance(self.scheduler)

    def after_epoch(self, loss: float | None) -> None:
        """Let a torch scheduler of epochs set the rates of the next one; ``loss`` is for one that follows it."""
        if self.scheduler is not None and not by_step(self.scheduler):
            advance(self.scheduler, loss)

    def state(self) -> dict[str, Any]:
        """What resuming needs, for JSON."""
        kept = {} if not self.groups else {"own_lr": list(self.own), "last_lr": list(self.last)}
        scheduler = None if self.scheduler is None else packed(self.scheduler.state_dict())
        return {**kept, "scheduler": scheduler}

    def restore(self, own: list[float] | None, last: list[float] | None, scheduler: Any, lr: float) -> None:
        """Set what :meth:`state` gave; runs of older versions had one rate for all groups."""
        if self.groups:
            self.own = own or [lr] * len(self.groups)
            self.last = last or self.read()
        if self.scheduler is not None and scheduler is not None:
            self.scheduler.load_state_dict(unpacked(scheduler))


class Weight:
    """The objective's own weight of the KL term, times the factor of a step; one that a callback sets is its own.

    A context: on the way out the objective has its own weight.

    Args:
        objective: None for a loss of Pyro, which has no such weight.
        config: the warm-up and the schedule of the weight.
        epoch_steps: steps of an epoch; None where a loader has no length.

    Raises:
        UserError: a warm-up that would not end, or an objective without such a weight.
    """

    def __init__(self, objective: Objective | None, loss: Any, config: FitConfig, epoch_steps: int | None) -> None:
        self.objective = objective
        self.before = None if objective is None else objective.beta
        self.own: float = 1.0 if objective is None else plain(objective.beta)
        self.last: Any = self.before
        self.moved = False
        self.num_steps = None if epoch_steps is None else config.epochs * epoch_steps
        self.warm_steps = math.ceil(config.warmup * (epoch_steps or 0))
        self.schedule = schedules.resolve("beta_schedule", config.beta_schedule, schedules.BETA_SCHEDULES)
        if self.num_steps is not None and self.warm_steps > self.num_steps:
            raise UserError(
                f"warmup={config.warmup} epochs of {config.epochs}: the weight of the KL term would never reach 1, "
                f"which trains another objective; make it shorter, or train longer"
            )
        scheduled = config.beta_schedule != "constant"
        if self.warm_steps or scheduled or self.own != 1:
            what = "warmup" if self.warm_steps else "beta_schedule" if scheduled else "beta"
            if objective is None:
                raise UserError(f"{what}: {type(loss).__name__} has no weight on its KL; use an objective of pv")
            if not objective.weighs:
                raise UserError(f"{what}: the bound is a function of Terms alone; make it one of (Terms, beta)")

    def factor(self, step: int) -> float:
        """The product of the warm-up and the schedule at a step."""
        warm = min(1.0, (step + 1) / self.warm_steps) if self.warm_steps else 1.0
        if self.num_steps is None:
            return warm
        return warm * schedules.factor("beta_schedule", self.schedule, (step + 1) / self.num_steps)

    def read(self) -> float:
        """The objective's own weight: what it was, or what a callback set."""
        if self.objective is not None and self.objective.beta is not self.last:
            self.last = self.objective.beta
            self.own, self.moved = plain(self.last), True
        return self.own

    def before_step(self, step: int) -> None:
        """Set the weight of a step."""
        self.read()
        if self.objective is not None:
            self.objective.beta = self.own * self.factor(step)
            self.last = self.objective.beta

    def restore(self, own: float | None) -> None:
        """Set the own weight of a run that is resumed."""
        if own is not None and self.objective is not None and own != self.own:
            self.objective.beta = own

    def __enter__(self) -> Weight:
        return self

    def __exit__(self, *error: Any) -> None:
        self.read()
        if self.objective is not None:
            self.objective.beta = self.own if self.moved or self.before is None else self.before


def torch_scheduler(schedule: Any, optimizer: Any) -> LRScheduler | None:
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
    by_step(made)
    if isinstance(made, ReduceLROnPlateau) and made.mode != "min":
        raise UserError("schedule: ReduceLROnPlateau follows a loss, which falls; leave mode at 'min'")
    return made


def by_step(made: LRScheduler) -> bool:
    """Whether torch steps a scheduler after each batch, not after each epoch.

    Raises:
        UserError: it joins some of both kinds, or ReduceLROnPlateau with others.
    """
    inner = list(getattr(made, "_schedulers", ()))
    if any(isinstance(s, ReduceLROnPlateau) for s in inner):
        raise UserError(f"schedule: {type(made).__name__} can't hold ReduceLROnPlateau, which follows a loss")
    kinds = set(map(by_step, inner)) if inner else {isinstance(made, OneCycleLR | CyclicLR)}
    if len(kinds) > 1:
        raise UserError(f"schedule: {type(made).__name__} joins schedulers of batches and of epochs; use one kind")
    return kinds.pop()


def advance(made: LRScheduler, loss: float | None = None) -> None:
    """Step a scheduler; ``loss`` is for the one that follows it.

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
    """What :func:`packed` was given."""
    if isinstance(value, list):
        return [unpacked(v) for v in value]
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    make: Any = {"float": float, "tuple": tuple, "dict": dict, "counter": lambda pairs: Counter(dict(pairs))}[kind]
    return make(held if kind == "float" else map(unpacked, held))
