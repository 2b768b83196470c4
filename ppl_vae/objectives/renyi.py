"""The bound between the ELBO and the importance-weighted bound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.numbers import plain
from ..scoring.terms import Terms
from .base import Beta, Objective, choose, log_mean_exp, log_weights, one_scale, times, weighted


def renyi(t: Terms, beta: Beta = 1.0, alpha: float = 0.5, gradient: str = "path") -> Tensor:
    r"""The variational Renyi bound of each example in its importance-weighted form, (B,) nats.

    .. math:: \frac1{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}, \qquad w_k = p(x|z_k) (p(z_k) / q(z_k|x))^\beta
    """
    log_w = log_weights(t, beta, "renyi")
    power = 1 - alpha
    bound = log_w.mean(0) if power == 0 else log_mean_exp(power * log_w) / power
    if gradient == "dreg":
        w = torch.softmax(power * log_w, 0)
        bound = weighted(t, bound, log_w, w, w * (1 - beta * power * (1 - w)))
    return times(bound, one_scale(t, "renyi"))


class Renyi(Objective):
    r"""The variational Renyi bound, which rises from the ELBO (alpha = 1) to the K-sample bound of IWAE (alpha = 0).

    .. math:: E\left[\frac1{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}\right] \le \log p(x)

    Use when IWAE's gradient for the guide is too noisy, or its guide too wide: alpha trades the tightness of the bound
    for a signal-to-noise ratio that falls less with K.

    Args:
        num_particles: the number K of samples inside the logarithm.
        alpha: from 0 to 1. Outside, the K-sample value has no side of log p(x) for finite K.
        gradient: ``"path"``, or ``"dreg"``, doubly reparameterised.
        beta: the weight of the KL term.

    Raises:
        UserError: alpha outside [0, 1], or another argument of another type or out of range.

    Source: Li, Turner: Renyi Divergence Variational Inference, 2016, arXiv:1602.02311. The bound for finite K and its
    doubly reparameterised gradient: Daudel, Benton, Shi, Doucet: Alpha-divergence Variational Inference Meets
    Importance Weighted Auto-Encoders, 2022, arXiv:2210.06226.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("renyi:alpha=0.3", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 10, alpha: float = 0.5, gradient: str = "path", beta: float = 1.0) -> None:
        self.alpha = plain(alpha)
        self.gradient = kind = choose(gradient, ("path", "dreg"))
        if type(self.alpha) not in (int, float) or not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={alpha!r}: a number from 0 (iwae) to 1 (elbo) is needed")

        def bound(t: Terms, beta: Beta) -> Tensor:
            return renyi(t, beta, self.alpha, kind)

        super().__init__(bound, num_particles=num_particles, grad="path" if kind == "path" else "stl", beta=beta)
