"""A normalising flow over a diagonal Gaussian, by zuko."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution

from ..common.errors import UserError
from ..nn.networks import linears


class Flow(nn.Module):
    r"""A flow of coupling layers, conditional on the features h (*, features), then a location and a scale.

    .. math:: z = \mu(h) + \sigma(h)\, f(u; h), \qquad u \sim N(0, I)

    f starts at the identity, so that training starts at a diagonal Gaussian. Coupling layers draw, and score any value,
    in two passes each, so that every gradient and proposal can be used.

    Use when the posterior is skewed or curved and a better proposal is worth about four times the time of a step. It
    needs zuko: ``pip install 'ppl_vae[flows]'``.

    Args:
        features: width of the features.
        latent: width of z.
        kind: ``"nsf"`` (rational-quadratic splines on [-5, 5]) or ``"maf"`` (affine).
        transforms: coupling layers.
        hidden: widths of the networks inside each.

    Source: Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows, 2019, arXiv:1906.04032. Papamakarios, Pavlakou,
    Murray: Masked Autoregressive Flow for Density Estimation, 2017, arXiv:1705.07057. As a guide: Rezende, Mohamed:
    Variational Inference with Normalizing Flows, 2015, arXiv:1505.05770.

    Raises:
        UserError: another kind, or zuko is not installed.

    Example:
        >>> import torch
        >>> Flow(8, 3)(torch.zeros(5, 8)).event_shape
        torch.Size([3])
    """

    def __init__(
        self, features: int, latent: int, kind: str = "nsf", transforms: int = 3, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        self.linear = linears(features, latent, latent)
        self.flow = coupling("guide 'flow'", latent, features, kind, transforms, hidden)

    def forward(self, h: Tensor) -> Any:
        from pyro.contrib.zuko import ZukoToPyro

        zuko = _zuko()
        loc, log_scale = self.linear(h).chunk(2, -1)
        flow = self.flow(h)
        standardised = zuko.transforms.DependentTransform(Located(loc, log_scale.exp()).inv, 1)
        to_base = zuko.transforms.ComposedTransform(standardised, flow.transform)
        return ZukoToPyro(zuko.distributions.NormalizingFlow(to_base, flow.base))


def coupling(owner: str, latent: int, features: int, kind: str, transforms: int, hidden: Sequence[int]) -> nn.Module:
    """A flow of coupling layers over N(0, I), conditional on ``features`` numbers, that starts at the identity.

    Raises:
        UserError: another kind, or zuko is not installed.
    """
    kinds = {"nsf": "NSF", "maf": "MAF"}
    if kind not in kinds:
        raise UserError(f"{owner}: kind={kind!r}; choose one of {', '.join(kinds)}")
    family = getattr(_zuko(owner).flows, kinds[kind])
    flow: Any = family(latent, features, transforms=transforms, hidden_features=tuple(hidden), passes=2)
    for layer in flow.modules():
        if hasattr(layer, "hyper"):  # of zeros it gives the identity
            nn.init.zeros_(layer.hyper[-1].weight)
            nn.init.zeros_(layer.hyper[-1].bias)
    return flow  # type: ignore[no-any-return]


class Located(AffineTransform):
    """loc + scale u, whose loc (*, latent) is batched: it keeps the shape of an event."""

    def forward_shape(self, shape: Any) -> Any:
        return shape

    def inverse_shape(self, shape: Any) -> Any:
        return shape


def _zuko(owner: str = "guide 'flow'") -> Any:
    before = Distribution._validate_args  # importing zuko changes it
    try:
        import zuko
    except ImportError as error:
        raise UserError(f"{owner} needs zuko: pip install 'ppl_vae[flows]' ({error})") from None
    finally:
        Distribution.set_default_validate_args(before)
    return zuko
