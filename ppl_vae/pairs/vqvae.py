r"""VQ-VAE: x has a row of codes, each the nearest of a book, whose tokens have a learned autoregressive prior.

.. math:: p(x, t) = p(x \mid e_{t_1}, ..., e_{t_T}) \prod_i p(t_i \mid t_1, ..., t_{i-1})

The guide gives the nearest codes, with certainty: log p(x | t) + log p(t) is a lower bound of log p(x), which is a sum
over C^T rows of codes. The guide never draws another row, so there is no estimate of log p(x) from it; draws of the
prior (``proposal="prior"``) give one.

van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..nn.autoregressive import Tokens
from ..nn.codes import Codebook, Codes
from ..nn.networks import MLP, Encoder
from ..nn.transformers import Transformer
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


class Prior(nn.Module):
    """Codes of a book, whose tokens are drawn one after another."""

    def __init__(self, book: Codebook, net: Transformer) -> None:
        super().__init__()
        self.book = book
        self.net = net

    def forward(self) -> Any:
        return Codes(self.book, Tokens(self.net, len(self.net.positions), len(self.book.table)))


class Guide(nn.Module):
    """z is the codes nearest to f(x); in training with the loss that moves codes and f(x) towards each other."""

    def __init__(self, encoder: Encoder, book: Codebook, tokens: int, commitment: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.row = MLP((encoder.features, tokens * book.table.shape[1]))
        self.book = book
        self.commitment = commitment

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            z, loss = self.book.quantise(self.row(self.encoder(x)), self.commitment)
            if self.training:
                pyro.factor("commitment", loss, has_rsample=True)
            return pyro.sample("z", dist.Delta(z, event_dim=1))


@with_networks
def vqvae(
    networks: Networks,
    *,
    tokens: int = 8,
    codes: int = 64,
    width: int = 8,
    commitment: float = 0.25,
    depth: int = 2,
) -> Pair:
    """Rows of codes of a book, with a Transformer as their prior: the ELBO is a bound, and the guide gives no log p(x).

    Args:
        tokens: codes for each example.
        codes: codes in the book.
        width: numbers in each code.
        commitment: weight of the loss that keeps the encoder near its codes.
        depth: blocks of the prior.

    Example:
        $ ppl-vae train vqvae --hidden 200 --tokens 4 --codes 32 --epochs 40 --batch-size 64 --lr 2e-3
            --schedule linear
    """
    p, encoder, decoder = networks.make(tokens * width)
    book = Codebook(codes, width)
    prior = Prior(book, Transformer(tokens, codes, depth=depth))
    return Pair(Model(prior, decoder, p), Guide(encoder, book, tokens, commitment))
