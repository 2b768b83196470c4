"""log p(x) from both sides on simulated data, where an exact draw from the posterior is known."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.fields import each
from ..common.rng import forked, seed_for
from ..scoring import simulate, terms
from ..scoring.inputs import device_and_dtype, evaluating
from .estimate import log_likelihood
from .sandwich import Sandwich


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
