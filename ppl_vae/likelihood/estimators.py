"""Estimators of log p(x): arithmetic on the (K, B) log weights of B examples, in nats and in float64.

Each function gives a value and its standard error. Which side of log p(x) each lies on, and when to use it, stands in
``common/registry.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..common import registry
from ..common.errors import UserError
from .diagnostics import fit_tail, tail_length
from .records import Estimator

Result = tuple[Tensor, Tensor]  # value and standard error, (B,) each


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight, (K, B) to (B,)."""
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def standard_error(values: Tensor) -> Tensor:
    """That of the mean of values (K, B), (B,); nan for one."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


def relative_error(log_w: Tensor) -> Tensor:
    """The standard error of the mean weight over the mean weight, which is that of its log by the delta method."""
    w = torch.exp(log_w - log_w.amax(0).nan_to_num(neginf=0.0))
    return standard_error(w) / w.mean(0)


def elbo(log_w: Tensor) -> Result:
    """The mean log weight: an unbiased estimate of the ELBO, which is below log p(x) by KL(q || p(z|x)).

    Example:
        >>> import torch
        >>> [round(float(v), 3) for v in elbo(torch.tensor([[0.0], [-1.0], [-2.0]]))]
        [-1.0, 0.577]
    """
    log_w = log_w.double()
    return log_w.mean(0), standard_error(log_w)


def log_mean_exp(log_w: Tensor) -> Result:
    r"""The log of the mean weight, :math:`L_K = \log \frac1K \sum_k w_k`: a lower bound in expectation.

    Its bias is about :math:`-\mu_2 / (2 K \mu^2)`, with the mean and the variance of the weights (Nowozin 2018).

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch
        >>> [round(float(v), 3) for v in log_mean_exp(torch.tensor([[0.0], [-1.0], [-2.0]]))]
        [-0.691, 0.516]
    """
    log_w = log_w.double()
    return log_mean(log_w), relative_error(log_w)


def psis(log_w: Tensor) -> Tensor:
    """Pareto-smoothed log weights, (K, B) to (K, B): the largest become the quantiles of the law fitted to them.

    The estimate ``"psis"`` is :func:`smoothed`, the log of their mean.

    None grows above the largest that was drawn. Where there is no fit (K <= 20, or equal weights) nothing changes.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry: Pareto Smoothed Importance Sampling, 2015, arXiv:1507.02646.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> log_w = 2 * torch.randn(1000, 1, generator=g)
        >>> bool(psis(log_w).max() <= log_w.max())
        True
    """
    log_w = log_w.double()
    k = len(log_w)
    top, index = torch.topk(log_w, min(tail_length(k), k), dim=0)
    fit = fit_tail(top, k)
    rank = torch.arange(len(top), dtype=torch.float64, device=log_w.device).unsqueeze(1)  # 0 is the largest
    share = ((fit.length - rank - 0.5) / fit.length.clamp(min=1)).clamp(0, 1)  # of the law below each
    lift = -torch.log1p(-share)
    small = fit.khat.abs() < torch.finfo(torch.float64).eps
    excess = torch.where(small, lift, torch.expm1(fit.khat * lift) / torch.where(small, 1.0, fit.khat)) * fit.scale
    smooth = top[0] + torch.log(excess + torch.exp(fit.cutoff)).clamp(max=0)
    taken = (rank < fit.length) & torch.isfinite(fit.khat) & (fit.scale > 0)
    return log_w.scatter(0, index, torch.where(taken, smooth, top))


def smoothed(log_w: Tensor) -> Result:
    """The log of the mean smoothed weight: less noise than :func:`log_mean_exp` under a heavy tail, and no bound."""
    return log_mean_exp(psis(log_w))


def jackknife(log_w: Tensor, order: int = 1) -> Result:
    r"""The K-sample bound with its bias of order 1/K removed (and of 1/K^2, where ``order`` is 2): no bound.

    .. math:: \mathrm{JVI}_1 = K L_K - (K - 1) \bar L_{K-1}, \qquad
              \mathrm{JVI}_2 = \frac{K^2}{2} L_K - (K-1)^2 \bar L_{K-1} + \frac{(K-2)^2}{2} \bar L_{K-2}

    :math:`\bar L_{K-j}` is the mean over all ways to leave j weights out. The standard error is that of
    :func:`log_mean_exp`, which is the same to leading order. The weights must be independent. Both are nan where zero
    weights leave a bound of minus infinity.

    Args:
        log_w: (K, B), K > order.
        order: 1, or 2, whose cost is K^2.

    Raises:
        UserError: another order, or too few weights.

    Source: Nowozin: Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
    Inference, 2018.

    Example:
        >>> import torch
        >>> [round(float(jackknife(torch.tensor([[0.0], [-1.0], [-2.0]]), j)[0]), 3) for j in (1, 2)]
        [-0.522, -0.508]
    """
    log_w = log_w.double()
    k = len(log_w)
    if order not in (1, 2) or k <= order:
        raise UserError(f"jackknife: order={order} with {k} weights; choose 1 or 2, and give more weights than that")
    whole, one_out = log_mean(log_w), _one_out(log_w).mean(0)
    if order == 1:
        value = k * whole - (k - 1) * one_out
    else:
        two_out = torch.stack([_one_out(torch.cat([log_w[:i], log_w[i + 1 :]])).mean(0) for i in range(k)]).mean(0)
        value = k**2 / 2 * whole - (k - 1) ** 2 * one_out + (k - 2) ** 2 / 2 * two_out
    good = torch.isfinite(value)
    return torch.where(good, value, math.nan), torch.where(good, relative_error(log_w), math.nan)


def _one_out(log_w: Tensor) -> Tensor:
    """L_{K-1} without each weight in turn, (K, B)."""
    k = len(log_w)
    top, largest = log_w.max(0, keepdim=True)
    top = top.nan_to_num(neginf=0.0)
    w = torch.exp(log_w - top)
    rest = torch.log((w.sum(0) - w).clamp(min=0)) + top
    # without the largest weight, the difference would lose what the others hold
    others = torch.logsumexp(log_w.scatter(0, largest, -math.inf), 0, keepdim=True)
    return rest.scatter(0, largest, others) - math.log(k - 1)


def cubo(log_w: Tensor, n: float = 2.0) -> Result:
    r"""The chi-square upper bound, :math:`\mathrm{CUBO}_n = \frac1n \log \mathbb{E}_q[w^n] \ge \log p(x)`, n >= 1.

    The bound holds for the expectation. This estimate of it, from K weights, is biased **downwards** (Jensen), and
    its variance is infinite where Pareto k of the weights is above :math:`1 / (2 n)`: it may then lie below log p(x).

    Source: Dieng, Tran, Ranganath, Paisley, Blei: Variational Inference via Chi Upper Bound Minimization, 2017,
    arXiv:1611.00328.

    Example:
        >>> import torch
        >>> log_w = torch.tensor([[0.0], [-1.0], [-2.0]])
        >>> bool(cubo(log_w)[0] > log_mean_exp(log_w)[0])
        True
    """
    if n < 1:
        raise UserError(f"cubo: n={n} gives no upper bound; give 1 or more")
    value, error = log_mean_exp(n * log_w.double())
    return value / n, error / n


def bootstrap(log_w: Tensor, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> Result:
    """The interval of the log mean weight by resampling the K weights: its lower and upper end, (B,) each.

    Percentiles of the replicates. Like every interval made from the drawn weights, it knows nothing of a tail that
    was not drawn: read it where Pareto k is good.

    Args:
        log_w: (K, B).
        level: the share of replicates inside.
        replicates: how often to resample.
        seed: of the resampling; no global generator moves.

    Source: Efron: Bootstrap Methods: Another Look at the Jackknife, 1979.

    Example:
        >>> import torch
        >>> log_w = torch.tensor([[0.0], [-1.0], [-2.0]] * 30)
        >>> low, high = bootstrap(log_w)
        >>> bool(low < log_mean_exp(log_w)[0] < high)
        True
    """
    if not 0 < level < 1 or replicates < 2:
        raise UserError(f"bootstrap: level={level}, replicates={replicates}; give a share, and at least 2 replicates")
    log_w = log_w.double()
    k = len(log_w)
    top = log_w.amax(0).nan_to_num(neginf=0.0)
    w = torch.exp(log_w - top)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, replicates, 50):  # (50, K) counts at a time
        drawn = torch.randint(k, (min(50, replicates - start), k), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        means.append(counts.to(w.device) @ w / k)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=w.device)
    low, high = torch.quantile(torch.cat(means), ends, dim=0).log() + top
    return low, high


def curve(log_w: Tensor, sizes: Sequence[int]) -> Result:
    """The bound L_k for several k from one set of K weights: (len(sizes), B) values and standard errors.

    L_k is the mean over the K // k disjoint groups of k weights; its error comes from their scatter, and where there
    are fewer than four groups by the delta method.

    Raises:
        UserError: a size below 1 or above K.

    Example:
        >>> import torch
        >>> value, _ = curve(torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)), [1, 10, 100, 1000])
        >>> bool((value.diff(dim=0) > 0).all())
        True
    """
    log_w = log_w.double()
    values, errors = [], []
    for size in sizes:
        groups = len(log_w) // size if size > 0 else 0
        if groups == 0:
            raise UserError(f"curve: no group of {size} weights among {len(log_w)}")
        used = log_w[: groups * size]
        bounds = torch.logsumexp(used.reshape(groups, size, -1), 1) - math.log(size)  # (groups, B)
        values.append(bounds.mean(0))
        scatter = groups >= 4 or (size == 1 and groups > 1)
        errors.append(standard_error(bounds) if scatter else relative_error(used))
    return torch.stack(values), torch.stack(errors)


def _named(name: str, function: Any, **needs: Any) -> Estimator:
    side, use_when = registry.ESTIMATORS[name]
    return Estimator(name, function, side, use_when=use_when, **needs)


ESTIMATORS = {
    one.name: one
    for one in (
        _named("elbo", elbo),
        _named("iwae", log_mean_exp),
        _named("psis", smoothed),
        _named("jvi1", jackknife, independent=True, least=2),
        _named("jvi2", functools.partial(jackknife, order=2), independent=True, least=3, most=1000),
        _named("cubo", cubo),
    )
}
