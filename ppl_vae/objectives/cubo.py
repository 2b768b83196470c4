"""The guide by the chi-square divergence from the posterior, the model by the importance-weighted bound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scoring.terms import Terms
from .base import Beta, Objective, log_mean_exp, log_weights, one_scale, times, weighted


def cubo(t: Terms, beta: Beta = 1.0) -> Tensor:
    r"""The importance-weighted bound, (B,) nats, whose gradient for the guide lowers the chi-square bound.

    .. math:: \frac12 \log E_q[w^2] \ge \log p(x)

    Its gradient for the guide is :math:`-\sum_k v_k \, \partial_z \log w_k \, \partial z_k`, where
    :math:`v_k \propto w_k^2`, by the same identity as ``"dreg"``: the score term is minus twice the term that passes
    through the draws. With ``beta`` the identity has a factor 2 beta - 1, which is left out: below 1/2 it would turn
    the gradient round.
    """
    log_w = log_weights(t, beta, "cubo")
    v = torch.softmax(2 * log_w, 0)
    bound = weighted(t, log_mean_exp(log_w), log_w, torch.softmax(log_w, 0), v)
    return times(bound, one_scale(t, "cubo"))


class CUBO(Objective):
    """The guide minimises the chi-square divergence from the posterior; the model maximises IWAE's bound.

    The chi-square bound lies above log p(x): a model that minimised it would fit the data worse, so that only the guide
    does. The value is IWAE's bound, for both. The gradient of the guide is self-normalised, with a bias that falls as
    1/K.

    Use when the guide will be a proposal: the chi-square divergence is the variance of the weights, so that it covers
    the posterior instead of one mode. Use 32 particles or more.

    Args:
        num_particles: the number K of samples.
        beta: the weight of the KL term.

    Source: Dieng, Tran, Ranganath, Paisley, Blei: Variational Inference via chi Upper Bound Minimization, 2016,
    arXiv:1611.00328.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("cubo", num_particles=32)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 32, beta: float = 1.0) -> None:
        super().__init__(cubo, num_particles=num_particles, grad="stl", beta=beta)
