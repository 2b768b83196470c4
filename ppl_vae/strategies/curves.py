"""The validation ELBO of a run while it is trained, against what training costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..common.errors import UserError
from .statistics import Array

AXES = ("steps", "seconds", "epochs", "decoder_evaluations")


def curve(result: Mapping[str, Any], against: str = "steps") -> tuple[Array, Array] | None:
    """Where each epoch of a run ends on an axis, and the validation ELBO there, nats; None where the run has none.

    Raises:
        UserError: another axis.
    """
    if against not in AXES:
        raise UserError(f"against={against!r}: choose one of {', '.join(AXES)}")
    rows = [row for row in result["history"] if row.get("valid_elbo") is not None]
    key = {"seconds": "train_seconds", "epochs": "epoch"}.get(against, "step")
    if not rows or key not in rows[0]:
        return None
    places = np.array([row[key] for row in rows], dtype=float)
    if against == "decoder_evaluations":
        places *= result["decoder_evaluations"] / result["steps"]
    return places, np.array([row["valid_elbo"] for row in rows])


def first(places: Array, bounds: Array, level: float) -> float:
    """Where a curve first reaches a level, on the straight line between two epochs; infinite where it does not.

    Example:
        >>> first(np.array([1.0, 2.0, 3.0]), np.array([-9.0, -5.0, -6.0]), -7.0)
        1.5
    """
    reached = np.flatnonzero(bounds >= level)
    if not len(reached):
        return math.inf
    i = int(reached[0])
    both = slice(max(0, i - 1), i + 1)
    return float(np.interp(level, bounds[both], places[both]))
