"""The option ``prior`` of a pair, as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from .fitted import Fitted
from .vamp import Vamp


def make_prior(
    given: Choice, latent: int, encode: nn.Module | None, data_shape: Sequence[int], data_mean: Tensor | None = None
) -> nn.Module:
    """The prior of z, (latent,).

    Args:
        given: a name of ``registry.PRIORS``, with options or without; a callable ``(latent) -> module``; or a module
            that returns a distribution.
        latent: width of z.
        encode: the guide, a module from x to q(z|x), for ``vamp``; None where the pair has no such module.
        data_shape: shape of one example.
        data_mean: mean of the training data.

    Raises:
        UserError: no such name, or an option that it does not take, ``vamp`` where the pair has no ``encode``, or
            ``fitted``.
    """
    prior: nn.Module = construct("prior", given, latent)
    if isinstance(prior, Fitted):
        raise UserError(
            "prior='fitted' is for a deterministic code: it counts nothing in training, so nothing would hold a guide "
            "that has a density; choose another prior, or an autoencoder"
        )
    if isinstance(prior, Vamp):
        if encode is None:
            raise UserError("prior='vamp' averages q(z|x), which this pair has in no closed form: choose another")
        prior.attach(encode, data_shape, data_mean)
    return prior
