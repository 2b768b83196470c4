"""Whole numbers as cells of the unit interval: uniform noise that fills a cell, and the cell that a number lies in."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from .distributions import grid


class Dequantised(TorchDistribution):
    r"""z uniform in the cell of x, an event of ``event_dim`` dimensions.

    .. math:: z = (v + u) / n, \qquad u \sim U(0, 1), \qquad v = (n - 1) x \in \{0, ..., n - 1\}

    Its support is the unit interval, on which its density is zero outside the cell, where p(x|z) is zero too.

    Args:
        x: values 0, 1/(n - 1), ..., 1, (*, *event).
        levels: n.
        event_dim: dimensions of an event.

    Source: Theis, van den Oord, Bethge: A note on the evaluation of generative models, 2015, arXiv:1511.01844.

    Example:
        >>> q = Dequantised(torch.tensor([0.0, 1.0]), levels=2)
        >>> q.mean, q.log_prob(torch.tensor([0.3, 0.3])).exp()
        (tensor([0.2500, 0.7500]), tensor([2., 0.]))
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, x: Tensor, levels: int, event_dim: int = 0) -> None:
        self.x, self.levels = x, levels
        cut = x.dim() - event_dim
        super().__init__(x.shape[:cut], x.shape[cut:], validate_args=False)

    @property
    def support(self) -> Any:
        """The unit interval, of each number."""
        return constraints.independent(constraints.unit_interval, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The centres of the cells."""
        return (_whole(self.x, self.levels) + 0.5) / self.levels

    def expand(self, batch_shape: Any, _instance: Any = None) -> Dequantised:
        return Dequantised(self.x.expand(*batch_shape, *self.event_shape), self.levels, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.x.dtype, device=self.x.device)
        return (_whole(self.x, self.levels) + u.clamp(1e-5, 1 - 1e-5)) / self.levels  # the ends have infinite logits

    def log_prob(self, value: Tensor) -> Tensor:
        n = math.prod(self.event_shape)
        return Cells(value, self.levels, len(self.event_shape)).log_prob(self.x) + n * math.log(self.levels)


class Cells(TorchDistribution):
    r"""x is the cell of z: P(x|z) is one or zero.

    .. math:: x = \lfloor n z \rfloor / (n - 1)

    Args:
        z: numbers in the unit interval, (*, *event).
        levels: n.
        event_dim: dimensions of an event.

    Example:
        >>> Cells(torch.tensor([0.2, 0.4, 0.9]), levels=3).sample()
        tensor([0.0000, 0.5000, 1.0000])
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, z: Tensor, levels: int, event_dim: int = 0) -> None:
        self.z, self.levels = z, levels
        cut = z.dim() - event_dim
        super().__init__(z.shape[:cut], z.shape[cut:], validate_args=False)

    @property
    def support(self) -> Any:
        """The levels of a number, of each of an event."""
        return constraints.independent(grid(self.levels), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The value of x."""
        return (self.levels * self.z).floor().clamp(0, self.levels - 1) / (self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Cells:
        return Cells(self.z.expand(*batch_shape, *self.event_shape), self.levels, len(self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.mean.expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        n = self.levels
        off = (n * self.z - _whole(value, n) - 0.5).abs()  # from the centre of the cell
        inside = off <= 0.5 + 8 * n * torch.finfo(self.z.dtype).eps  # what rounding moves across an edge is inside
        log_p = torch.where(inside, 0.0, -math.inf).to(off) + 0 * value  # NaN where an entry is missing
        return log_p.flatten(log_p.dim() - len(self.event_shape)).sum(-1) if self.event_shape else log_p


def _whole(x: Tensor, levels: int) -> Tensor:
    """x as whole numbers below ``levels``."""
    return (x * (levels - 1)).round()
