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


class Words(nn.Module):
    """Sentences (B, T), words padded by 0, to what a recurrent network knows after the last word: (B, units)."""

    def __init__(self, vocabulary: int, embedding: int, units: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding, units, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.gru(self.embed(x.long()))[0]  # (B, T, units)
        last = (x != 0).sum(-1).clamp(min=1) - 1
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


class NextWord(nn.Module):
    """The words before (*, T) and a code z (*, latent) to logits of the next word (*, T, vocabulary), and a state.

    Args:
        vocabulary: the number of words, with 0, which stands before the first.
        embedding: width of a word.
        units: width of the recurrent network.
        latent: width of z, which is given at every step.
        dropout: share of the words before that are hidden in training.
    """

    def __init__(self, vocabulary: int, embedding: int, units: int, latent: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding + latent, units, batch_first=True)
        self.out = nn.Linear(units, vocabulary)
        self.hide = nn.Dropout(dropout)

    def forward(self, before: Tensor, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        words = self.embed(before.reshape(-1, before.shape[-1]))  # (N, T, embedding)
        words = words * self.hide(torch.ones_like(words[..., :1]))
        codes = z.reshape(-1, 1, z.shape[-1]).expand(-1, words.shape[1], -1)
        states, state = self.gru(torch.cat([words, codes], -1), state)
        return self.out(states).reshape(*before.shape, -1), state
