"""Schedules: functions of the share of the steps that is done, to a factor. Imports no torch.

A new schedule is a function, and a line of its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..common.errors import UserError

Share = Callable[[float], float]


def constant(done: float) -> float:
    """1 throughout. Use when the length of the fit is open, or a callback sets the rate."""
    return 1.0


def linear(done: float) -> float:
    """From 1 to 0 in a straight line. Use when the number of epochs is fixed: the default choice."""
    return 1.0 - done


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine. Use when most of the fit should run near the full rate."""
    return (1 + math.cos(math.pi * done)) / 2


def burda(done: float) -> float:
    """Eight stages of 3^(i-1) epochs of 3280, at 10^(-(i-1)/7). Use when comparing with Burda et al. 2015.

    Source: Burda et al.: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
    """
    stage = next(i for i in range(8) if done * 3280 < (3 ** (i + 1) - 1) / 2 or i == 7)
    return float(10 ** (-stage / 7))


def cyclic(done: float) -> float:
    """Four cycles, each from 0 to 1 in its first half, then 1. Use when one warm-up leaves latents unused.

    Source: Fu et al.: Cyclical Annealing Schedule, 2019, arXiv:1903.10145, with M = 4 and R = 0.5.
    """
    return min(1.0, 2 * ((4 * done) % 1 or 1.0))


SCHEDULES: dict[str, Share] = {
    # share of all steps that is done, in [0, 1), to a factor on the learning rate
    "constant": constant, "linear": linear, "cosine": cosine, "iwae": burda,
}  # fmt: skip

BETA_SCHEDULES: dict[str, Share] = {
    # share of all steps that is done with this one, in (0, 1], to a factor on the weight of the KL term; ends at 1
    "constant": constant, "cyclic": cyclic,
}  # fmt: skip


def resolve(what: str, schedule: Any, table: Mapping[str, Share]) -> Share:
    """A schedule by its name, or the function itself.

    Raises:
        UserError: it is neither.

    Example:
        >>> resolve("schedule", "cosine", SCHEDULES)(0.5)
        0.5
    """
    found = table.get(schedule) if isinstance(schedule, str) else schedule
    if not callable(found):
        raise UserError(f"{what}: a {type(schedule).__name__} is neither a name nor a function")
    return found


def factor(what: str, schedule: Share, done: float) -> float:
    """The factor of a schedule at a share of steps.

    Raises:
        UserError: it fails there, or gives no finite number of at least 0.

    Example:
        >>> factor("schedule", cosine, 0.5)
        0.5
    """
    try:
        value = float(schedule(done))
    except Exception as error:  # whatever a user's function raises
        from ..common.files import first_line

        raise UserError(f"{what}: the function fails at {done:g} of the steps: {first_line(error)}") from error
    if not 0 <= value < math.inf:
        raise UserError(f"{what}: the factor at {done:g} of the steps is {value:g}; it must be finite and at least 0")
    return value
