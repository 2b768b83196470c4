"""How far the draws of a guide can be from the posterior, in its own units: bounds by the second moment of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import IndependentTransform, identity_transform

from ..common.entry import entry_point
from ..common.errors import PairError, UserError
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..common.shown import Shown
from ..guides.refined import Refined
from ..likelihood.estimators import log_mean
from ..scoring import programs, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, num_rows, to_device
from ..scoring.support import is_discrete
from .posterior import BLOCK, METHODS

FINITE = 0.25  # the Pareto k below which the second moment of the weights has an estimate of finite variance


@dataclass(frozen=True, eq=False, repr=False)
class ErrorBounds(Shown):
    """Upper bounds on the distance between the guide and the posterior of each example; (N,) float64 each.

    Attributes:
        divergence: the 2-divergence log E_q[(p/q)^2] of the posterior p from the guide q, in nats.
        wasserstein: on their 2-Wasserstein distance, in units of z, over all latents; no mean and no standard deviation
            of a latent is further off.
        mean_error: on the error of the mean of any latent, or of any linear function of latents, in standard
            deviations of the guide.
        khat: Pareto k of the weights.
        num_samples: K.
        seed: the seed.
    """

    divergence: Tensor
    wasserstein: Tensor
    mean_error: Tensor
    khat: Tensor
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.divergence)

    @property
    def holds(self) -> Tensor:
        """(N,) bool: where k is below 1/4, so that the draws show the second moment that the bounds are made of."""
        return self.khat < FINITE

    def record(self) -> dict[str, Any]:
        """How many bounds hold and their medians, as JSON holds them; None where no bound holds."""
        which = self.holds
        found: dict[str, Any] = {"n": len(self), "holds": int(which.sum()), "num_samples": self.num_samples}
        for name in ("divergence", "wasserstein", "mean_error"):
            found[name] = float(getattr(self, name)[which].median()) if found["holds"] else None
        return found

    def __str__(self) -> str:
        middle = self.record()
        n = middle["holds"]
        head = f"bounds hold for {n} of {len(self)} examples, whose k is below 1/4 (K = {self.num_samples})"
        if not n:
            return f"{head}; refine the guide, or test its draws by sbc"
        return (
            f"{head}; medians: 2-divergence {middle['divergence']:.3g} nats, 2-Wasserstein distance "
            f"at most {middle['wasserstein']:.3g}, error of a mean at most {middle['mean_error']:.3g} sd of the guide"
        )


@entry_point
def error_bounds(
    pair: Any, x: Any, y: Tensor | None = None, num_samples: int = 5000, *, seed: int = 0, progress: bool = False
) -> ErrorBounds:
    r"""Bound how far the guide is from the posterior of each example, by the weights of its draws.

    .. math:: D_2(p \| q) = \log E_q[w^2] - 2 \log p(x) \;\le\; 2 (\mathrm{CUBO}_2 - L_K), \qquad \chi^2 = e^{D_2} - 1

    For any function f of z, :math:`E_p f - E_q f = E_q[(p/q - 1)(f - E_q f)]`, so that by Cauchy's inequality

    .. math:: |E_p f - E_q f| \le \sqrt{\chi^2}\, \mathrm{sd}_q(f), \qquad
              W_2(p, q) \le \sqrt2 \left(E_q \|z - E_q z\|^4\, \chi^2\right)^{1/4}

    The second bounds the error of every mean and of every standard deviation. Both are of the guide's draws as they
    are, without weights. :math:`L_K` stands for log p(x) where the source has the ELBO: both are lower bounds, and this
    one leaves no gap of its own, so that :math:`\chi^2 = K / \mathrm{ESS} - 1`. The expectations are estimated from K
    draws: the bounds hold in the limit of many, where the fourth moment of the guide is finite, as a Gaussian's is.

    Use when Pareto k is below 1/4 and draws of the guide are reported as those of the posterior. Elsewhere use
    :func:`~ppl_vae.sbc`, on simulated data.

    Args:
        pair: a pair with continuous latents; for a refined guide ``pair.with_guide(pv.refine(pair, x))``,
            with ``df=math.inf`` where it has fewer than four latents, or latents with bounds.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        num_samples: K.
        seed: seeds each data batch separately.
        progress: show a bar.

    Raises:
        PairError: no latents, a discrete one, a guide without weights, or one whose draws have no fourth moment.
        UserError: fewer than two samples.

    Source: Huggins, Kasprzak, Campbell, Broderick: Validated Variational Inference via Practical Posterior Error
    Bounds, 2020, arXiv:1910.04102, whose constant is 2 in place of the root. Villani: Optimal Transport, 2009, Theorem
    6.15, for the root.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact").double()
        >>> found = pv.error_bounds(pair, torch.zeros(3, 5), num_samples=100)
        >>> bool((found.wasserstein < 0.01).all())
        True
    """
    if num_samples < 2:
        raise UserError(f"num_samples={num_samples}: bounds need at least 2 draws")
    _refuse_heavy_tails(pair)
    x, y = as_data(pair, x, y, seed)
    device, _ = device_and_dtype(pair)
    starts = range(0, num_rows(x), BLOCK)
    parts: list[Tensor] = []
    with evaluating(pair), forked(device), pyro.validation_enabled(False), bar(progress) as shown:
        task = shown.add_task("error bounds", total=len(starts), info="")
        for n, start in enumerate(starts):
            reseed(seed_for(seed, "error_bounds", n), device)
            xb, yb = to_device(pair, x, y, slice(start, start + BLOCK))
            _refuse_discrete(pair, xb, yb)
            z, about = METHODS["guide"](pair, xb, yb, num_samples, 1, 0)
            flat = torch.cat([v.reshape(*v.shape[:2], -1).double() for v in z.values()], -1)  # (K, B, n)
            parts.append(torch.stack([*_bounds(about["log_weight"], flat), about["khat"]]).cpu())
            shown.advance(task)
    divergence, wasserstein, mean_error, khat = torch.cat(parts, 1)
    return ErrorBounds(divergence, wasserstein, mean_error, khat, num_samples, seed)


def _bounds(log_w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bounds (B,) on the divergence, the distance and the means, by weights (K, B) and draws (K, B, n)."""
    divergence = (log_mean(2 * log_w) - 2 * log_mean(log_w)).clamp(min=0)
    chi2 = torch.expm1(divergence)
    fourth = (z - z.mean(0)).square().sum(-1).square().mean(0)
    return divergence, math.sqrt(2) * (fourth * chi2) ** 0.25, chi2.sqrt()


def _refuse_heavy_tails(pair: Any) -> None:
    """Refuse a refined guide whose draws have no fourth moment: Student's t, and through exp of any degree."""
    guide = pair.guide
    if isinstance(guide, Refined) and not math.isinf(guide.df):
        moves = any(not _is_identity(transform) for _, transform in guide.sites.values())
        if guide.df <= 4 or moves:
            raise PairError(
                f"the draws of this refined guide have no fourth moment (Student's t with {guide.df:g} degrees of "
                f"freedom): use pv.refine(..., df=math.inf)"
            )


def _is_identity(transform: Transform) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform is identity_transform


def _refuse_discrete(pair: Any, x: Any, y: Tensor | None) -> None:
    for name, site in programs.sites(pair.guide, trace.call_args(pair.guide, x, y)).items():
        if not site.is_observed and is_discrete(site.fn):
            raise PairError(f"site {name!r} is discrete, and the bounds are on distances: use pv.sbc")
