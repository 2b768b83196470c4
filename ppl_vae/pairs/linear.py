"""Probabilistic PCA: a pair with known evidence and posterior, against which estimates are tested.

Tipping, Bishop: Probabilistic Principal Component Analysis, 1999. Lucas, Tucker, Grosse, Norouzi: Don't Blame the
ELBO!, 2019, arXiv:1911.02469.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..common.registry import GUIDES
from ..nn.networks import Encoder, flat
from ..priors.standard import StandardNormal
from .base import Pair, data_plate
from .vae import Guide


class LinearGuide(nn.Module):
    """z ~ N(V x + b, diag(s)^2): that of a linear model has a scale that does not depend on x."""

    def __init__(self, data_shape: Sequence[int], latent: int) -> None:
        super().__init__()
        self.dims = len(data_shape)
        self.loc = nn.Linear(math.prod(data_shape), latent)
        self.log_s = nn.Parameter(torch.zeros(latent))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", dist.Normal(self.loc(flat(x, self.dims)), self.log_s.exp()).to_event(1))


class Model(nn.Module):
    """z ~ N(0, I); x ~ N(W z + m, s^2 I)."""

    def __init__(self, data_shape: Sequence[int], latent: int, sigma: float) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.prior = StandardNormal(latent)
        self.W = nn.Parameter(torch.randn(math.prod(data_shape), latent) / math.sqrt(latent))  # (D, L)
        self.m = nn.Parameter(torch.zeros(math.prod(data_shape)))
        self.log_s = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            mean = (z @ self.W.T + self.m).reshape(*z.shape[:-1], *self.data_shape)
            return pyro.sample("x", dist.Normal(mean, self.log_s.exp()).to_event(len(self.data_shape)), obs=x)

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; m, W W' + s^2 I), exact, (B,) nats."""
        s2 = self.log_s.exp() ** 2
        covariance = self.W @ self.W.T + s2 * torch.eye(self.W.shape[0], dtype=s2.dtype, device=s2.device)
        log_px: Tensor = dist.MultivariateNormal(self.m, covariance).log_prob(flat(x, len(self.data_shape)))
        return log_px

    def posterior(self, x: Tensor) -> Any:
        """p(z|x) = N(M^-1 W'(x - m), s^2 M^-1) with M = W'W + s^2 I; batch shape (B,), event shape (L,)."""
        s2 = self.log_s.exp() ** 2
        precision = self.W.T @ self.W / s2 + torch.eye(self.W.shape[1], dtype=s2.dtype, device=s2.device)
        root = torch.linalg.cholesky(precision)
        shift = (flat(x, len(self.data_shape)) - self.m) @ self.W / s2  # (B, L)
        loc = torch.cholesky_solve(shift.unsqueeze(-1), root).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    @torch.no_grad()
    def set_maximum_likelihood(self, x: Tensor) -> None:
        """Set W, m and s to their maximum-likelihood values for data x (N, *data_shape).

        .. math:: W = U (\\Lambda - s^2 I)^{1/2}, \\qquad s^2 = \\text{mean of the discarded eigenvalues}
        """
        flat = x.reshape(x.shape[0], -1).to(self.W)
        latent = self.W.shape[1]
        if latent >= flat.shape[1]:
            raise UserError(f"latent={latent} of {flat.shape[1]} dimensions leaves none for the noise; use fewer")
        values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))  # ascending
        s2 = values[:-latent].mean()
        self.m.copy_(flat.mean(0))
        self.W.copy_(vectors[:, -latent:] * (values[-latent:] - s2).clamp(min=0).sqrt())
        self.log_s.copy_(s2.log() / 2)


class ExactGuide(nn.Module):
    """z ~ p(z|x), computed by the model: every importance weight equals p(x)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", self.model.posterior(x))


def linear(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    latent: int = 2,
    sigma: float = 1.0,
    guide: Choice = "linear",
) -> Pair:
    """Probabilistic PCA; ``pair.model.evidence(x)`` and ``pair.model.posterior(x)`` are exact.

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data, where m starts.
        latent: latent dimensions.
        sigma: where s starts.
        guide: linear (z ~ N(V x + b, diag(s)^2)), exact (the posterior), or a family whose parameters are linear in x:
            diagonal, full, flow or mixture.

    Raises:
        UserError: an unknown guide.

    Example:
        $ ppl-vae train linear --latent 10 --epochs 100 --batch-size 64 --lr 1e-2 --schedule linear --num-samples 1000
    """
    known = ("linear", "exact", *GUIDES)
    if isinstance(guide, str) and guide.partition(":")[0] not in known:
        raise UserError(f"guide={guide!r}: choose one of {', '.join(known)}, or give a callable")
    model = Model(data_shape, latent, sigma)
    if data_mean is not None:
        model.m.data.copy_(data_mean.flatten())
    if guide == "exact":
        return Pair(model, ExactGuide(model))
    if guide == "linear":
        return Pair(model, LinearGuide(data_shape, latent))
    encoder = Encoder(data_shape, ())
    return Pair(model, Guide(encoder, construct("guide", guide, encoder.features, latent)))
