"""Distributions that factorise: p(x) = prod_t p(x_t | x_<t), over pixels of a few levels, or tiles of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ..common.errors import UserError
from .distributions import grid
from .networks import flat


def outputs(classes: int) -> int:
    """Numbers that a network gives for one step: a logit for two classes, else one for each."""
    return 1 if classes == 2 else classes


def pixels_of(data_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of an image; of other data, one row.

    Example:
        >>> pixels_of((3, 8, 8)), pixels_of((8, 8)), pixels_of((7,))
        ((3, 8, 8), (1, 8, 8), (1, 1, 7))
    """
    shape = tuple(data_shape) if 1 < len(data_shape) < 4 else (math.prod(data_shape),)
    channels, height, width = (1,) * (3 - len(shape)) + shape
    return channels, height, width


def raster(data_shape: Sequence[int], tile: int = 1) -> Tensor:
    """The places in a flat example of the numbers of each step, (T, tile * tile): rows, columns, then channels.

    Raises:
        UserError: tiles that do not fill the image.

    Example:
        >>> raster((2, 1, 3)).flatten()
        tensor([0, 3, 1, 4, 2, 5])
        >>> raster((4, 4), tile=2)[0]
        tensor([0, 1, 4, 5])
    """
    channels, height, width = pixels_of(data_shape)
    if tile < 1 or height % tile or width % tile:
        raise UserError(f"tile={tile}: it must divide the height and the width of data_shape={tuple(data_shape)}")
    places = torch.arange(channels * height * width)
    split = places.reshape(channels, height // tile, tile, width // tile, tile)
    return split.permute(1, 3, 0, 2, 4).reshape(-1, tile * tile)


class Steps(nn.Module):
    """Examples as tokens, one a step: x (*, *data_shape) in {0, 1/(levels - 1), ..., 1} to (*, T), and back.

    Args:
        data_shape: shape of one example.
        places: the places in a flat example of the numbers of each step, (T, S).
        levels: values of one number.

    Example:
        >>> steps = Steps((4, 4), raster((4, 4), tile=2))
        >>> steps.classes, steps.encode(torch.ones(5, 4, 4)).shape, steps.decode(torch.zeros(5, 4)).shape
        (16, torch.Size([5, 4]), torch.Size([5, 4, 4]))
    """

    places: Tensor
    weights: Tensor

    def __init__(self, data_shape: Sequence[int], places: Tensor, levels: int = 2) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(f"levels={levels}: a number has at least 2 values")
        self.data_shape = tuple(data_shape)
        self.levels = levels
        self.length, size = places.shape
        self.classes = levels**size
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("weights", levels ** torch.arange(size), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Tokens (*, T): whole numbers below ``classes``, in the dtype of x."""
        values = (flat(x, len(self.data_shape)) * (self.levels - 1)).round().clamp(0, self.levels - 1)
        return (values[..., self.places] * self.weights).sum(-1)

    def decode(self, tokens: Tensor) -> Tensor:
        """x (*, *data_shape), in the dtype of the tokens."""
        digits = tokens.long().unsqueeze(-1) // self.weights % self.levels  # (*, T, S)
        x = digits.flatten(-2)[..., self.places.flatten().argsort()].to(tokens) / (self.levels - 1)
        return x.reshape(*tokens.shape[:-1], *self.data_shape)


class Tokens(TorchDistribution):
    r"""Tokens (T,) whose probabilities depend on those before, by a network.

    .. math:: p(t) = \frac{1}{M} \sum_m \prod_i p_m(t_{\sigma_m(i)} | t_{\sigma_m(1)}, ..., t_{\sigma_m(i-1)})

    Args:
        net: tokens (N, T) to logits, (N, T, outputs), or (M, N, T, outputs) of M models of equal weight, where
            ``outputs`` is 1 for two classes. Draws take one pass for each token; a network with a cache has a method
            ``stepwise``, which gives a function of (tokens, i) to the logits of token i, (N, outputs).
            Its attribute ``order``, (M, T), is sigma; without it, tokens follow one another.
        length: T.
        classes: values of a token, 0 to classes - 1.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, net: nn.Module, length: int, classes: int, batch_shape: Any = ()) -> None:
        self.net, self.classes = net, classes
        super().__init__(torch.Size(batch_shape), torch.Size((length,)), validate_args=False)

    @property
    def support(self) -> Any:
        """Whole numbers."""
        return constraints.independent(constraints.integer_interval(0, self.classes - 1), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Tokens:
        return Tokens(self.net, self.event_shape[0], self.classes, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        tokens = value.reshape(-1, value.shape[-1])
        log_p = _log_softmax(self.net(tokens))  # (N, T, classes), or (M, N, T, classes)
        index = tokens.long().clamp(0, self.classes - 1).unsqueeze(-1)
        each = log_p.gather(-1, index.expand(*log_p.shape[:-1], 1)).squeeze(-1).sum(-1)
        each = each + 0 * tokens.sum(-1)  # NaN where an entry is missing
        if each.dim() == 2:
            each = each.logsumexp(0) - math.log(len(each))
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return each.reshape(value.shape[:-1]).expand(batch)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        tokens = next(self.net.parameters()).new_zeros(shape[:-1].numel(), shape[-1])
        order = getattr(self.net, "order", torch.arange(shape[-1], device=tokens.device).unsqueeze(0))  # (M, T)
        rows = torch.arange(len(tokens), device=tokens.device)
        which = torch.randint(len(order), rows.shape, device=tokens.device)  # a model for each row
        start = getattr(self.net, "stepwise", None)
        step = None if start is None else start()
        for i in range(shape[-1]):
            at = order[which, i]  # (N,)
            if step is None:
                logits = self.net(tokens)
                logits = logits[rows, at] if logits.dim() == 3 else logits[which, rows, at]
            else:
                logits = step(tokens, i)
            tokens[rows, at] = torch.multinomial(_log_softmax(logits).exp(), 1)[:, 0].to(tokens)
        return tokens.reshape(shape)


def _log_softmax(logits: Tensor) -> Tensor:
    """Log probabilities (*, classes); one number is the logit of the second class of two."""
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return logits.log_softmax(-1)


class Autoregressive(TorchDistribution):
    """p(x) = prod_t p(x_t | x_<t), exact: :class:`Tokens` as examples, with event shape ``steps.data_shape``.

    Args:
        net: a network of tokens, as for :class:`Tokens`.
        steps: how an example is tokens.

    Example:
        >>> class Coin(nn.Linear):
        ...     def forward(self, tokens):
        ...         return self.bias.expand(*tokens.shape, 1)
        >>> p = Autoregressive(Coin(1, 1), Steps((2, 2), raster((2, 2))))
        >>> p.sample((5,)).shape, p.log_prob(torch.zeros(5, 2, 2)).shape
        (torch.Size([5, 2, 2]), torch.Size([5]))
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, net: nn.Module, steps: Steps, batch_shape: Any = ()) -> None:
        self.steps = steps
        self.tokens = Tokens(net, steps.length, steps.classes, batch_shape)
        super().__init__(torch.Size(batch_shape), torch.Size(steps.data_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """The levels of a number, over the whole event."""
        return constraints.independent(grid(self.steps.levels), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        return Autoregressive(self.tokens.net, self.steps, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.tokens.log_prob(self.steps.encode(value))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.steps.decode(self.tokens.sample(sample_shape))
