"""Bags of words: the multinomial distribution with another total in each example."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


class Bag(TorchDistribution):
    r"""The counts (*, V) of ``total`` independent words. That of torch takes one total for all examples.

    .. math:: p(x) = \frac{n!}{\prod_v x_v!} \prod_v p_v^{x_v}, \qquad n = \sum_v x_v

    Args:
        log_p: log probabilities of the words, (*, V).
        total: n, (*,).

    Example:
        >>> p = Bag(torch.full((2, 2), 0.5).log(), torch.tensor([1.0, 2.0]))
        >>> p.log_prob(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).exp()
        tensor([0.5000, 0.5000])
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False

    def __init__(self, log_p: Tensor, total: Tensor) -> None:
        self.log_p, self.total = log_p, total
        super().__init__(log_p.shape[:-1], log_p.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """n p."""
        return self.total.unsqueeze(-1) * self.log_p.exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bag:
        to = torch.Size(batch_shape)
        return Bag(self.log_p.expand(to + self.event_shape), self.total.expand(to))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        p = self.log_p.exp().expand(shape).reshape(-1, shape[-1])
        total = self.total.expand(shape[:-1]).reshape(-1, 1)
        words = torch.multinomial(p, max(1, int(total.max())), replacement=True)
        is_word = torch.arange(words.shape[1], device=words.device) < total
        return torch.zeros_like(p).scatter_add(1, words, is_word.to(p)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        total = value.sum(-1)
        orders = (total + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return torch.where(total == self.total, orders + (value * self.log_p).sum(-1), -torch.inf)
