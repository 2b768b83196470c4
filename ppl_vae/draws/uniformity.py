r"""Whether ranks are uniform: the exact law of their whole empirical distribution, and what it would find.

Of N ranks on 0, ..., L, let :math:`R_j` be how many lie below the cut :math:`c_j`. Where they are uniform,
:math:`R_j \sim \mathrm{Bin}(N, c_j / (L + 1))`. The statistic is the smallest two-sided binomial probability over the
cuts,

.. math:: \gamma = \min_j \; 2 \min\{P(B_j \le R_j),\; P(B_j \ge R_j)\},

and its law is exact: counts between cuts are independent Poisson numbers, given their sum. Its p-value corrects for all
cuts at once, and the counts with a larger statistic are an envelope around the empirical distribution.

Säilynoja, Bürkner, Vehtari: Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit Evaluation
and Multiple Sample Comparison, 2021, arXiv:2103.10522.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, bdtrc, gammaln, ndtr, ndtri, xlogy

CUTS = 100  # at most; more of them cost time and find hardly more
TINY = 1e-9  # a statistic below this has the p-value of Boole's inequality, as one less a probability has no digits
POWER = 0.8  # of what counts as found
Array = np.ndarray[Any, np.dtype[Any]]


def cuts(num_samples: int) -> Array:
    """Where the empirical distribution of ranks on 0, ..., num_samples is looked at: ranks below 1, ..., num_samples.

    Example:
        >>> cuts(3).tolist(), len(cuts(999))
        ([1, 2, 3], 100)
    """
    found: Array = np.unique(np.linspace(1, num_samples, min(num_samples, CUTS)).round().astype(int))
    return found


@functools.lru_cache(maxsize=8)
def _two_sided(num_data: int, num_samples: int) -> Array:
    """The two-sided probability of each count 0, ..., N at each cut, (J, N + 1)."""
    share = cuts(num_samples)[:, None] / (num_samples + 1)
    count = np.arange(num_data + 1)
    at_least = np.concatenate([np.ones_like(share), bdtrc(count[:-1], num_data, share)], 1)
    found: Array = np.minimum(2 * np.minimum(bdtr(count, num_data, share), at_least), 1.0)
    return found


def counts(ranks: Array, num_samples: int) -> Array:
    """How many ranks (N,) lie below each cut, (J,)."""
    return np.searchsorted(np.sort(ranks), cuts(num_samples))


def p_value(ranks: Array, num_samples: int) -> float:
    """The probability that uniform ranks have a statistic as small as these (N,); an upper limit of it below 1e-7.

    Example:
        >>> p_value(np.arange(20), 19), p_value(np.zeros(20), 19) < 1e-20
        (1.0, True)
    """
    found = counts(ranks, num_samples)
    gamma = float(_two_sided(len(ranks), num_samples)[np.arange(len(found)), found].min())
    if gamma < TINY:
        return min(1.0, len(found) * gamma)
    return 1.0 if gamma > 1 - TINY else _leaves(gamma, len(ranks), num_samples)


def _leaves(gamma: float, num_data: int, num_samples: int) -> float:
    """The probability of a statistic of gamma or less."""
    return 1 - _stays(*_limits(gamma, num_data, num_samples), cuts(num_samples) / (num_samples + 1), num_data)


def _limits(gamma: float, num_data: int, num_samples: int) -> tuple[Array, Array]:
    """The smallest and the largest count at each cut whose two-sided probability is above gamma < 1."""
    above = _two_sided(num_data, num_samples) > gamma * (1 + 1e-9)  # equal ones differ by rounding
    return above.argmax(1), num_data - above[:, ::-1].argmax(1)


def _stays(low: Array, high: Array, shares: Array, num_data: int) -> float:
    """The probability that the counts at all cuts lie from low to high, where a share of ranks lies below each."""
    at, mass = 0, np.ones(1)  # mass[i]: of a count of at + i so far
    means = num_data * np.diff(shares, prepend=0.0, append=1.0).clip(min=1e-300)
    for mean, first, last in zip(means, [*low, num_data], [*high, num_data], strict=True):
        mass = np.convolve(mass, _poisson(mean, last - at))[first - at : last - at + 1]
        at = first
    return min(1.0, float(mass[0] / _poisson(num_data, num_data)[-1]))


@functools.lru_cache(maxsize=8)
def envelope(num_data: int, num_samples: int, level: float) -> tuple[Array, Array]:
    """The smallest and the largest count at each cut (J,), within which all stay with a probability of ``level``.

    A p-value is at most 1 - level exactly where a count lies outside.

    Example:
        >>> low, high = envelope(100, 19, 0.95)
        >>> int(low[9]), int(high[9])  # around 50
        (37, 63)
    """
    low, high = math.log((1 - level) / (2 * len(cuts(num_samples)))) - 1, math.log(1 - level) + 1e-6
    for _ in range(30):
        middle = (low + high) / 2
        rare = _leaves(math.exp(middle), num_data, num_samples) <= 1 - level
        low, high = (middle, high) if rare else (low, middle)
    return _limits(math.exp(low), num_data, num_samples)


def power(num_data: int, num_samples: int, level: float, scale: float = 1.0, shift: float = 0.0) -> float:
    """The probability that ranks leave the envelope, where draws have another scale and place than the posterior.

    Args:
        num_data: N.
        num_samples: L.
        level: of the envelope.
        scale: standard deviation of the draws over that of the posterior, both Gaussian.
        shift: mean of the draws less that of the posterior, in standard deviations of the posterior.
    """
    u, below = _below(num_samples)
    exact = shift + scale * u  # where the exact draw is then, in standard deviations of the posterior
    weight = np.exp(-(exact**2) / 2)
    return 1 - _stays(*envelope(num_data, num_samples, level), below @ (weight / weight.sum()), num_data)


@functools.lru_cache(maxsize=8)
def detectable(num_data: int, num_samples: int, level: float) -> dict[str, float]:
    """What is found with 80 % power in one quantity, by its ranks alone.

    Returns:
        ``narrow`` and ``wide``, the standard deviation of the draws over that of the posterior, and ``shift``, in
        standard deviations of the posterior; nan where not even a factor of 20 or a shift of 5 is found.
    """
    of = functools.partial(power, num_data, num_samples, level)
    narrow = _least(lambda size: of(scale=math.exp(-size)), math.log(20))
    wide = _least(lambda size: of(scale=math.exp(size)), math.log(20))
    return {"narrow": math.exp(-narrow), "wide": math.exp(wide), "shift": _least(lambda size: of(shift=size), 5.0)}


def _poisson(mean: float, last: int) -> Array:
    """The probabilities of 0, ..., last."""
    k = np.arange(last + 1)
    found: Array = np.exp(xlogy(k, mean) - mean - gammaln(k + 1))
    return found


@functools.lru_cache(maxsize=8)
def _below(num_samples: int) -> tuple[Array, Array]:
    """Places u of an exact draw in units of the draws (M,), and the probability of a rank below each cut there."""
    u = np.linspace(-8, 8, 1601)
    return u, bdtr(cuts(num_samples)[:, None] - 1, num_samples, ndtr(u))


def _least(power_at: Callable[[float], float], most: float) -> float:
    """The least size of a defect that is found; nan where the largest is not."""
    low, high = 0.0, most
    if power_at(high) < POWER:
        return math.nan
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if power_at(middle) >= POWER else (middle, high)
    return high


@dataclass(frozen=True)
class Shape:
    """How draws differ from the posterior, as far as ranks (N,) on 0, ..., L tell.

    Attributes:
        scale: standard deviation of the draws over that of the posterior.
        shift: median of the draws less that of the posterior, in standard deviations of the draws.
        scale_z: log scale over its standard error.
        shift_z: the shift over its standard error.
    """

    scale: float
    shift: float
    scale_z: float
    shift_z: float


def shape(ranks: Array, num_samples: int) -> Shape:
    """By the quartiles of ranks as normal scores, which the extremes of few draws do not cut off.

    Example:
        >>> even = shape(np.arange(100), 99)
        >>> round(even.scale, 2), abs(round(even.shift, 2))
        (1.0, 0.0)
    """
    low, middle, high = ndtri((np.quantile(ranks, [0.25, 0.5, 0.75], method="hazen") + 0.5) / (num_samples + 1))
    spread = max(float(high - low), 1e-3) / 1.349  # of exact draws, in standard deviations of the draws
    root = math.sqrt(len(ranks))
    # for normal scores the median has a standard error of 1.253, the quartiles' scale of 1.166 over sqrt N
    return Shape(1 / spread, -float(middle), -root * math.log(spread) / 1.166, -root * float(middle) / (1.253 * spread))
