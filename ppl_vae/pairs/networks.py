"""The options of every pair with an encoder and a decoder, and the networks that they describe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..common.choices import Choice
from ..common.errors import UserError
from ..nn import likelihoods
from ..nn.networks import Decoder, Encoder
from .base import Pair


@dataclass(frozen=True)
class Networks:
    """An encoder, its mirror the decoder, and p(x | z).

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data; sets the output bias, which is worth about 1 nat on MNIST.
        hidden: widths (or channels) from the data inwards; the decoder mirrors them.
        likelihood: bernoulli, gaussian, gaussian_learned, gaussian_diagonal, gaussian_network, continuous_bernoulli,
            poisson, negative_binomial or discretized; with options as gaussian:sigma=0.5.
        sigma: the same as an option of a Gaussian likelihood.
        network: mlp, resnet or conv (conv1d, conv2d, conv3d say over how many dimensions).
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
    """

    data_shape: Sequence[int]
    data_mean: Tensor | None = None
    hidden: Sequence[int] = (200, 200)
    likelihood: Choice = "bernoulli"
    sigma: float | None = None
    network: Choice = "mlp"
    activation: Choice = "tanh"

    def make(
        self, latent: int, extra: int = 0, encodes: bool = True
    ) -> tuple[likelihoods.Likelihood, Encoder, Decoder]:
        """p(x | z), an encoder, and a decoder of ``latent`` numbers; ``extra`` is the width of labels.

        The output starts at the mean of the data. The encoder takes labels too if it ``encodes`` them.

        Raises:
            UserError: an unknown name, or a size that does not fit.
        """
        if latent < 1:
            raise UserError(f"latent={latent}: at least one latent dimension is needed")
        p = likelihoods.make(self.likelihood, self.data_shape, self.sigma)
        shape, hidden = self.data_shape, tuple(self.hidden)
        decoder = Decoder(latent + extra, shape, hidden[::-1], self.activation, self.network, p.multiple)
        if self.data_mean is not None:
            decoder.set_output(p.start(self.data_mean))
        return p, Encoder(shape, hidden, self.activation, self.network, extra * encodes), decoder


def with_networks(builder: Callable[..., Pair]) -> Callable[..., Pair]:
    """Make a builder ``(networks, *, options)`` one that takes the options of :class:`Networks` as keywords too.

    One that the builder names itself, for another default, goes to the builder alone.

    Example:
        >>> from ppl_vae.pairs.vae import vae
        >>> list(inspect.signature(vae).parameters)[:3]
        ['data_shape', 'data_mean', 'hidden']
    """
    _, *particular = inspect.signature(builder).parameters.values()
    own = {p.name for p in particular}
    shared = {name: p for name, p in inspect.signature(Networks).parameters.items() if name not in own}

    @functools.wraps(builder)
    def build(**options: Any) -> Pair:
        common = {name: options.pop(name) for name in shared if name in options}
        return builder(Networks(**common), **options)

    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared.values(), *particular)]
    build.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return build
