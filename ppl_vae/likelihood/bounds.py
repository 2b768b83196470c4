"""log p(x) from both sides on simulated data, where an exact draw from the posterior is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.fields import X, each
from ..common.rng import forked, seed_for
from ..scoring import simulate, terms
from ..scoring.inputs import device_and_dtype, evaluating
from ..scoring.quantity import LOG_PX
from .estimate import log_likelihood


@dataclass(eq=False)
class Sandwich:
    """log p(x) of simulated data between two bounds, in nats; (N,) float64 each.

    Attributes:
        x: the simulated data.
        lower: forward estimates, a lower bound in expectation.
        upper: reverse estimates from exact posterior draws, an upper bound in expectation.
        seed: the seed.
        name: what lies between them, see :class:`~ppl_vae.Estimate`.
    """

    x: X
    lower: Tensor
    upper: Tensor
    seed: int
    name: str = LOG_PX

    @property
    def gap(self) -> float:
        """Mean of upper - lower: what either bound can be off by, on data of the model."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of the gap over the data."""
        return _error(self.upper - self.lower)

    def __str__(self) -> str:
        return (
            f"on {len(self.lower)} simulated data (seed {self.seed}), mean {self.name} lies in expectation between "
            f"{float(self.lower.mean()):.3f} ± {_error(self.lower):.3f} and {float(self.upper.mean()):.3f} ± "
            f"{_error(self.upper):.3f} nats: a gap of {self.gap:.3f} ± {self.gap_se:.3f} (errors over the data)"
        )


def _error(values: Tensor) -> float:
    """The standard error of a mean over data; nan for one."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


@entry_point
def eubo(
    pair: Any,
    num_data: int = 100,
    num_samples: int = 100,
    y: Any = None,
    *,
    like: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> Sandwich:
    r"""Bound log p(x) from both sides by importance weights, on data simulated from the model.

    .. math:: L_K = \log \frac1K \sum_{k=1}^{K} w_k \;\le\; \log p(x) \;\le\;
              U_K = \log \frac{1}{K+1} \sum_{k=0}^{K} w_k, \qquad z_0 \sim p(z|x), \; z_k \sim q(z|x)

    Both in expectation. A simulated (z, x) contains the exact draw :math:`z_0`. Without draws of the guide, U is the
    evidence upper bound, whose gap is KL(p(z|x) || q). It detects a guide that misses part of the posterior, on data of
    the model; Pareto k does not.

    Args:
        pair: a pair.
        num_data: data to simulate.
        num_samples: K, draws of the guide for each.
        y: labels (num_data,), for pairs that take them.
        like: data whose masks, lengths, covariates or missing entries the simulated ones have, see :func:`sample`.
        seed: of everything.
        progress: show a bar.

    Raises:
        UserError: a setting that makes no sense, or a model that can't run without data.

    Source: Brekelmans, Huang, Ghassemi, Ver Steeg, Grosse, Makhzani: Improving Mutual Information Estimation with
    Annealed and Energy-Based Bounds, 2022, arXiv:2303.06992.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact").double()
        >>> abs(pv.eubo(pair, num_data=3, num_samples=10).gap) < 1e-9
        True
    """
    y = simulate.check_labels(pair, num_data, y, "num_data")
    device, _ = device_and_dtype(pair)
    with evaluating(pair), forked(device, seed_for(seed, "eubo")), pyro.validation_enabled(False):
        x, z = simulate.simulate(pair, num_data, y, like)
        at_truth = terms.terms(pair.model, pair.guide, x, y, values=z).log_w[0].double().cpu()
    below = log_likelihood(pair, x, y, num_samples=num_samples, seed=seed, progress=progress)
    total = torch.logaddexp(below.log_px + math.log(num_samples), at_truth)
    return Sandwich(each(Tensor.cpu, x), below.log_px, total - math.log(num_samples + 1), seed, below.name)
