r"""Topics of documents, as counts of words: z ~ N(0, I), shares t = softmax(s z), n words of x from the topics.

.. math:: \text{product: } p \propto e^{t \beta}, \qquad \text{mixture: } p = \sum_k t_k\,\mathrm{softmax}(\beta_k)

With :math:`s^2 = (1 - 1/K) / \alpha` the shares are nearly Dirichlet with parameter alpha (the Laplace approximation).

Srivastava, Sutton: Autoencoding Variational Inference For Topic Models, 2017, arXiv:1703.01488.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.bags import Bag
from ..nn.networks import Encoder
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .counts import Log1p
from .vae import Guide


def product(shares: Tensor, beta: Tensor) -> Tensor:
    """Log probabilities of words, (*, V), where topics are mixed before the softmax: ProdLDA."""
    return (shares @ beta).log_softmax(-1)


def mixture(shares: Tensor, beta: Tensor) -> Tensor:
    """The same where each word has one topic: latent Dirichlet allocation."""
    log_beta = beta.log_softmax(-1)
    top = log_beta.amax(0)  # of each word over the topics: a word that is rare in all of them does not underflow
    return (shares @ (log_beta - top).exp()).log() + top


WORDS = {"product": product, "mixture": mixture}


class Model(nn.Module):
    """z ~ prior; x ~ multinomial(n, p(softmax(s z))), where n is the number of words of x."""

    pictured = "bars"  # how the figures draw an example
    total: Tensor

    def __init__(self, prior: nn.Module, beta: Tensor, total: Tensor, scale: float, words: str) -> None:
        super().__init__()
        self.prior, self.scale, self.words = prior, scale, words
        self.beta = nn.Parameter(beta)  # (K, V)
        self.register_buffer("total", total)  # words of a document that is drawn

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            log_p = WORDS[self.words]((self.scale * z).softmax(-1), self.beta)
            total = (self.total if x is None else x.sum(-1)).expand(log_p.shape[:-1])
            return pyro.sample("x", Bag(log_p, total), obs=x)


def topics(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    latent: int = 10,
    alpha: float = 0.2,
    words: str = "product",
    hidden: Sequence[int] = (100,),
    activation: Choice = "softplus",
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """A topic model of documents as counts of words; ``pair.model.beta.softmax(-1)`` has the words of each topic.

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data, where every topic starts.
        latent: topics.
        alpha: parameter of the Dirichlet that the shares of topics nearly have; small for few topics in a document.
        words: product (topics are mixed before the softmax) or mixture (each word has one topic).
        hidden: widths of the layers of the guide.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        guide: family of q(z|x): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, vamp, flow or laplace.

    Raises:
        UserError: data of another shape than (words,), fewer than two topics, or no such way to draw words.

    Example:
        $ ppl-vae train topics --data bags --latent 5 --epochs 30 --batch-size 64 --lr 1e-2 --schedule cosine
            --num-samples 500
    """
    if len(data_shape) != 1 or latent < 2 or not alpha > 0 or words not in WORDS:
        raise UserError(
            f"data_shape={tuple(data_shape)}, latent={latent}, alpha={alpha}, words={words!r}: give counts (words,), "
            f"at least two topics, a positive alpha, and {' or '.join(WORDS)}"
        )
    mean = torch.ones(*data_shape) if data_mean is None else data_mean.clamp(min=1e-3)
    encoder = Encoder(data_shape, hidden, activation)
    head = construct("guide", guide, encoder.features, latent)
    encode = nn.Sequential(Log1p(), encoder)
    pz = make_prior(prior, latent, nn.Sequential(encode, head), data_shape, data_mean)
    beta = (mean / mean.sum()).log() + torch.randn(latent, *data_shape)
    return Pair(Model(pz, beta, mean.sum().round(), math.sqrt((1 - 1 / latent) / alpha), words), Guide(encode, head))
