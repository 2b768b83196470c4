"""Medians, quartiles, ratios and slopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple


class Spread(NamedTuple):
    """A median between its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of fewer than three values, the extremes stand for the quartiles."""
    if len(values) < 3:
        return Spread(median(values), min(values), max(values))
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


class Ratio(NamedTuple):
    """How many times as long: the ratio of medians, and the spread of the ratios round by round."""

    medians: float
    paired: Spread


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The seconds of one contender over those of another, whose rounds took turns."""
    pairs = [a / b for a, b in zip(above, below, strict=False)]
    return Ratio(median(above) / median(below), spread(pairs))


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent of growth: the least-squares slope of log seconds on log sizes."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)
