"""Recurrent networks over the steps of a series."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .networks import Encoder, cat, flat


def running(x: Tensor) -> Tensor:
    """The steps of each series up to its last one: (B, T, *step) to (B, T) bool."""
    known = flat(~x.isnan(), x.dim() - 2).any(-1)
    return known.flip(1).cumsum(1).flip(1) > 0


class FromTheEnd(nn.Module):
    """A series (B, T, *step) to what a recurrent network knows at each step of those from it on: (B, T, units)."""

    def __init__(self, encoder: Encoder, units: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.cell = nn.GRUCell(encoder.features + math.prod(encoder.data_shape), units)

    def forward(self, x: Tensor) -> Tensor:
        h = cat(self.encoder(x.nan_to_num().unsqueeze(2)), flat(~x.isnan(), x.dim() - 2).to(x))
        on = running(x)
        states = [h.new_zeros(len(x), self.cell.hidden_size)]
        for t in reversed(range(x.shape[1])):
            states.append(torch.where(on[:, t, None], self.cell(h[:, t], states[-1]), states[-1]))
        return torch.stack(states[:0:-1], 1)
