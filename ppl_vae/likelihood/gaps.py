"""Where the gap between the ELBO and log p(x) comes from: the encoder, the independence, the Gaussian."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.rng import forked
from ..common.shown import Shown
from ..guides.refined import Refined
from ..scoring.inputs import as_data, device_and_dtype, evaluating, everything, to_device
from ..scoring.kinds import kind, layers
from ..scoring.quantity import refuse_binarised
from ..scoring.trace import call_args, sample_sites, trace_program
from .estimate import log_likelihood
from .refine import refine
from .result import Estimate

NAMES = {
    "amortisation": "one encoder for all examples, not the best of its family for each",
    "independence": "a diagonal Gaussian, not one with every covariance",
    "shape": "a Gaussian, not the posterior",
}

BOUNDS = ("elbo", "elbo_diagonal", "elbo_full", "log_px")
EXAMPLE = "example"


class Gaps(Shown, xr.Dataset):
    """The ELBO of a guide, of the best Gaussians, and log p(x), for each example: an ``xarray.Dataset`` with a table.

    Variables over ``example``, in nats, each with its Monte Carlo error ``*_error``:

    - ``elbo`` of the guide; ``elbo_diagonal`` and ``elbo_full`` of the best diagonal Gaussian and of the best one with
      every covariance; ``elbo_refined``, which of the two is of the guide's family; ``log_px``, the best lower bound;
    - ``amortisation = elbo_refined - elbo``, ``approximation = log_px - elbo_refined``, ``total``, the sum of the two;
    - ``independence`` and ``shape``, the parts of ``approximation``: what a diagonal Gaussian lacks (zero where the
      guide is none), and what a Gaussian lacks;
    - ``unreliable``, whether the diagnostics of ``log_px`` are poor.
    """

    __slots__ = ()

    def table(self) -> list[dict[str, Any]]:
        """One JSON-able dictionary a gap: its mean, both standard errors, and what it is the price of."""
        rows = []
        for name in (*NAMES, "total"):
            gap, errors = self[name].values, self[f"{name}_error"].values
            error = float(np.sqrt(np.square(errors).sum())) / len(gap)
            se = float(gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else None
            mc, price = error if math.isfinite(error) else None, NAMES.get(name, "all of these")
            rows.append({"gap": name, "mean": float(gap.mean()), "se": se, "mc_error": mc, "price_of": price})
        return rows

    def cells(self) -> list[list[str]]:
        """The table as text, its head first."""
        if EXAMPLE not in self.dims or not {*NAMES, "total", "unreliable"} <= {*self.data_vars}:
            return []  # a selection, or what was computed of it
        cells = [["gap", "nats", "SE (data)", "SE (MC)", "the price of"]]
        for r in self.table():
            se, mc = ("-" if r[k] is None else f"{r[k]:.3f}" for k in ("se", "mc_error"))
            cells.append([r["gap"], f"{r['mean']:.3f}", se, mc, r["price_of"]])
        return cells

    def notes(self) -> list[str]:
        """What the gaps are up to."""
        n, bad, about = self.sizes[EXAMPLE], int(self["unreliable"].sum()), self.attrs
        return [
            f"{n} examples; the guide is compared with {about['family']} Gaussians; {about['quantity']} by "
            f"{about['proposal']}, unreliable for {bad} of them"
        ]

    def __str__(self) -> str:
        if not (cells := self.cells()):
            return xr.Dataset.__repr__(self)
        line = "{:<14}{:>9}{:>11}{:>9}  {}"
        return "\n".join([*(line.format(*row) for row in cells), *self.notes()])


@entry_point
def gaps(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 5000,
    *,
    seed: int = 0,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
) -> Gaps:
    r"""Divide the gap of the ELBO among its causes, for each example.

    .. math:: \log p(x) - L[q] = (L[q^*] - L[q]) + (L[q^*_{full}] - L[q^*]) + (\log p(x) - L[q^*_{full}])

    where :math:`q^*` is the best Gaussian for each example: diagonal if every site of the guide is, else with every
    covariance. The first is the amortisation gap (negative where the guide is richer than a Gaussian), the other two
    make up the approximation gap. log p(x) is the K-sample bound under the proposal ``"auto"``.

    Use when a better guide is wanted: a large first gap asks for a larger encoder or for longer training, a large
    second for ``guide="full"``, a large third for a flow.

    Args:
        pair: a pair with continuous latents.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        num_samples: K, of every term.
        seed: of everything.
        progress: show bars.
        resume: a folder for unfinished work, see :func:`~ppl_vae.log_likelihood`.
        capture: compute by a compiled graph, see :func:`~ppl_vae.log_likelihood`.

    Raises:
        PairError: as :func:`~ppl_vae.refine`.
        UserError: the guide was refined.

    Source: Cremer, Li, Duvenaud: Inference Suboptimality in Variational Autoencoders, 2018, arXiv:1801.03558.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> found = pv.gaps(pair, torch.randn(4, 5), num_samples=2000)
        >>> found.sizes["example"], bool(abs(found["shape"].mean()) < 0.1)  # a posterior that is a Gaussian
        (4, True)
    """
    if isinstance(pair.guide, Refined):
        raise UserError("gaps: this guide was refined, and no encoder is behind it; give the pair with its own guide")
    refuse_binarised(pair, x)
    x, y = everything(pair, *as_data(pair, x, y, seed))
    how: dict[str, Any] = {"seed": seed, "progress": progress, "resume": resume, "capture": capture}

    def elbo(guided: Any) -> Estimate:
        return log_likelihood(guided, x, y, num_samples, estimator="elbo", **how)

    fit: dict[str, Any] = {"widen": 1.0, "df": math.inf, "steps": 200, "rounds": 1, **how}
    diagonal, full = (elbo(pair.with_guide(refine(pair, x, y, family=f, **fit))) for f in ("diagonal", "full"))
    family = "diagonal" if is_diagonal(pair, x, y) else "full"
    refined = diagonal if family == "diagonal" else full
    best = log_likelihood(pair, x, y, num_samples, proposal="auto", **how)
    bounds = {"elbo": elbo(pair), "elbo_refined": refined, "elbo_diagonal": diagonal, "elbo_full": full, "log_px": best}
    parts = {
        "amortisation": ("elbo", "elbo_refined"), "independence": ("elbo_refined", "elbo_full"),
        "shape": ("elbo_full", "log_px"), "approximation": ("elbo_refined", "log_px"), "total": ("elbo", "log_px"),
    }  # fmt: skip
    found = {name: (one.log_px, one.std_error) for name, one in bounds.items()}
    found |= {name: _between(bounds[low], bounds[high]) for name, (low, high) in parts.items()}
    columns = {name: (EXAMPLE, value.numpy()) for name, (value, _) in found.items()}
    columns |= {f"{name}_error": (EXAMPLE, error.numpy()) for name, (_, error) in found.items()}
    columns["unreliable"] = (EXAMPLE, best.unreliable.numpy())
    attrs: dict[str, Any] = {"units": "nats", "family": family, "quantity": best.name, "proposal": best.proposal}
    attrs |= {"num_samples": num_samples, "seed": seed}
    return Gaps(columns, {EXAMPLE: np.arange(len(best))}, attrs)


def _between(low: Estimate, high: Estimate) -> tuple[Tensor, Tensor]:
    """The difference of two estimates of each example, and its Monte Carlo error; nats."""
    if low is high:
        return torch.zeros_like(low.log_px), torch.zeros_like(low.log_px)
    return high.log_px - low.log_px, torch.hypot(low.std_error, high.std_error)


def is_diagonal(pair: Any, x: Any, y: Tensor | None) -> bool:
    """Whether a guide is a diagonal Gaussian: no covariances, and no latent that depends on another one."""
    first = to_device(pair, x, y, slice(1))
    with evaluating(pair), forked(device_and_dtype(pair)[0]), torch.no_grad():
        found = sample_sites(trace_program(pair.guide, call_args(pair.guide, *first), {}, 2))
    return all(_is_free(site["fn"]) for site in found.values() if not site["is_observed"])


def _is_free(fn: Any) -> bool:
    """Whether a site is a diagonal Gaussian that is the same for both of two particles."""
    plain = kind(fn) == "Normal" and not any(hasattr(layer, "transforms") for layer in layers(fn))
    return plain and all(bool((v == v[:1]).all()) for v in (fn.mean, fn.variance))
