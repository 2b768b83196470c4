"""Samples and reconstructions."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .style import need, plain, tiles


def reconstructions(x: Tensor, x_hat: Tensor, n: int = 10, *, pictured: str = "auto") -> Figure:
    """The first n examples (N, *shape) in a row, and in the row below the reconstruction of each.

    ``pictured`` says how one is drawn: auto, series, bars or columns.

    Example:
        >>> figure = reconstructions(torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['data', 'reconstruction']
    """
    given = f"{tuple(x.shape)} and {tuple(x_hat.shape)}"
    need(x.shape == x_hat.shape and min(len(x), n) > 0, f"reconstructions: {given}, n={n}: give equal shapes, n >= 1")
    pairs = torch.stack([plain(x[:n]), plain(x_hat[:n])])
    return tiles(pairs, ["data", "reconstruction"], behind=pairs[:1].expand_as(pairs), pictured=pictured)


def samples(x: Tensor, columns: int = 8, *, pictured: str = "auto") -> Figure:
    """Examples (N, *shape) in a grid, row by row.

    ``pictured`` says how one is drawn: auto, series, bars or columns.

    Example:
        >>> samples(torch.rand(10, 1, 8, 8), columns=5).axes[0].images[0].get_array().shape
        (18, 45)
    """
    need(min(len(x), columns) > 0, f"samples: {len(x)} examples in {columns} columns; give at least one of each")
    columns = min(columns, len(x))
    rows = math.ceil(len(x) / columns)
    cells = torch.full((rows * columns, *x.shape[1:]), math.nan)
    cells[: len(x)] = plain(x)
    return tiles(cells.reshape(rows, columns, *x.shape[1:]), pictured=pictured)
