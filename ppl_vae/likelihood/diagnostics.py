"""Diagnostics of importance weights: the effective sample size and Pareto k."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

EXACT = 1e-3  # nats: weights that differ by more are never called equal, whatever rounding could explain


def ess(log_w: Tensor) -> Tensor:
    r"""Effective sample size of importance weights: (K, B) log weights to (B,), between 1 and K.

    .. math:: (\sum_k w_k)^2 / \sum_k w_k^2

    Source: Kong: A note on importance sampling using standardized weights, 1992.

    Example:
        >>> import torch
        >>> round(float(ess(torch.zeros(50, 1))), 6)
        50.0
    """
    log_w = log_w.double()
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def pareto_khat(log_w: Tensor) -> Tensor:
    """The shape k of a generalised Pareto law fitted to the largest weights: (K, B) log weights to (B,).

    The estimate has finite variance where k < 1/2, and is practical where k is below :func:`khat_threshold`. Where
    all weights are equal to rounding, k is -inf ("exact"); with fewer than five values in the tail it is nan.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry: Pareto Smoothed Importance Sampling, 2015, arXiv:1507.02646.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> log_w = 0.5 * torch.empty(200_000, 1).exponential_(generator=g)  # w = u^-0.5 has k = 0.5
        >>> bool((pareto_khat(log_w) - 0.5).abs() < 0.1)
        True
    """
    num_samples = log_w.shape[0]
    eps = torch.finfo(log_w.dtype).eps
    scores = log_w.double()
    top = torch.topk(scores, min(tail_length(num_samples), num_samples), dim=0).values
    spread = scores.amax(0) - scores.amin(0)
    noise = eps * (1 + scores.abs().amax(0))
    rounding = torch.where(noise < EXACT, (8 * noise).clamp(max=EXACT), -math.inf)
    return fit_khat(top, num_samples, exact=spread <= rounding)


def khat_threshold(num_samples: int) -> float:
    """Below this k, K samples are enough for a reliable estimate: ``min(1 - 1 / log10 K, 0.7)``.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry, 2015, arXiv:1507.02646, section 3.2.4 of the 2022 version.

    Example:
        >>> khat_threshold(1000)
        0.6666666666666667
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


def min_samples(khat: Tensor) -> Tensor:
    r"""The sample size that a Pareto k asks for, below which PSIS is not reliable: (N,) to (N,).

    .. math:: S = 10^{1 / (1 - \max(0, k))}

    Infinite where k >= 1, where the mean weight may not exist; 1 where the estimate is exact; nan where k is.
    Above k = 0.7 the sizes are out of reach in practice: change the proposal instead.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry, 2015, arXiv:1507.02646, section 3.2.4 of the 2022 version.

    Example:
        >>> import torch
        >>> [round(s) for s in min_samples(torch.tensor([-0.2, 0.5, 0.7])).tolist()]
        [10, 100, 2154]
    """
    k = khat.double()
    size = torch.where(k < 1, 10 ** (1 / (1 - k.clamp(0, 1 - 1e-9))), math.inf)
    return torch.where(k == -math.inf, 1.0, torch.where(k.isnan(), math.nan, size))


def tail_length(num_samples: int) -> int:
    """Log weights to keep for the fit: the tail of ``ceil(min(K/5, 3 sqrt K))`` and the cutoff below it."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples))) + 1


class Tail(NamedTuple):
    """Generalised Pareto laws fitted to the largest weights of B data, relative to the largest; (B,) each."""

    khat: Tensor  # nan where there is no fit
    scale: Tensor
    cutoff: Tensor  # log weight
    length: Tensor  # weights above the cutoff


@torch.no_grad()
def fit_tail(top: Tensor, num_samples: int) -> Tail:
    """The fit to the largest log weights (M, B) in float64, in descending order, with the cutoff as the last.

    It has no gradient: weights of a training step can be given as they are.
    """
    khat, scale = torch.full((2, *top.shape[1:]), math.nan, dtype=torch.float64, device=top.device)
    tail = top - torch.where(torch.isfinite(top[0]), top[0], 0.0)
    cutoff = tail[-1].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    lengths = (tail > cutoff).sum(0)  # shorter than M - 1 where weights tie at the cutoff
    if top.shape[0] == tail_length(num_samples) and top.shape[0] > 5:
        for n in torch.unique(lengths).tolist():
            if n > 4:
                for which in torch.nonzero(lengths == n)[:, 0].split(max(1, 2_000_000 // (n * (30 + math.isqrt(n))))):
                    excess = torch.exp(tail[:n, which].flip(0)) - torch.exp(cutoff[which])
                    khat[which], scale[which] = _pareto(excess)
    return Tail(khat, scale, cutoff, lengths)


def fit_khat(top: Tensor, num_samples: int, exact: Tensor) -> Tensor:
    """k from the largest log weights (M, B); -inf where ``exact``."""
    khat = fit_tail(top, num_samples).khat
    return torch.where(exact, -math.inf, khat) if num_samples > 1 else khat


def _pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of a generalised Pareto law: excesses (n, B), ascending, to (B,) each.

    An average over a grid of scales, weighted by profile likelihood; the shape is then pulled towards 1/2 as if by ten
    data. Source: Zhang, Stephens: A New and Efficient Estimation Method for the Generalized Pareto Distribution, 2009.
    """
    n = excess.shape[0]
    size = 30 + math.isqrt(n)
    steps = torch.arange(1, size + 1, dtype=excess.dtype, device=excess.device) - 0.5
    quartile = excess[int(n / 4 + 0.5) - 1]
    grid = (1 - torch.sqrt(size / steps))[:, None] / (3 * quartile) + 1 / excess[-1]  # (size, B)
    shape = torch.log1p(-grid[:, None] * excess).mean(1)
    profile = n * (torch.log(-grid / shape) - shape - 1)
    weight = torch.softmax(profile, 0)
    weight = torch.where(weight >= 10 * torch.finfo(excess.dtype).eps, weight, 0.0)
    best = (grid * weight).sum(0) / weight.sum(0)
    k = torch.log1p(-best * excess).mean(0)
    return (n * k + 5) / (n + 10), -k / best
