"""A mixture of the ELBO and the importance-weighted bound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.numbers import plain
from ..scoring.terms import Terms
from .base import Beta, Objective, choose, log_mean_exp, log_weights, one_scale, times, weighted


def ciwae(t: Terms, beta: Beta = 1.0, share: float = 0.05, gradient: str = "path") -> Tensor:
    r"""A share of the ELBO and the rest of the importance-weighted bound, of the same draws, (B,) nats.

    .. math:: s \frac1K \sum_k \log w_k + (1 - s) \log \frac1K \sum_k w_k
    """
    log_w = log_weights(t, beta, "ciwae")
    bound = share * log_w.mean(0) + (1 - share) * log_mean_exp(log_w)
    if gradient == "dreg":
        w = torch.softmax(log_w, 0)
        even = share / len(log_w)  # the ELBO's part, whose score term is left out: its mean is zero
        bound = weighted(t, bound, log_w, even + (1 - share) * w, even + (1 - share) * w * (1 - beta * (1 - w)))
    return times(bound, one_scale(t, "ciwae"))


class CIWAE(Objective):
    """A share of the ELBO, and the rest of IWAE's bound, of the same draws.

    Use when IWAE trains the model well and the guide badly: a small share of the ELBO gives the guide a gradient that
    does not vanish as K grows.

    Args:
        num_particles: the number K of samples.
        share: of the ELBO, from 0 (iwae) to 1 (elbo); the paper's beta.
        gradient: ``"path"``, or ``"dreg"``, doubly reparameterised.
        beta: the weight of the KL term, which is another thing.

    Source: Rainforth et al.: Tighter Variational Bounds are Not Necessarily Better, 2018, arXiv:1802.04537.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("ciwae:share=0.1", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 64, share: float = 0.05, gradient: str = "path", beta: float = 1.0) -> None:
        self.share = plain(share)
        self.gradient = kind = choose(gradient, ("path", "dreg"))
        if type(self.share) not in (int, float) or not 0 <= self.share <= 1:
            raise UserError(f"share={share!r}: the share of the ELBO is a number from 0 to 1")

        def bound(t: Terms, beta: Beta) -> Tensor:
            return ciwae(t, beta, self.share, kind)

        super().__init__(bound, num_particles=num_particles, grad="path" if kind == "path" else "stl", beta=beta)
