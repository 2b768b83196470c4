r"""Intervals of log p(x) from a few annealed chains, and the number of chains that an error needs.

A few annealed weights rarely hold the largest ones. The delta method sees the scatter of those that were drawn, so its
interval is too short, and lies too low. Were log weights normal with variance s^2, then

.. math:: \log p(x) = E[\log w] + s^2 / 2, \qquad
          \log \frac1C \sum_c w_c - \log p(x) \sim \log \frac1C \sum_c e^{s \epsilon_c} - \frac{s^2}{2}

The gap between the estimate and the mean log weight gives s, and the second law the error. (Chains that are stuck skew
log weights to the left, so that their standard deviation would give too large an s.)
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

REPLICATES = 2000
Array = np.ndarray[Any, np.dtype[Any]]
SCALES: Array = np.geomspace(0.01, 30, 48)  # of log weights


def annealed(
    log_px: Tensor, std_error: Tensor, elbo: Tensor, num_chains: int, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    r"""The ends (N,) of the interval of log p(x) from C annealed chains for each example.

    The lower end is that of Student's t with C - 1 degrees of freedom by the delta method, or that of Markov's
    inequality, :math:`\log \hat p - \log(2 / (1 - level))`, which holds whatever the weights. The upper end is that of
    normal log weights, or of Student's t where that is higher.

    Args:
        log_px: the log of the mean weight.
        std_error: its standard error by the delta method.
        elbo: the mean log weight.
        num_chains: C, two or more.
        level: the share of intervals that hold log p(x).

    Source: Krishnamoorthy, Mathew: Inferences on the Means of Lognormal Distributions Using Generalized p-values and
    Generalized Confidence Intervals, 2003, for normal log weights with an unknown variance.

    Example:
        >>> log_w = torch.tensor([[0.0], [-1.0], [-2.0], [-4.0]], dtype=torch.float64)
        >>> log_px = log_w.logsumexp(0) - math.log(4)
        >>> low, high = annealed(log_px, 0.5 * torch.ones(1), log_w.mean(0), 4)
        >>> bool(high - log_px > log_px - low)
        True
    """
    if num_chains < 2:
        nothing = torch.full_like(log_px, math.nan)
        return nothing, nothing
    half = float(stdtrit(num_chains - 1, (1 + level) / 2)) * std_error
    gaps, limits = _normal(num_chains, level)
    lacking = torch.as_tensor(np.interp((log_px - elbo).cpu(), gaps, limits)).to(log_px)
    return log_px - half.clamp(max=math.log(2 / (1 - level))), log_px + torch.maximum(half, lacking)


@functools.lru_cache(maxsize=8)
def _normal(num_chains: int, level: float) -> tuple[Array, Array]:
    """For normal log weights of each of ``SCALES``: their mean gap, and what the log mean weight lacks at most.

    The scale that a gap gives is uncertain, like one of C - 1 degrees of freedom: true ones are drawn around it.
    """
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((REPLICATES, num_chains))
    spread = np.sqrt((num_chains - 1) / rng.chisquare(num_chains - 1, REPLICATES))

    def log_mean(scale: Array) -> Array:
        log_w = scale[:, None] * noise
        top = log_w.max(1)
        found: Array = np.log(np.exp(log_w - top[:, None]).mean(1)) + top
        return found

    gaps = [float(log_mean(np.full(REPLICATES, s)).mean()) for s in SCALES]
    errors = [log_mean(s * spread) - (s * spread) ** 2 / 2 for s in SCALES]
    limits = [-float(np.quantile(error, (1 - level) / 2)) for error in errors]
    return np.array([0.0, *gaps]), np.array([0.0, *limits])


def chains_needed(std_error: Tensor, elbo_gap: Tensor, num_chains: int, target: float) -> tuple[Tensor, Tensor]:
    r"""The number of chains (N,) for a standard error of log p(x): at least, and some.

    At least :math:`C (\mathrm{SE} / \mathrm{target})^2`, by the weights that were drawn; some
    :math:`(e^{s^2} - 1) / \mathrm{target}^2`, were log weights normal. That is an estimate and no limit: s^2 is taken
    as twice the gap, which is too little with few chains.

    Args:
        std_error: of C chains, by the delta method.
        elbo_gap: how far the mean log weight lies below the estimate.
        num_chains: C.
        target: the standard error that is wanted, in nats.

    Example:
        >>> low, high = chains_needed(torch.tensor([0.4]), torch.tensor([1.0]), 16, 0.1)
        >>> float(low), float(high)
        (256.0, 639.0)
    """
    least = num_chains * (std_error / target).square()
    most = torch.expm1(2 * elbo_gap.clamp(min=0)) / target**2
    return least.ceil(), torch.maximum(least, most).ceil()
