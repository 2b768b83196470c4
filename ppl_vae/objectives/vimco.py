"""The importance-weighted bound by the score function, with a baseline for each particle from the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.errors import UserError
from ..scoring.terms import Terms
from .base import (
    Beta,
    Objective,
    choose,
    choose_from,
    finite,
    gradient_only,
    log_mean_exp,
    log_weights,
    one_scale,
    scored,
    times,
)


def vimco(t: Terms, beta: Beta = 1.0, baseline: str = "geometric") -> Tensor:
    r"""The K-sample bound of each example, (B,) nats, of terms made with ``grad="score"`` or ``"path"``.

    .. math:: \nabla_\phi = \sum_k (\hat L - \hat L_{-k}) \nabla_\phi \log q(z_k|x)
        + \sum_k \tilde w_k \nabla_\phi \log w_k, \qquad \hat L = \log \frac1K \sum_k w_k

    :math:`\hat L_{-k}` depends on the other particles alone, so that the gradient is unbiased.
    """
    log_w = log_weights(t, beta, "vimco", reparameterised=False)
    given = log_w.detach()
    bound = log_mean_exp(given)
    others = BASELINES[baseline](given)
    signal = bound - torch.where(others == -math.inf, torch.zeros_like(others), others)  # any constant is unbiased
    surrogate = signal * scored(t)[0] + torch.softmax(given, 0) * finite(log_w)
    return times(bound + gradient_only(surrogate.sum(0)), one_scale(t, "vimco"))


def _others(log_w: Tensor, own: Tensor) -> Tensor:
    """log sum exp over the particles, with each particle's own weight (K, B) replaced: (K, B)."""
    count = len(log_w)
    table = log_w.expand(count, *log_w.shape)  # (K, K, B): for each particle, all of them
    mine = torch.eye(count, dtype=torch.bool, device=log_w.device)[..., None]
    return torch.logsumexp(torch.where(mine, own[:, None], table), 1)


def _geometric(log_w: Tensor) -> Tensor:
    """The bound with w_k replaced by the geometric mean of the others."""
    count = len(log_w)
    mine = torch.eye(count, dtype=torch.bool, device=log_w.device)[..., None]
    rest = torch.where(mine, torch.zeros_like(log_w), log_w).sum(1)  # a difference of infinities is no number
    return _others(log_w, rest / (count - 1)) - math.log(count)


def _arithmetic(log_w: Tensor) -> Tensor:
    """The bound of the other K - 1 particles."""
    return _others(log_w, torch.full_like(log_w, -math.inf)) - math.log(len(log_w) - 1)


def _ovis(log_w: Tensor) -> Tensor:
    """The same less log(K / (K - 1)): the control variate that is optimal where many particles count."""
    return _others(log_w, torch.full_like(log_w, -math.inf)) - math.log(len(log_w))


BASELINES = {"geometric": _geometric, "arithmetic": _arithmetic, "ovis": _ovis}


class VIMCO(Objective):
    """The K-sample bound for latents whose draws have no gradient, with a baseline for each particle.

    Use when latents are discrete: the objective of :class:`IWAE`, whose gradient has an error that falls with K.

    Args:
        num_particles: the number K of samples inside the logarithm, at least 2.
        baseline: ``"geometric"``, VIMCO; ``"arithmetic"``, the bound of the other particles; or ``"ovis"``, that less
            log(K / (K - 1)), whose signal -log(1 - w_k) - w_k vanishes where no weight dominates. All are unbiased.
        beta: the weight of the KL term.
        gradient: ``"score"``, the score function of every latent; or ``"path"``: that only where draws have no pathwise
            gradient, for a guide with latents of both kinds.

    Raises:
        UserError: one particle, or an argument of another type or out of range.

    Source: Mnih, Rezende: Variational Inference for Monte Carlo Objectives, 2016, arXiv:1602.06725. ``"ovis"``: Lievin,
    Dittadi, Christensen, Winther: Optimal Variance Control of the Score Function Gradient Estimator for Importance
    Weighted Bounds, 2020, arXiv:2008.01998.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("vimco", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(
        self, num_particles: int = 10, baseline: str = "geometric", beta: float = 1.0, gradient: str = "score"
    ) -> None:
        self.baseline = chosen = choose_from("baseline", baseline, tuple(BASELINES))

        def bound(t: Terms, beta: Beta) -> Tensor:
            return vimco(t, beta, chosen)

        super().__init__(bound, num_particles=num_particles, grad=choose(gradient, ("score", "path")), beta=beta)
        if self.num_particles < 2:
            raise UserError("vimco takes the baseline of a particle from the others: num_particles=2 or more is needed")
