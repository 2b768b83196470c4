"""Images made of known factors, all combinations once: what disentangling is measured on.

After the data set dSprites of Matthey, Higgins, Hassabis, Lerchner: dSprites: Disentanglement testing Sprites, 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

FACTORS = {"shape": 3, "size": 3, "across": 8, "down": 8}  # name of each column of y: its number of values
SIDE = 16


def factors() -> tuple[Tensor, Tensor]:
    """Images x (576, 1, 16, 16) of zeros and ones, and the values y (576, 4) of their factors, as floating numbers.

    A square, a disc or a cross, of three sizes, with its centre at one of 8 x 8 places.

    Example:
        >>> x, y = factors()
        >>> x.shape, y.amax(0).tolist()
        (torch.Size([576, 1, 16, 16]), [2.0, 2.0, 7.0, 7.0])
    """
    y = torch.cartesian_prod(*(torch.arange(count) for count in FACTORS.values()))  # (576, 4)
    shape, size, across, down = (value[:, None, None] for value in y.T)
    radius = 2.0 + size  # 2, 3, 4
    pixel = torch.arange(SIDE)
    dx, dy = (pixel - (4 + across)).abs(), (pixel[:, None] - (4 + down)).abs()  # (576, 1, 16) and (576, 16, 1)
    square = torch.maximum(dx, dy) <= radius - 0.5
    disc = dx**2 + dy**2 <= radius**2
    cross = (torch.minimum(dx, dy) < 1) & (torch.maximum(dx, dy) <= radius)
    x = torch.where(shape == 0, square, torch.where(shape == 1, disc, cross))
    return x[:, None].float(), y.float()
