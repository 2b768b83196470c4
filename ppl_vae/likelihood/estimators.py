"""Estimators of log p(x): arithmetic on the (K, B) log weights of B data. Each gives a value and its standard error.

All are in nats and in float64. Which side of the truth each lies on stands in the registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common.errors import UserError
from .diagnostics import fit_tail, tail_length

Result = tuple[Tensor, Tensor]  # value and standard error, (B,) each

JVI2_MOST = 1000  # particles: the second order visits every pair of them


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight, (K, B) to (B,)."""
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def relative_error(log_w: Tensor) -> Tensor:
    """The standard error of the mean weight over the mean weight, which is that of its log by the delta method."""
    k = len(log_w)
    if k < 2:
        return torch.full_like(log_w[0], math.nan)
    w = torch.exp(log_w - log_w.amax(0).nan_to_num(neginf=0.0))
    return w.std(0) / math.sqrt(k) / w.mean(0)


def elbo(log_w: Tensor) -> Result:
    """The mean log weight: an unbiased estimate of the ELBO, which is below log p(x) by KL(q || p(z|x)).

    Example:
        >>> import torch
        >>> [round(float(v), 3) for v in elbo(torch.tensor([[0.0], [-1.0], [-2.0]]))]
        [-1.0, 0.577]
    """
    log_w = log_w.double()
    return log_w.mean(0), log_w.std(0) / math.sqrt(len(log_w)) if len(log_w) > 1 else torch.full_like(
        log_w[0], math.nan
    )


def log_mean_exp(log_w: Tensor) -> Result:
    r"""The log of the mean weight, :math:`L_K = \log \frac1K \sum_k w_k`: a lower bound in expectation.

    Its bias is about :math:`-\mu_2 / (2 K \mu^2)`, with the mean and the variance of the weights (Nowozin 2018).

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch
        >>> [round(float(v), 3) for v in iwae(torch.tensor([[0.0], [-1.0], [-2.0]]))]
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
    shape = fit.khat
    small = shape.abs() < torch.finfo(torch.float64).eps
    excess = torch.where(small, lift, torch.expm1(shape * lift) / torch.where(small, 1.0, shape)) * fit.scale
    smooth = top[0] + torch.log(excess + torch.exp(fit.cutoff)).clamp(max=0)
    taken = (rank < fit.length) & torch.isfinite(shape) & (fit.scale > 0)
    return log_w.scatter(0, index, torch.where(taken, smooth, top))


def smoothed(log_w: Tensor) -> Result:
    """The log of the mean smoothed weight: less noise than :func:`iwae` where the tail is heavy, and no bound."""
    better = psis(log_w)
    return log_mean(better), relative_error(better)


def jackknife(log_w: Tensor, order: int = 1) -> Result:
    r"""The K-sample bound with its bias of order 1/K removed (and of 1/K^2, where ``order`` is 2): no bound.

    .. math:: \mathrm{JVI}_1 = K L_K - (K - 1) \bar L_{K-1}, \qquad
              \mathrm{JVI}_2 = \frac{K^2}{2} L_K - (K-1)^2 \bar L_{K-1} + \frac{(K-2)^2}{2} \bar L_{K-2}

    :math:`\bar L_{K-j}` is the mean over all ways to leave j weights out. The standard error is that of
    :func:`iwae`, which is the same to leading order. The weights must be independent.

    Args:
        log_w: (K, B), K > order.
        order: 1, or 2 up to K = 1,000 (its cost is K^2).

    Raises:
        UserError: too few weights, or too many for the second order.

    Source: Nowozin: Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
    Inference, 2018.

    Example:
        >>> import torch
        >>> [round(float(jackknife(torch.tensor([[0.0], [-1.0], [-2.0]]), j)[0]), 3) for j in (1, 2)]
        [-0.522, -0.508]
    """
    log_w = log_w.double()
    k = len(log_w)
    check_jackknife(k, order)
    whole = log_mean(log_w)
    one_out = _one_out(log_w)
    if order == 1:
        return _finite(k * whole - (k - 1) * one_out.mean(0), relative_error(log_w))
    two_out = torch.stack([_one_out(torch.cat([log_w[:i], log_w[i + 1 :]])).mean(0) for i in range(k)]).mean(0)
    value = k**2 / 2 * whole - (k - 1) ** 2 * one_out.mean(0) + (k - 2) ** 2 / 2 * two_out
    return _finite(value, relative_error(log_w))


def _finite(value: Tensor, error: Tensor) -> Result:
    """nan for both where zero weights leave a bound of minus infinity, so that there is no jackknife."""
    good = torch.isfinite(value)
    return torch.where(good, value, math.nan), torch.where(good, error, math.nan)


def check_jackknife(k: int, order: int) -> None:
    """Refuse an order that K weights can't serve."""
    if order not in (1, 2):
        raise UserError(f"jackknife: order={order}; choose 1 or 2")
    if k <= order:
        raise UserError(f"jvi{order} leaves out {order} of the weights, and there are {k}: give more samples")
    if order == 2 and k > JVI2_MOST:
        raise UserError(f"jvi2 visits every pair of weights: give at most {JVI2_MOST} samples (not {k}), or use jvi1")


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
        >>> bool(cubo(torch.tensor([[0.0], [-1.0], [-2.0]]))[0] > iwae(torch.tensor([[0.0], [-1.0], [-2.0]]))[0])
        True
    """
    if n < 1:
        raise UserError(f"cubo: n={n} gives no upper bound; give 1 or more")
    scaled = n * log_w.double()
    return log_mean(scaled) / n, relative_error(scaled) / n


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
        >>> low, high = bootstrap(torch.tensor([[0.0], [-1.0], [-2.0]] * 30))
        >>> bool(low < iwae(torch.tensor([[0.0], [-1.0], [-2.0]]))[0] < high)
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
        rows = min(50, replicates - start)
        drawn = torch.randint(k, (rows, k), generator=generator)
        counts = torch.zeros(rows, k, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
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
        grouped = log_w[: groups * size].reshape(groups, size, -1)
        bounds = torch.logsumexp(grouped, 1) - math.log(size)  # (groups, B)
        values.append(bounds.mean(0))
        scatter = groups >= 4 or (size == 1 and groups > 1)
        errors.append(bounds.std(0) / math.sqrt(groups) if scatter else relative_error(log_w[: groups * size]))
    return torch.stack(values), torch.stack(errors)


STATISTICS: dict[str, Callable[[Tensor], Result]] = {
    "elbo": elbo,
    "iwae": log_mean_exp,
    "psis": smoothed,
    "jvi1": jackknife,
    "jvi2": lambda log_w: jackknife(log_w, 2),
    "cubo": cubo,
}
