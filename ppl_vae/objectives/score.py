"""The ELBO by the score function, with baselines: for latents whose draws have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import UserError
from ..scoring.terms import Terms
from .base import (
    Beta,
    Objective,
    choose,
    choose_from,
    gradient_only,
    less_factors,
    needs_density,
    one_scale,
    scored,
    times,
)


def score(t: Terms, beta: Beta = 1.0, baseline: str = "leave_one_out") -> Tensor:
    r"""The ELBO of each example, (B,) nats, of terms made with ``grad="score"`` or ``"path"``.

    .. math:: \nabla_\phi = \frac1K \sum_k (\log w_k - b_k) \nabla_\phi \log q(z_k|x)

    The baseline b_k depends on no draw of particle k, so that the gradient is unbiased.
    """
    for site in t.sites.values():
        needs_density(site, "score")
    log_w = t.log_lik + beta * (t.log_prior - t.log_q)
    signal = log_w.detach() - BASELINES[baseline](log_w.detach())
    by_score, by_path = scored(t)
    surrogate = signal * by_score + t.log_lik + beta * (t.log_prior - by_path)
    bound = log_w.detach().mean(0) + gradient_only(surrogate.mean(0))
    bound = times(bound, one_scale(t, "score"))
    return less_factors(bound, t).mean(0) if t.factors else bound


def _none(log_w: Tensor) -> Tensor:
    return torch.zeros_like(log_w)


def _leave_one_out(log_w: Tensor) -> Tensor:
    """The mean of the other particles of the same example, (K, B)."""
    return (log_w.sum(0) - log_w) / (len(log_w) - 1)


def _batch(log_w: Tensor) -> Tensor:
    """The mean of the other examples of the batch, (1, B); 0 where there is no other."""
    means = log_w.mean(0, keepdim=True)
    return (means.sum(1, keepdim=True) - means) / max(1, log_w.shape[1] - 1)


BASELINES = {"leave_one_out": _leave_one_out, "batch": _batch, "none": _none}


class Score(Objective):
    """The ELBO with the score-function gradient (REINFORCE) of every latent, and a baseline.

    Use when latents are discrete and K is small; :class:`VIMCO` and :class:`RWS` are better where K is 5 or more. The
    ELBO of :class:`Elbo` has the same gradient in the mean, without a baseline for discrete latents, and by the draws
    where they have a gradient.

    Args:
        num_particles: particles to average over; at least 2 for the baseline ``"leave_one_out"``.
        baseline: ``"leave_one_out"``, the mean of the other particles of the same example; ``"batch"``, the mean of the
            other examples of the step, which needs no second particle and no memory of earlier steps; or ``"none"``.
        beta: the weight of the KL term.
        gradient: ``"score"``, the score function of every latent; or ``"path"``: that only where draws have no pathwise
            gradient, for a guide with latents of both kinds.

    Raises:
        UserError: ``"leave_one_out"`` with one particle, or an argument of another type or out of range.

    Source: Williams: Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.
    Mnih, Gregor: Neural Variational Inference and Learning in Belief Networks, 2014, arXiv:1402.0030. Leave-one-out:
    Kool, van Hoof, Welling: Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("score", num_particles=4)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(
        self, num_particles: int = 4, baseline: str = "leave_one_out", beta: float = 1.0, gradient: str = "score"
    ) -> None:
        self.baseline = chosen = choose_from("baseline", baseline, tuple(BASELINES))

        def bound(t: Terms, beta: Beta) -> Tensor:
            return score(t, beta, chosen)

        super().__init__(bound, num_particles=num_particles, grad=choose(gradient, ("score", "path")), beta=beta)
        if chosen == "leave_one_out" and self.num_particles < 2:
            raise UserError("baseline='leave_one_out' needs num_particles=2 or more; with one, use baseline='batch'")
