"""Tables with columns of several kinds: their distribution, their likelihood, and rows as numbers for a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from .likelihoods import Likelihood


class Entries(constraints.Constraint):
    """A real number in a column of no classes, else one of 0 ... C - 1; or NaN, which is a missing entry."""

    def __init__(self, classes: Tensor, is_discrete: bool) -> None:
        self.classes = classes
        self.is_discrete = is_discrete

    def check(self, value: Tensor) -> Tensor:
        """Which entries are legal in their column."""
        is_class = (value == value.round()) & (value >= 0) & (value < self.classes)
        return torch.where(self.classes == 0, value.isfinite(), is_class) | value.isnan()


class Columns(TorchDistribution):
    r"""Entries of a table (*, D): a real column is Gaussian, one of C classes is categorical. NaN is left out.

    .. math:: x_d \sim N(m_d + s_d h_{d0}, s_d^2 (0.01 + e^{h_{d1}})^2), \qquad p(x_d = c) \propto e^{h_{dc}}

    Args:
        h: the outputs of a network, (*, D, M), M at least 2 and the largest C.
        classes: C of each column, (D,) int64; 0 where it is real.
        loc: m, the mean of each column of the data, (D,).
        scale: s, its standard deviation, (D,).
        is_discrete: whether no column is real.

    Source: Nazabal, Olmos, Ghahramani, Valera: Handling Incomplete Heterogeneous Data using VAEs, 2020,
    arXiv:1807.03653.

    Example:
        >>> p = Columns(torch.zeros(2, 3), torch.tensor([0, 3]), torch.zeros(2), torch.ones(2))
        >>> p.log_prob(torch.tensor([torch.nan, 2.0])).exp()
        tensor([1.0000, 0.3333])
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, h: Tensor, classes: Tensor, loc: Tensor, scale: Tensor, is_discrete: bool = False) -> None:
        self.h, self.classes, self.loc, self.scale, self.is_discrete = h, classes, loc, scale, is_discrete
        self.real = Normal(loc + scale * h[..., 0], scale * (0.01 + h[..., 1].exp()), validate_args=False)
        other = torch.arange(h.shape[-1], device=h.device) >= classes.clamp(min=1).unsqueeze(-1)  # (D, M)
        self.logits = h.masked_fill(other, -torch.inf).log_softmax(-1)
        super().__init__(h.shape[:-1], validate_args=False)

    @property
    def support(self) -> Any:
        """Real numbers or classes, by column."""
        return Entries(self.classes, self.is_discrete)

    @property
    def mean(self) -> Tensor:
        """The mean of a column that is real or of two classes, else its most probable class."""
        odds = torch.where(self.classes == 2, self.logits[..., 1].exp(), self.logits.argmax(-1).to(self.h))
        return torch.where(self.classes == 0, self.real.mean, odds)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        h = self.h.expand(*batch_shape, self.h.shape[-1])
        return Columns(h, self.classes, self.loc, self.scale, self.is_discrete)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        drawn = Categorical(logits=self.logits, validate_args=False).sample(shape)
        return torch.where(self.classes == 0, self.real.sample(shape), drawn.to(self.h))

    def log_prob(self, value: Tensor) -> Tensor:
        known = torch.where(value.isnan(), 0.0, value)  # in place of NaN, whose gradient would be NaN
        which = known.clamp(0, self.h.shape[-1] - 1).long()
        logits = self.logits.expand(*torch.broadcast_shapes(value.shape, self.batch_shape), -1)
        log_p = logits.gather(-1, which.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        log_p = torch.where(which == known, log_p, -torch.inf)
        return torch.where(value.isnan(), 0.0, torch.where(self.classes == 0, self.real.log_prob(known), log_p))


class Mixed(Likelihood):
    """The entries of a table (D,): real, or of as many classes as a column has; real ones are standardised.

    Args:
        classes: the number of classes of each column; 0 where it is real.
        loc: mean of each column, (D,); 0 where it is left out.
        scale: standard deviation of each column, (D,); 1 where it is left out.
    """

    classes: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, classes: Sequence[int], loc: Tensor | None = None, scale: Tensor | None = None) -> None:
        super().__init__((len(classes),))
        self.multiple = max(2, *classes)
        self.is_discrete = 0 not in classes
        self.register_buffer("classes", torch.tensor(classes))
        self.register_buffer("loc", torch.zeros(len(classes)) if loc is None else loc.clone())
        self.register_buffer("scale", torch.ones(len(classes)) if scale is None else scale.clone())

    def per_coordinate(self, *h: Tensor) -> Any:
        return Columns(torch.stack(h, -1), self.classes, self.loc, self.scale, self.is_discrete)


class Rows(nn.Module):
    """Rows (*, D) as numbers (*, features): real entries standardised, classes one-hot, zero where one is missing.

    A real entry has a second number that says whether it was seen.
    """

    used: Tensor

    def __init__(self, p: Mixed) -> None:
        super().__init__()
        self.p = p
        real = (p.classes == 0).unsqueeze(-1)  # (D, 1)
        codes = torch.arange(p.multiple) < p.classes.clamp(min=1).unsqueeze(-1)  # (D, M)
        self.register_buffer("used", torch.cat([real, codes], -1).flatten().nonzero().squeeze(-1), persistent=False)
        self.features = len(self.used)

    def forward(self, x: Tensor) -> Tensor:
        value = ((x - self.p.loc) / self.p.scale).nan_to_num().unsqueeze(-1)  # (*, D, 1)
        which = torch.where(self.p.classes == 0, 0.0, x).unsqueeze(-1)
        codes = (which == torch.arange(self.p.multiple, device=x.device)) & ~x.isnan().unsqueeze(-1)  # (*, D, M)
        return torch.cat([value, codes.to(x)], -1).flatten(-2)[..., self.used]
