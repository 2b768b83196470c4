r"""Text as tokens: z ~ N(0, I), and each word given z and the words before it. 0 ends a sentence, and pads it.

.. math:: p(x|z) = \prod_t p(x_t | x_{<t}, z), \quad \text{up to the first } x_t = 0

Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio: Generating Sentences from a Continuous Space, 2016, arXiv:1511.06349.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.recurrent import NextWord, Words
from .base import Pair, data_plate
from .vae import Guide


class Sentence(TorchDistribution):
    """Sentences (*, T) given z (*, latent), word by word; after the first 0 there is 0 alone."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, net: NextWord, z: Tensor, length: int) -> None:
        self.net, self.z = net, z
        super().__init__(z.shape[:-1], torch.Size((length,)), validate_args=False)

    @property
    def support(self) -> Any:
        """Words by their numbers."""
        return constraints.independent(constraints.integer_interval(0, self.net.out.out_features - 1), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Sentence:
        return Sentence(self.net, self.z.expand(*batch_shape, -1), *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        words = value.long().expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), -1)
        before = torch.cat([torch.zeros_like(words[..., :1]), words[..., :-1]], -1)
        logits, _ = self.net(before, self.z.expand(*words.shape[:-1], -1))  # (*, T, vocabulary)
        log_p = logits.log_softmax(-1).gather(-1, words.unsqueeze(-1)).squeeze(-1)
        over = (before == 0).cumsum(-1) > 1  # the 0 before the first word is no end
        log_p = torch.where(over, torch.where(words == 0, 0.0, -torch.inf), log_p)
        return log_p.sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        z = self.z.expand(*shape[:-1], -1).reshape(-1, self.z.shape[-1])
        words, state = [z.new_zeros(len(z), dtype=torch.long)], None
        on = torch.ones_like(words[0])
        for _ in range(shape[-1]):
            logits, state = self.net(words[-1].unsqueeze(-1), z, state)
            words.append(on * torch.multinomial(logits.squeeze(1).softmax(-1), 1).squeeze(-1))
            on = on * (words[-1] != 0)
        return torch.stack(words[1:], -1).reshape(shape)


class Model(nn.Module):
    """z ~ prior; x ~ a sentence given z."""

    pictured = "nothing"  # how the figures draw an example

    def __init__(self, prior: nn.Module, net: NextWord, length: int) -> None:
        super().__init__()
        self.prior, self.net, self.length = prior, net, length

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", Sentence(self.net, z, self.length), obs=x)


def sentences(
    *,
    data_shape: Sequence[int],
    vocabulary: int,
    latent: int = 8,
    embedding: int = 32,
    units: int = 64,
    word_dropout: float = 0.0,
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """Sentences of words given as whole numbers, which are padded by 0.

    Args:
        data_shape: shape of one example.
        vocabulary: the number of words, with 0, which is none.
        latent: latent dimensions.
        embedding: width of a word.
        units: width of the recurrent networks.
        word_dropout: share of the words before that the model does not see in training, so that it has to use z.
        guide: family of q(z|x): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, flow or laplace.

    Raises:
        UserError: data of another shape than (steps,), or a share or a size that is none.

    Example:
        $ ppl-vae train sentences --data tokens --latent 4 --epochs 30 --batch-size 64 --lr 5e-3 --schedule cosine
            --num-samples 200
    """
    if len(data_shape) != 1 or min(vocabulary - 1, latent, embedding, units) < 1 or not 0 <= word_dropout < 1:
        raise UserError(
            f"data_shape={tuple(data_shape)}, vocabulary={vocabulary}, word_dropout={word_dropout}: give sentences "
            f"(steps,) of words 0 ... {vocabulary - 1}, sizes of at least one, and a share below 1"
        )
    net = NextWord(vocabulary, embedding, units, latent, word_dropout)
    head = construct("guide", guide, units, latent)
    model = Model(construct("prior", prior, latent), net, *data_shape)
    return Pair(model, Guide(Words(vocabulary, embedding, units), head))
