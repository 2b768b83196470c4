"""One term of the ELBO of a chain for each example, drawn at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.fields import device_of, num_data
from ..scoring.param_store import Program, part_of
from ..scoring.terms import Terms
from .base import Objective
from .elbo import elbo


def whole(t: Terms) -> Tensor:
    """The ELBO of each example, (B,) nats, of the whole chain."""
    return elbo(t)


def spread(n: int, count: int, device: torch.device | str) -> Tensor:
    """n numbers of 1 ... count, each uniform, and evenly spread among them: one shift of a grid."""
    grid = (torch.arange(n, device=device) / n + torch.rand((), device=device)) % 1
    return 1 + (count * grid).long().clamp(max=count - 1)


class OneTerm(Objective):
    r"""The ELBO by one of its T terms for each example, for the cost of one evaluation of the network.

    .. math:: E_t[T L_t(x)] = \sum_{t=1}^T L_t(x) = \text{ELBO}, \qquad t \sim \text{uniform}(1 \ldots T)

    The t of the examples of a step are spread evenly over 1 ... T. The model gives the terms: ``model.num_terms`` is T,
    and ``model.term(t, x)``, (B,) nats, an unbiased estimate of T L_t. Bounds on held-out data are of the whole chain.

    Use when the guide has no parameters, so that each term can be drawn alone: a diffusion.

    Args:
        num_particles: terms of each example.

    Raises:
        PairError: the model has no method ``term``.

    Source: Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239. The spread: Kingma,
    Salimans, Poole, Ho: Variational Diffusion Models, 2021, arXiv:2107.00630.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("diffusion", data_shape=(5,), levels=4, hidden=(8,))
        >>> pv.objective("one_term")(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(whole, num_particles=num_particles)

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """An estimate of the ELBO of each example, (B,) nats."""
        term, count = (part_of(model, name, "the model", "one_term") for name in ("term", "num_terms"))
        t = spread(self.draws * num_data(args[0]), count, device_of(args[0])).reshape(-1, self.draws)
        return torch.stack([term(ti, *args, **kwargs) for ti in t.unbind(1)]).mean(0)
