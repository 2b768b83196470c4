"""The values of a site in a message: the entropy model of each kind of distribution, and the grid of a Normal latent.

The entropy coder is that of ``constriction`` (Bamler: Understanding Entropy Coding With Asymmetric Numeral Systems,
2022, arXiv:2201.01741).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..common.errors import PairError, UserError
from ..common.rng import quiet_import
from ..scoring.kinds import has_mask, kind
from .message import Grid

BINS_PER_SCALE = 2.0  # bins of a latent in one of the smallest standard deviations of the guide
MAX_BINS = 2**14  # of a latent
MIN_PROBABILITY = 2.0**-20  # of a value


class SiteCoder:
    """Takes the values of sites from a message, and appends them to it.

    Args:
        words: the message, of uint32.
        grid: of the Normal latents.
        seal: whether the words are data to take values from, not what a coder wrote.
    """

    def __init__(self, words: np.ndarray[Any, Any], grid: Grid, *, seal: bool = False) -> None:
        self.coder = constriction().stack.AnsCoder(words, seal=seal)
        self.grid = grid

    def pop(self, name: str, fn: Any) -> Tensor:
        """Take the value of a site from the message."""
        shape = torch.Size(fn.batch_shape + fn.event_shape)
        model, params, values = _entropy_model(name, fn, shape, self.grid)
        index = torch.from_numpy(np.asarray(self.coder.decode(model, *params))).long()
        value = index * _bin_widths(name, shape, self.grid) if values is None else values[index]
        device, dtype = _device_and_dtype(fn)
        leaf = leaf_of(name, fn)
        if kind(leaf) not in ("Normal", "Bernoulli"):
            dtype = leaf.enumerate_support(expand=False).dtype  # a Categorical is an index
        return value.reshape(shape).to(device, dtype)

    def push(self, name: str, fn: Any, value: Tensor) -> None:
        """Append the value of a site to the message."""
        shape = torch.Size(fn.batch_shape + fn.event_shape)
        model, params, values = _entropy_model(name, fn, shape, self.grid)
        flat = value.detach().expand(shape).reshape(-1).double().cpu()
        if values is None:
            symbols = torch.round(flat / _bin_widths(name, shape, self.grid))
        else:
            symbols = torch.searchsorted((values[1:] + values[:-1]) / 2, flat)
        self.coder.encode_reverse(symbols.to(torch.int32).numpy(), model, *params)


def grid_of(loc: Tensor, scale: Tensor) -> tuple[tuple[list[int], int, int], float]:
    """The grid of a Normal latent of this mean and scale (N, coordinates), and the bits that one example may take."""
    low, high = (loc - 8 * scale).amin(0).clamp(max=0), (loc + 8 * scale).amax(0).clamp(min=0)
    small = scale.sort(0).values[len(scale) // 20]  # exceeded by 95 % of the data
    width = torch.maximum(small / BINS_PER_SCALE, (high - low) / MAX_BINS)
    exponents = torch.floor(-torch.log2(width))
    width = 2.0**-exponents
    ends = int(torch.floor(low / width).min()), int(torch.ceil(high / width).max())
    entropy = torch.log2(scale / width).clamp(min=0).mean(0) + 2.1  # of a rounded Gaussian
    return ([int(e) for e in exponents], *ends), float((entropy + 1).sum())  # and a margin


def leaf_of(name: str, fn: Any) -> Any:
    """The distribution of one number, under its event dimensions.

    Raises:
        PairError: its kind can't be coded.
    """
    leaf = fn
    while isinstance(leaf, torch.distributions.Independent):
        leaf = leaf.base_dist
    known = kind(leaf) in ("Normal", "Bernoulli") or getattr(leaf, "has_enumerate_support", False)
    if not known or leaf.event_shape or hasattr(leaf, "base_dist") or has_mask(fn):
        raise PairError(
            f"site {name!r}: {kind(fn)} can't be coded; compress takes sites that are discrete with few values, and "
            f"latents that are Normal with independent coordinates"
        )
    return leaf


def constriction() -> Any:
    """The stream coders of the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return quiet_import("constriction").stream
    except ImportError:
        raise UserError("compression needs the package constriction: pip install 'ppl_vae[codec]'") from None


def _entropy_model(name: str, fn: Any, shape: torch.Size, grid: Grid) -> tuple[Any, list[Any], Tensor | None]:
    """The entropy model of a site, its parameters, and the values of its symbols; None where those are bins."""
    models = constriction().model
    leaf = leaf_of(name, fn)

    def flat(parameter: Tensor) -> Any:
        return np.ascontiguousarray(parameter.detach().expand(shape).reshape(-1).double().cpu().numpy())

    if kind(leaf) == "Normal":
        _, first, last = grid[name]
        width = _bin_widths(name, shape, grid).numpy()
        return models.QuantizedGaussian(first, last), [flat(leaf.loc) / width, flat(leaf.scale) / width], None
    if kind(leaf) == "Bernoulli":
        p = np.clip(flat(torch.sigmoid(leaf.logits.double())), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return models.Bernoulli(perfect=False), [p], torch.tensor([0.0, 1.0], dtype=torch.float64)
    support = leaf.enumerate_support(expand=False)  # (V, 1, ...)
    with pyro.validation_enabled(False):
        table = torch.exp(leaf.log_prob(support).double())  # (V, ...)
    table = table.expand(len(support), *shape).reshape(len(support), -1).T.clamp(min=MIN_PROBABILITY)
    values = support.reshape(-1).double().cpu()
    return models.Categorical(perfect=False), [np.ascontiguousarray(table.detach().cpu().numpy())], values


def _bin_widths(name: str, shape: torch.Size, grid: Grid) -> Tensor:
    """The width of the bin of each coordinate of a site, one after another."""
    exponents = torch.tensor(grid[name][0], dtype=torch.float64)
    return (2.0**-exponents).expand(shape.numel() // len(exponents), -1).reshape(-1)


def _device_and_dtype(fn: Any) -> tuple[torch.device, torch.dtype]:
    """Those of the parameters of a distribution."""
    leaf = fn
    while hasattr(leaf, "base_dist"):
        leaf = leaf.base_dist
    first = getattr(leaf, next(iter(leaf.arg_constraints)))
    return first.device, first.dtype
