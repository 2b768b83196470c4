"""A book of codes: vectors, tokens that number them, and the distribution of several codes in a row."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ..common.errors import UserError
from .autoregressive import Tokens


class Codebook(nn.Module):
    """C codes of D numbers each, which are learned.

    Args:
        codes: C.
        width: D.

    Example:
        >>> book = Codebook(16, 3)
        >>> torch.equal(book.nearest(book.read(torch.arange(16.0))), torch.arange(16))
        True
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        if codes < 2 or width < 1:
            raise UserError(f"codes={codes}, width={width}: give at least two codes, of at least one number")
        self.table = nn.Parameter(0.1 * torch.randn(codes, width))

    def read(self, tokens: Tensor) -> Tensor:
        """The codes of tokens (*, T), in a row, (*, T * D)."""
        return self.table[tokens.long()].flatten(-2)

    def nearest(self, h: Tensor) -> Tensor:
        """The tokens (*, T) of the codes nearest to h (*, T * D)."""
        h = h.unflatten(-1, (-1, self.table.shape[1]))
        return ((self.table**2).sum(1) - 2 * h @ self.table.mT).argmin(-1)  # |h - e|^2 less |h|^2

    def quantise(self, h: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
        r"""The nearest codes e of h (*, T * D), whose gradient is that of h, and the loss of both, (*,).

        .. math:: |\mathrm{sg}(h) - e|^2 + \beta\, |h - \mathrm{sg}(e)|^2
        """
        e = self.read(self.nearest(h))
        loss = ((h.detach() - e) ** 2 + commitment * (h - e.detach()) ** 2).sum(-1)
        return h + (e - h).detach(), loss


class Rows(constraints.Constraint):
    """Rows (T * D,) of codes of a book."""

    is_discrete = True
    event_dim = 1

    def __init__(self, book: Codebook) -> None:
        self.book = book

    def check(self, value: Tensor) -> Tensor:
        """Which values (*, T * D) are rows of codes, up to rounding."""
        off = (value - self.book.read(self.book.nearest(value))).abs()
        return (off <= 1e-4 * (1 + value.abs())).all(-1)


class Codes(TorchDistribution):
    """Codes in a row, (T * D,), whose tokens have a distribution.

    Args:
        book: a book of codes.
        tokens: the distribution of their tokens, (T,).

    Example:
        >>> from .transformers import Transformer
        >>> p = Codes(Codebook(16, 3), Tokens(Transformer(4, 16, width=8), 4, 16))
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, book: Codebook, tokens: Tokens) -> None:
        self.book, self.tokens = book, tokens
        event = torch.Size((tokens.event_shape[0] * book.table.shape[1],))
        super().__init__(tokens.batch_shape, event, validate_args=False)

    @property
    def support(self) -> Any:
        """The rows of codes."""
        return Rows(self.book)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Codes:
        return Codes(self.book, self.tokens.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.book.nearest(value)
        return self.tokens.log_prob(tokens.to(value))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.book.read(self.tokens.sample(sample_shape))
