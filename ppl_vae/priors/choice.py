"""The option ``prior`` of a pair, as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..common.choices import Choice, construct, record
from ..common.errors import UserError


def make_prior(
    given: Choice, latent: int, encode: nn.Module | None, data_shape: Sequence[int], data_mean: Tensor | None = None
) -> nn.Module:
    """The prior of z, (latent,).

    Args:
        given: a name of ``registry.PRIORS``, with options or without; a callable ``(latent) -> module``; or a module
            that returns a distribution.
        latent: width of z.
        encode: the guide, a module from x to q(z|x), for a prior that has a method ``attach``; None where the pair has
            none in closed form.
        data_shape: shape of one example.
        data_mean: mean of the training data.

    Raises:
        UserError: no such name, an option that it does not take, or a prior that needs the guide that the pair lacks.
    """
    prior: nn.Module = construct("prior", given, latent)
    if hasattr(prior, "attach"):
        if encode is None:
            raise UserError(
                f"prior={record(given)!r:.60}: it is an average of q(z|x), which this pair does not have in closed "
                f"form; choose another"
            )
        prior.attach(encode, data_shape, data_mean)
    return prior
