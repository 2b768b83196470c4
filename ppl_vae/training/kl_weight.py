"""The weight of the KL term, in each step of a fit."""

from __future__ import annotations

import math
from typing import Any

from ..common.errors import UserError
from ..common.numbers import plain
from ..objectives.base import Objective
from . import schedules
from .config import FitConfig


class KLWeight:
    """The weight of the KL term: the base weight of the objective, times the factor of a step.

    A weight that a callback sets is the base weight from then on. A context: leaving it restores the base weight.

    Args:
        objective: None for a loss of Pyro, which has no such weight.
        loss: the loss, for messages.
        config: the warm-up and the schedule of the weight.
        epoch_steps: steps of an epoch; None where a loader has no length.
        num_steps: of the whole fit; None where that is open.

    Raises:
        UserError: a warm-up that would not end, or an objective without such a weight.
    """

    def __init__(
        self, objective: Objective | None, loss: Any, config: FitConfig, epoch_steps: int | None, num_steps: int | None
    ) -> None:
        self.objective = objective
        self.initial = None if objective is None else objective.beta  # which may be a tensor
        self.base: float = 1.0 if objective is None else plain(objective.beta)
        self.last: Any = self.initial
        self.changed = False
        self.num_steps = num_steps
        self.warm_steps = math.ceil(config.warmup * (epoch_steps or 0))
        self.schedule = schedules.resolve("beta_schedule", config.beta_schedule, schedules.BETA_SCHEDULES)
        if self.num_steps is not None and self.warm_steps > self.num_steps:
            length = f"{config.epochs}" if config.steps is None else f"{config.steps} steps"
            raise UserError(
                f"warmup={config.warmup} epochs of {length}: the weight of the KL term would never reach 1, "
                f"which trains another objective; make it shorter, or train longer"
            )
        scheduled = config.beta_schedule != "constant"
        if self.warm_steps or scheduled or self.base != 1:
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
        """The base weight: the initial one, or the last that a callback set."""
        if self.objective is not None and self.objective.beta is not self.last:
            self.last = self.objective.beta
            self.base, self.changed = plain(self.last), True
        return self.base

    def before_step(self, step: int) -> None:
        """Set the weight of a step."""
        self.read()
        if self.objective is not None:
            self.objective.beta = self.base * self.factor(step)
            self.last = self.objective.beta

    def restore(self, base: float | None) -> None:
        """Set the base weight of a run that is resumed."""
        if base is not None and self.objective is not None and base != self.base:
            self.objective.beta = base

    def __enter__(self) -> KLWeight:
        return self

    def __exit__(self, *error: Any) -> None:
        self.read()
        if self.objective is not None:
            self.objective.beta = self.base if self.changed or self.initial is None else self.initial
