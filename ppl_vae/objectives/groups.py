"""Bounds that average, or join, several importance-weighted bounds: MIWAE and PIWAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.numbers import plain
from ..scoring.terms import Terms
from .base import Beta, Objective, choose, log_mean_exp, log_weights, one_scale, times, weighted


def miwae(t: Terms, beta: Beta = 1.0, groups: int = 1, gradient: str = "path") -> Tensor:
    r"""The mean of M bounds of K samples each, (B,) nats; of the M K particles, M in a row have one place in a group.

    .. math:: \frac1M \sum_m \log \frac1K \sum_k w_{mk}
    """
    log_w = log_weights(t, beta, "miwae")
    grouped = log_w.unflatten(0, (-1, groups))  # (K, M, B)
    bound = log_mean_exp(grouped).mean(0)
    if gradient == "dreg":
        w = torch.softmax(grouped, 0).flatten(0, 1)  # sums to one in each group
        bound = weighted(t, bound, log_w, w / groups, w * (1 - beta * (1 - w)) / groups)
    return times(bound, one_scale(t, "miwae"))


def piwae(t: Terms, beta: Beta = 1.0, groups: int = 1) -> Tensor:
    """IWAE's bound of all M K particles, (B,) nats, whose gradient for the guide is that of :func:`miwae`."""
    log_w = log_weights(t, beta, "piwae")
    bound = log_mean_exp(log_w)
    w = torch.softmax(log_w.unflatten(0, (-1, groups)), 0).flatten(0, 1).nan_to_num(nan=0.0)  # no weight in a group
    bound = weighted(t, bound, log_w, torch.softmax(log_w, 0), w * (1 - beta * (1 - w)) / groups)
    return times(bound, one_scale(t, "piwae"))


class Grouped(Objective):
    """What :class:`MIWAE` and :class:`PIWAE` share: M groups of K particles."""

    def __init__(self, bound: Any, num_particles: int, groups: int, **options: Any) -> None:
        self.groups = plain(groups)
        if type(self.groups) is not int or self.groups < 1:
            raise UserError(f"groups={groups!r}: a whole number is needed, at least one")
        super().__init__(bound, num_particles=num_particles, **options)

    @property
    def draws(self) -> int:
        """Draws of each example in a step: M K."""
        return int(self.num_particles) * int(self.groups)


class MIWAE(Grouped):
    """The mean of M importance-weighted bounds of K samples each.

    Use when K draws in one logarithm leave the guide's gradient too noisy: M K draws in M logarithms divide its
    variance by M, for a looser bound.

    Args:
        num_particles: the number K of samples inside each logarithm.
        groups: the number M of logarithms.
        gradient: ``"path"``, or ``"dreg"``, doubly reparameterised.
        beta: the weight of the KL term.

    Source: Rainforth et al.: Tighter Variational Bounds are Not Necessarily Better, 2018, arXiv:1802.04537.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("miwae:groups=4", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 8, groups: int = 8, gradient: str = "path", beta: float = 1.0) -> None:
        self.gradient = kind = choose(gradient, ("path", "dreg"))

        def bound(t: Terms, beta: Beta) -> Tensor:
            return miwae(t, beta, self.groups, kind)

        super().__init__(bound, num_particles, groups, grad="path" if kind == "path" else "stl", beta=beta)


class PIWAE(Grouped):
    """The model by IWAE's bound of all M K samples, the guide by the mean of M bounds of K samples.

    Use when the model should have the tightest bound, and the guide a gradient with less noise. Both gradients are
    doubly reparameterised, from the same draws.

    Args:
        num_particles: the number K of samples inside each logarithm of the guide's bound.
        groups: the number M of those logarithms.
        beta: the weight of the KL term.

    Source: Rainforth et al.: Tighter Variational Bounds are Not Necessarily Better, 2018, arXiv:1802.04537.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("piwae:groups=4", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 8, groups: int = 8, beta: float = 1.0) -> None:
        def bound(t: Terms, beta: Beta) -> Tensor:
            return piwae(t, beta, self.groups)

        super().__init__(bound, num_particles, groups, grad="stl", beta=beta)
