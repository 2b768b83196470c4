"""The K-sample bound against K: how far it still grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.entry import entry_point
from .estimators import curve
from .records import ProposalLike
from .streaming import plan as make_plan


class Curve(NamedTuple):
    """The bound L_k of each example for several k, in nats."""

    sizes: tuple[int, ...]
    log_px: Tensor  # (len(sizes), N)
    std_error: Tensor  # (len(sizes), N), Monte Carlo


@entry_point
def bound_curve(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 100_000,
    sizes: Sequence[int] | None = None,
    *,
    proposal: ProposalLike = "guide",
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    r"""The bound :math:`L_k` against k, for all k from one set of K weights: how far it still grows.

    L_k is the mean over the K // k disjoint groups of k weights. Holds the weights of one data batch at a time.

    Args:
        pair: as in :func:`~ppl_vae.log_likelihood`.
        x: data.
        y: labels.
        num_samples: K, the largest k.
        sizes: the k to show; None takes 1, 2, 5, 10, 20, ... up to K, and powers of two for ``"qmc"``.
        proposal: where z comes from.
        seed: the seed.
        progress: show a bar.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.bound_curve(pair, torch.zeros(3, 5), num_samples=100).sizes
        (1, 2, 5, 10, 20, 50, 100)
    """
    plan = make_plan(pair, x, y, num_samples, proposal, seed, progress=progress)
    if sizes is None:
        steps = [m * 10**e for e in range(12) for m in (1, 2, 5)]
        steps = [2**e for e in range(40)] if plan.proposal.nets else steps  # a power of two of a net is a net
        sizes = [*(k for k in steps if k < num_samples), num_samples]
    parts = plan.each("bounds", progress, lambda start: curve(plan.weights_at(start), sizes))
    values, errors = (torch.cat(list(column), 1) for column in zip(*parts, strict=True))
    return Curve(tuple(sizes), values, errors)
