"""Where the gap between the ELBO and log p(x) comes from: the encoder, the independence, the Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.shown import Shown
from ..guides.refined import Refined
from ..scoring.inputs import as_data, everything
from ..scoring.quantity import refuse_binarised
from .estimate import log_likelihood
from .refine import refine
from .result import Estimate

NAMES = {
    "amortisation": "one encoder for all examples, not the best diagonal Gaussian for each",
    "independence": "a diagonal Gaussian, not one with every covariance",
    "shape": "a Gaussian, not the posterior",
}


@dataclass(frozen=True, eq=False, repr=False)
class Gaps(Shown):
    """The ELBO of a guide, of the best diagonal and full Gaussian, and log p(x): for each example, in nats.

    Attributes:
        elbo: of the guide, as an estimate.
        diagonal: of the best diagonal Gaussian for each example.
        full: of the best Gaussian with every covariance.
        log_px: the best lower bound on log p(x) that is here.
    """

    elbo: Estimate
    diagonal: Estimate
    full: Estimate
    log_px: Estimate

    def __getitem__(self, name: str) -> Tensor:
        """A gap of each example, (N,) nats: ``"amortisation"``, ``"independence"``, ``"shape"`` or ``"total"``."""
        lower, upper = self._ends[name]
        return upper.log_px - lower.log_px

    def error(self, name: str) -> float:
        """SE (MC) of the mean of a gap, from the draws."""
        return math.hypot(*(e.monte_carlo_error for e in self._ends[name]))

    @property
    def _ends(self) -> dict[str, tuple[Estimate, Estimate]]:
        steps = (self.elbo, self.diagonal, self.full, self.log_px)
        return dict(zip(NAMES, pairwise(steps), strict=True)) | {"total": (self.elbo, self.log_px)}

    def table(self) -> list[dict[str, Any]]:
        """One JSON-able dictionary a gap: its mean, both standard errors, and what it is the price of."""
        rows = []
        for name in self._ends:
            gap = self[name]
            se = float(gap.std() / math.sqrt(len(gap))) if len(gap) > 1 else None
            error = self.error(name)
            mc = error if math.isfinite(error) else None
            mean, price = float(gap.mean()), NAMES.get(name, "all of these")
            rows.append({"gap": name, "mean": mean, "se": se, "mc_error": mc, "price_of": price})
        return rows

    def cells(self) -> list[list[str]]:
        """The table as text, its head first."""
        cells = [["gap", "nats", "SE (data)", "SE (MC)", "the price of"]]
        for r in self.table():
            se, mc = ("-" if r[k] is None else f"{r[k]:.3f}" for k in ("se", "mc_error"))
            cells.append([r["gap"], f"{r['mean']:.3f}", se, mc, r["price_of"]])
        return cells

    def notes(self) -> list[str]:
        """What the gaps are up to."""
        n, bad = len(self.log_px), int(self.log_px.unreliable.sum())
        return [f"{n} examples; {self.log_px.name} by {self.log_px.proposal}, unreliable for {bad} of them"]

    def __str__(self) -> str:
        line = "{:<14}{:>9}{:>11}{:>9}  {}"
        return "\n".join([*(line.format(*row) for row in self.cells()), *self.notes()])


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

    .. math:: \log p(x) - L[q] = (L[q^*_{diag}] - L[q]) + (L[q^*_{full}] - L[q^*_{diag}]) + (\log p(x) - L[q^*_{full}])

    The first is the amortisation gap of a diagonal guide (negative, where the guide is richer than that), the other two
    make up its approximation gap. log p(x) is the K-sample bound under the proposal ``"auto"``.

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
        >>> found["amortisation"].shape, bool(found["shape"].mean().abs() < 0.1)  # a posterior that is a Gaussian
        (torch.Size([4]), True)
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
    return Gaps(elbo(pair), diagonal, full, log_likelihood(pair, x, y, num_samples, proposal="auto", **how))
