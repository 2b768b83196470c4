"""The learning rate of each group of an optimiser, in each step of a fit."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from ..common.errors import UserError
from ..common.numbers import plain
from . import schedules, torch_schedulers
from .config import FitConfig


class Rates:
    """The learning rates of an optimiser's groups: the base rate of each group, times the factor of a schedule.

    A rate other than the last one set here comes from a callback: divided by the current factor, it is the base rate
    from then on. A torch scheduler sets the rates itself, after each step or each epoch.

    Args:
        optimizer: None where the first step makes it, of bare ``pyro.param`` values; then nothing is scheduled.
        config: the schedule, and the rate that the history shows without groups.
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
            group["lr"] = plain(group["lr"])  # a schedule writes numbers, in place of tensors too
            if not isinstance(group["lr"], int | float):
                raise UserError(f"optimizer: the lr of group {i} is a {type(group['lr']).__name__}; give a number")
        self.base = self.read()
        self.last = self.read() or [config.lr]
        self.num_steps = num_steps
        schedule = config.schedule
        self.schedule: Any = schedules.SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        self.scheduler = torch_schedulers.make(self.schedule, optimizer)
        self.needs_length = schedule != "constant" and self.scheduler is None  # the number of steps

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups of the optimiser, which loading its state replaces."""
        return [] if self.optimizer is None else self.optimizer.param_groups

    def read(self) -> list[float]:
        """The rate of each group."""
        return [float(plain(group["lr"])) for group in self.groups]

    def before_step(self, step: int) -> None:
        """Set the rates of a step: base rate times factor."""
        if self.scheduler is not None or not self.groups:
            return
        factor = schedules.factor("schedule", self.schedule, step / self.num_steps if self.num_steps else 0.0)
        for i, group in enumerate(self.groups):
            rate = group["lr"]
            if i == len(self.base):  # a group that was added
                self.base.append(float(plain(rate)))
                self.last.append(self.base[i])
            elif rate != self.last[i]:
                self.base[i] = float(plain(rate)) / (factor or 1.0)
            group["lr"] = self.last[i] = self.base[i] * factor

    def after_step(self) -> None:
        """Step a torch scheduler of steps, which sets the rates of the next one."""
        if self.scheduler is not None:
            self.last = self.read()
            if torch_schedulers.is_by_step(self.scheduler):
                torch_schedulers.advance(self.scheduler)

    def after_epoch(self, loss: float | None) -> None:
        """Step a torch scheduler of epochs, which sets the rates of the next one; ``loss`` is for ReduceLROnPlateau."""
        if self.scheduler is not None and not torch_schedulers.is_by_step(self.scheduler):
            torch_schedulers.advance(self.scheduler, loss)

    def state(self) -> dict[str, Any]:
        """The state for resuming, as JSON holds it."""
        rates = {"own_lr": list(self.base), "last_lr": list(self.last)} if self.groups else {}
        scheduler = None if self.scheduler is None else torch_schedulers.packed(self.scheduler.state_dict())
        return {**rates, "scheduler": scheduler}

    def restore(self, base: list[float] | None, last: list[float] | None, scheduler: Any, lr: float) -> None:
        """Restore what :meth:`state` returned; runs of older versions had one rate for all groups."""
        if self.groups:
            self.base = base or [lr] * len(self.groups)
            self.last = last or self.read()
        if self.scheduler is not None and scheduler is not None:
            self.scheduler.load_state_dict(torch_schedulers.unpacked(scheduler))
