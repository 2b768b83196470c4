"""Compare pairs on the same data: which difference is real."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import rows
from ..data.lazy import Lazy
from ..data.splits import Split
from ..likelihood.estimate import log_likelihood
from ..likelihood.records import EstimatorLike, ProposalLike
from ..likelihood.result import SIDES, Estimate
from ..scoring.inputs import as_data
from ..scoring.quantity import name_of
from .statistics import against, paired

LEVEL = 0.05  # two-sided, over all pairs of strategies together


@entry_point
def compare(
    pairs: Mapping[str, Any],
    x: Any,
    y: Tensor | None = None,
    *,
    num_samples: int = 5000,
    estimator: EstimatorLike = "iwae",
    proposal: ProposalLike = "guide",
    seed: int = 0,
    progress: bool = False,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> Any:
    r"""Estimate log p(x) under each pair for the same data, and compare example by example.

    .. math:: d_n = \hat{\log p}_{s}(x_n) - \hat{\log p}_{best}(x_n), \qquad
              diff = \bar d, \quad diff\_se = sd(d) / \sqrt N

    The paired error is smaller than that of two means, since what makes an image likely does so under every pair. It
    covers the choice of data and the Monte Carlo noise; it does not cover the training run, of which each pair here
    is a single one. Where a list of pairs is given, runs of one strategy from several seeds, the error covers these
    too, by the mixed model of :func:`ppl_vae.strategies.statistics.paired`.

    ``verdict`` is ``"worse"`` where the difference is significant at 5 %, two-sided, by Student's t, with Bonferroni's
    correction over all pairs of strategies, since the best is chosen after the fact; else ``"cannot tell"``. It is a
    verdict on the estimates, by default the K-sample bounds. Where many data of a row are ``unreliable``, its log p(x)
    may lie well above its bound, and a better proposal could turn the verdict.

    Args:
        pairs: name to pair, or name to an :class:`~ppl_vae.Estimate` made on the same data; or to a list of them, runs
            of the same strategy.
        x: data (N, *shape), at least two; or a split of `load_data`, which brings its labels.
        y: labels (N,), for pairs that take them.
        num_samples: K of each estimate.
        estimator: what is made of the weights, see :func:`~ppl_vae.log_likelihood`.
        proposal: where the draws come from, see :func:`~ppl_vae.log_likelihood`.
        seed: of each estimate.
        progress: show a bar for each pair.
        capture: score by a compiled graph, see :func:`~ppl_vae.log_likelihood`.
        precision: of matrix products.

    Returns:
        xarray.Dataset over ``strategy`` (elbo, elbo_se, log_px, log_px_se, ess, khat, unreliable, diff, diff_se,
        verdict) and, per example, ``log_px_datum`` over (``strategy``, ``datum``), a mean over runs; nats. ``ess`` is
        the smallest and ``khat`` the largest over the data. With lists, ``runs`` counts them, and ``"one run"`` is the
        verdict on what has only one.

    Raises:
        UserError: fewer than two data, or no pair.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pairs = {s: pv.build("linear", data_shape=(5,), latent=2, guide="exact", sigma=float(s)) for s in "12"}
        >>> table = pv.compare(pairs, torch.randn(20, 5), num_samples=20)
        >>> sorted(table.verdict.values.tolist())[0]
        'best'
    """
    if not isinstance(pairs, Mapping):
        raise UserError(f"compare: the pairs are a {type(pairs).__name__}; give a dictionary from name to pair")
    if not pairs:
        raise UserError("compare: no pair was given")
    options: dict[str, Any] = {
        "estimator": estimator, "proposal": proposal, "seed": seed, "progress": progress, "capture": capture,
        "precision": precision,
    }  # fmt: skip
    given = {name: list(some) if isinstance(some, list | tuple) else [some] for name, some in pairs.items()}
    if none := [name for name, several in given.items() if not several]:
        raise UserError(f"compare: {none[0]!r} has no run")
    _refuse_unlike({_quantity(e, x, y, proposal, seed): name for name, several in given.items() for e in several})
    runs: dict[str, list[Estimate]] = {}
    for name, several in given.items():
        runs[name] = [
            e if isinstance(e, Estimate) else log_likelihood(e, x, y, num_samples, **options) for e in several
        ]
        if least := [e for e in runs[name] if len(e) < 2]:
            raise UserError(f"compare: {len(least[0])} data give no error for a mean difference; give at least 2")
    _refuse_unlike({e.name: name for name, some in runs.items() for e in some})
    table = tabulate({name: some[0] for name, some in runs.items()})
    return table if all(len(some) == 1 for some in runs.values()) else _over_runs(table, runs)


def _quantity(given: Any, x: Any, y: Any, proposal: ProposalLike, seed: int) -> str:
    """What a pair estimates. Its first two examples are tried, so that no long work precedes a refusal."""
    if isinstance(given, Estimate):
        return given.name
    found, labels = as_data(given, x, y, seed)
    few, some = found.take(slice(2)) if isinstance(found, Lazy) else (rows(found, slice(2)), labels)
    some = None if some is None else some[:2]
    if proposal == "guide":  # a split says more of its data than its tensors do
        tried: Any = x.limit(2) if isinstance(x, Split) else few
        log_likelihood(given, tried, None if isinstance(x, Split) else some, 2, capture=False)
    return name_of(given, few, some if labels is None else labels)


def _refuse_unlike(names: Mapping[str, str]) -> None:
    """Refuse several quantities, given with the name of a strategy that estimates each."""
    if len(names) > 1:
        found = "; ".join(f"{name} estimates {quantity}" for quantity, name in names.items())
        raise UserError(f"compare: {found}; compare like with like")


def _over_runs(table: Any, runs: Mapping[str, list[Estimate]]) -> Any:
    """The table with the figures of several runs of a strategy in place of its first."""
    log_px = {name: torch.stack([e.log_px for e in some]).numpy() for name, some in runs.items()}
    elbo = {name: torch.stack([e.elbo for e in some]).numpy() for name, some in runs.items()}
    best = max(log_px, key=lambda name: float(log_px[name].mean()))
    found = against(log_px, best, chosen_after=True)
    shown = {"better": "cannot tell", "one seed": "one run"}  # nothing is better than the best
    columns = {
        "log_px": [v.mean() for v in log_px.values()],
        "elbo": [v.mean() for v in elbo.values()],
        "log_px_se": [paired(v).se if len(v) > 1 else v.std(ddof=1) / math.sqrt(v.shape[1]) for v in log_px.values()],
        "elbo_se": [paired(v).se if len(v) > 1 else v.std(ddof=1) / math.sqrt(v.shape[1]) for v in elbo.values()],
        "ess": [min(float(e.ess.min()) for e in some) for some in runs.values()],
        "khat": [_largest(torch.cat([e.khat for e in some])) for some in runs.values()],
        "unreliable": [float(torch.cat([e.unreliable for e in some]).double().mean()) for some in runs.values()],
        "diff": [0.0 if name == best else found[name].diff for name in runs],
        "diff_se": [0.0 if name == best else found[name].se for name in runs],
        "verdict": ["best" if n == best else shown.get(found[n].verdict, found[n].verdict) for n in runs],
        "runs": [len(some) for some in runs.values()],
    }
    means = {"log_px_datum": log_px, "elbo_datum": elbo}
    return table.assign(
        {name: ("strategy", np.array(values)) for name, values in columns.items()}
        | {k: (("strategy", "datum"), np.stack([v.mean(0) for v in some.values()])) for k, some in means.items()}
    )


def _largest(khat: Tensor) -> float:
    """The largest k of those that there are: annealed examples have none; NaN where no example has one."""
    some = khat[~khat.isnan()]
    return float(some.max()) if len(some) else math.nan


@np.errstate(invalid="ignore")  # an example of probability zero has an infinite difference
def tabulate(estimates: Mapping[str, Estimate]) -> Any:
    """The table of :func:`compare`, from estimates on the same data."""
    import xarray as xr

    names = list(estimates)
    log_px = torch.stack([estimates[n].log_px for n in names]).numpy()  # (S, N)
    elbo = torch.stack([estimates[n].elbo for n in names]).numpy()
    root = math.sqrt(log_px.shape[1])
    best = int(log_px.mean(1).argmax())
    d = log_px - log_px[best]
    diff, diff_se = d.mean(1), d.std(1, ddof=1) / root
    comparisons = max(1, len(names) * (len(names) - 1) // 2)
    threshold = float(stdtrit(log_px.shape[1] - 1, 1 - LEVEL / (2 * comparisons)))
    significant = (diff + threshold * diff_se < 0) | (np.isneginf(diff) & np.isfinite(log_px[best].mean()))
    verdict = np.where(significant, "worse", "cannot tell").astype(object)
    verdict[best] = "best"
    first = estimates[names[0]]
    columns = {
        "elbo": elbo.mean(1),
        "elbo_se": elbo.std(1, ddof=1) / root,
        "log_px": log_px.mean(1),
        "log_px_se": log_px.std(1, ddof=1) / root,
        "ess": np.array([float(estimates[n].ess.min()) for n in names]),
        "khat": np.array([_largest(estimates[n].khat) for n in names]),
        "unreliable": np.array([float(estimates[n].unreliable.double().mean()) for n in names]),
        "diff": diff,
        "diff_se": diff_se,
        "verdict": verdict.astype(str),
    }
    table = xr.Dataset(
        {k: ("strategy", v) for k, v in columns.items()}
        | {"log_px_datum": (("strategy", "datum"), log_px), "elbo_datum": (("strategy", "datum"), elbo)},
        coords={"strategy": names, "datum": np.arange(log_px.shape[1])},
        attrs={
            "num_samples": first.num_samples,
            "seed": first.seed,
            "quantity": first.name,
            "estimator": ", ".join(dict.fromkeys(e.estimator for e in estimates.values())),
            "bound": f"log_px is {', '.join(dict.fromkeys(SIDES[e.bound] for e in estimates.values()))}",
            "units": "nats",
        },
    )
    for name in ("elbo", "log_px", "diff"):
        table[name].attrs["units"] = "nats"
    return table
