"""A normalising flow over a standard normal, by zuko."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..guides.flow import coupling


class Flow(nn.Module):
    r"""A flow of coupling layers over N(0, I), learned with the model.

    .. math:: z = f(u), \qquad u \sim N(0, I)

    f starts at the identity. Its layers draw and score in two passes each.

    Use when the guide's average over the data is no Gaussian, and its shape is not that of a few groups either. It
    needs zuko: ``pip install 'ppl_vae[flows]'``.

    Args:
        latent: width of z.
        kind: ``"nsf"`` (rational-quadratic splines on [-5, 5]) or ``"maf"`` (affine).
        transforms: coupling layers.
        hidden: widths of the networks inside each.

    Source: Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever, Abbeel: Variational Lossy Autoencoder, 2016,
    arXiv:1611.02731.

    Raises:
        UserError: another kind, or zuko is not installed.

    Example:
        >>> Flow(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, latent: int, kind: str = "nsf", transforms: int = 4, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.flow = coupling("prior 'flow'", latent, 0, kind, transforms, hidden)

    def forward(self) -> Any:
        from pyro.contrib.zuko import ZukoToPyro

        return ZukoToPyro(self.flow())
