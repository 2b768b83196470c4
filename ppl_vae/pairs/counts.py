"""Counts of genes in cells: z ~ N(0, I), x_g ~ p(mean l rho_g), rho = softmax(decoder(z)), l the size of the cell.

Where l is the total of x, p(x | z, l) has no sum of one over x: compare such numbers with one another alone.

Lopez, Regier, Cole, Jordan, Yosef: Deep generative modeling for single-cell transcriptomics, 2018.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.likelihoods import Likelihood
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Log1p(nn.Module):
    """log(1 + x), a scale of counts for a network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0).log1p()


def log_total(x: Tensor) -> Tensor:
    """Log of the sum of each example, at least 1: (B, 1)."""
    return x.sum(-1, keepdim=True).clamp(min=1).log()


class Model(nn.Module):
    """z ~ prior; log l ~ N, or the log total of x; x ~ likelihood with means l softmax(decoder(z))."""

    pictured = "bars"  # how the figures draw an example

    size: Tensor

    def __init__(self, prior: nn.Module, decoder: nn.Module, p: Likelihood, total: Tensor, drawn: bool) -> None:
        super().__init__()
        self.prior, self.decoder, self.likelihood = prior, decoder, p
        self.register_buffer("size", total.log().reshape(1))
        self.law = nn.Parameter(torch.tensor([0.0, -1.0])) if drawn else None  # of log l - size: mean and log spread

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample("z", self.prior())
            size = self.size if x is None else log_total(x)
            if self.law is not None:
                size = pyro.sample("size", dist.Normal(self.size + self.law[0], self.law[1].exp()).to_event(1))
            log_share, *others = self.decoder(z).unbind(-2)  # (*, genes) each
            h = torch.stack([size + log_share.log_softmax(-1), *others], -2)
            return pyro.sample("x", self.likelihood(h), obs=x)


class Guide(nn.Module):
    """z ~ head(encoder(x)); where l is drawn, log l ~ N(log total + shift, scale^2), with both from the encoder."""

    def __init__(self, encoder: nn.Module, head: nn.Module, size: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.head, self.size = encoder, head, size

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        h = self.encoder(x)
        with data_plate(x, 1):
            if self.size is not None:
                shift, log_scale = self.size(h).chunk(2, -1)
                pyro.sample("size", dist.Normal(log_total(x) + shift, (log_scale - 2).exp()).to_event(1))
            return pyro.sample("z", self.head(h))


@with_networks
def counts(
    networks: Networks,
    *,
    latent: int = 10,
    likelihood: Choice = "negative_binomial",
    library: str = "observed",
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """Counts with the size of each example as a covariate: scVI's model.

    Args:
        latent: latent dimensions.
        likelihood: poisson, negative_binomial or zero_inflated.
        library: observed (the total of x, a covariate) or latent (log-normal).
        guide: family of q(z|x): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, vamp, flow or laplace.

    Raises:
        UserError: data of another shape than (genes,), or no such library.

    Example:
        $ ppl-vae train counts --data counts --latent 5 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
            --num-samples 1000
    """
    shape, mean = networks.data_shape, networks.data_mean
    if len(shape) != 1 or library not in ("observed", "latent"):
        raise UserError(f"data_shape={shape}, library={library!r}: give counts (genes,), and observed or latent")
    p, encoder, decoder = replace(networks, likelihood=likelihood).make(latent)
    head = construct("guide", guide, encoder.features, latent)
    drawn = library == "latent"
    encode = nn.Sequential(Log1p(), encoder)
    total = torch.tensor(100.0) if mean is None else mean.sum()
    model = Model(make_prior(prior, latent, nn.Sequential(encode, head), shape, mean), decoder, p, total, drawn)
    return Pair(model, Guide(encode, head, nn.Linear(encoder.features, 2) if drawn else None))
