"""The importance-weighted bound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scoring.terms import Terms
from .base import Beta, Objective, choose, finite, gradient_only, log_mean_exp, log_weights, one_scale, times


def iwae(t: Terms, beta: Beta = 1.0, gradient: str = "path") -> Tensor:
    r"""The importance-weighted bound of each example, (B,) nats.

    .. math:: \log \frac1K \sum_k w_k, \qquad w_k = p(x|z_k) (p(z_k) / q(z_k|x))^\beta

    A plate's scale multiplies the bound, never the weights inside the logarithm. The gradient ``"stl"`` is biased for
    the guide where K > 1; ``"dreg"`` is not.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519. The gradient
    ``"dreg"``: Tucker, Lawson, Gu, Maddison, 2018, arXiv:1810.04152; ``"stl"``: Roeder, Wu, Duvenaud, 2017,
    arXiv:1703.09194.
    """
    log_w = log_weights(t, beta, "iwae")
    bound = log_mean_exp(log_w)
    if gradient != "path":
        w = torch.softmax(log_w, 0).detach()
        bound = bound.detach() + gradient_only((w * finite(log_w)).sum(0))
        if gradient == "dreg":
            t.gate((1 - beta) + beta * w)  # beta != 1: the part 1 - beta of the gradient is not doubled
    return times(bound, one_scale(t, "iwae"))


class IWAE(Objective):
    """The K-sample importance-weighted bound of each example, also in mini-batches.

    Args:
        num_particles: the number K of samples inside the logarithm.
        gradient: ``"path"``; ``"dreg"``, unbiased like it, whose signal-to-noise for the guide grows with K; or
            ``"stl"``, which is biased for the guide where K > 1.
        beta: the weight of the KL term: each w_k is p(x|z_k) (p(z_k) / q(z_k|x))^beta.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.IWAE(num_particles=8, gradient="dreg")(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(self, num_particles: int = 10, gradient: str = "path", beta: float = 1.0) -> None:
        kind = choose(gradient, ("path", "stl", "dreg"))
        self.gradient = kind

        def bound(t: Terms, beta: Beta) -> Tensor:
            return iwae(t, beta, kind)

        super().__init__(bound, num_particles=num_particles, grad="path" if kind == "path" else "stl", beta=beta)
