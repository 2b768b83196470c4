"""A model against a critic of its samples: no likelihood, one optimiser, one backward pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..common.errors import PairError, UserError
from ..common.numbers import plain
from ..scoring import trace
from ..scoring.param_store import Program, frozen, part_of
from .base import Objective, gradient_only
from .one_term import whole


class Adversarial(Objective):
    r"""Generative adversarial training: the guide's critic tells data from samples, and the model deceives it.

    .. math:: \max_D E_{data}[\log D(x)] + E_z[\log(1 - D(G(z)))] - \frac{\gamma}{2} E_{data} |\nabla_x d(x)|^2, \qquad
        \max_G E_z[\log D(G(z))]

    D is the sigmoid of ``guide.critic(x)`` = d(x), (B,), and G(z) the mean of p(x|z) at a draw of the prior. Both
    gradients are taken at the same parameters, in one backward pass: the model's through a critic whose parameters are
    stopped, the critic's at samples that are stopped. The value is the first two terms, -log 4 = -1.39 where the critic
    can't tell; it measures neither the model nor its progress. ``valid_bound`` is the ELBO under the guide.

    Use when samples are to look like data, and log p(x) is not what is wanted.

    Args:
        penalty: gamma of the gradient penalty R1, with which the training converges locally; 0 leaves it out.

    Raises:
        PairError: the guide has no critic, or the model no site x.
        UserError: a penalty that is no number, or negative.

    Source: Goodfellow et al.: Generative Adversarial Networks, 2014, arXiv:1406.2661. R1: Mescheder, Geiger, Nowozin:
    Which Training Methods for GANs do actually Converge?, 2018, arXiv:1801.04406.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("gan", data_shape=(5,), latent=2, hidden=(8,))
        >>> pv.objective("adversarial")(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = plain(penalty)
        if type(self.penalty) not in (int, float) or not 0 <= self.penalty < math.inf:
            raise UserError(f"penalty={penalty!r}: the weight of the gradient penalty is a finite number, at least 0")
        super().__init__(whole)

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """What the critic maximises, (B,), with the gradients of both."""
        critic, x = part_of(guide, "critic", "the guide", "adversarial"), args[0]
        fake = samples(model, len(x))
        real, told = critic(x), critic(fake.detach())
        with frozen(guide):
            deceived = -softplus(-critic(fake))
        value = -softplus(-real) - softplus(told)
        return value.detach() + gradient_only(value + deceived - self.penalty / 2 * self.slope(critic, x))

    def slope(self, critic: Any, x: Tensor) -> Tensor:
        """The squared length of the gradient of the critic at each example, (B,)."""
        if not self.penalty or not torch.is_grad_enabled():
            return x.new_zeros(len(x))
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient.reshape(len(x), -1).square().sum(-1)


def samples(model: Program, n: int) -> Tensor:
    """The means of p(x | z) at n draws of the prior, (n, *data_shape), with their gradient."""
    sites = trace.sample_sites(trace.trace_program(model, (None,), {"n": n}, 1))
    if "x" not in sites:
        raise PairError(f"adversarial: the model has the sites {sorted(sites)}, and no site 'x' to give to a critic")
    mean: Tensor = sites["x"]["fn"].mean
    return mean[0]
