r"""A normalising flow of x: with no latents, or where x has whole levels, with noise that fills their cells.

Continuous x is an invertible map of Gaussian noise, and log p(x) is its log density, exact:

.. math:: x = \mu + \sigma f(u), \qquad u \sim N(0, I)

Of n levels, z = sigmoid of that lies in the unit cube, and x is the cell of z. The guide draws z uniformly in the cell:
the ELBO bounds the log probability of x, and importance weights average to it.

.. math:: P(x) = \int_{\mathrm{cell}(x)} p(z)\,dz \ge \exp E_q \log \frac{p(z)}{n^D}

Dinh, Sohl-Dickstein, Bengio: Density estimation using Real NVP, 2016, arXiv:1605.08803. Durkan, Bekasov, Murray,
Papamakarios: Neural Spline Flows, 2019, arXiv:1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn

from ..common.errors import UserError
from ..guides.flow import coupling
from ..nn.dequantisation import Cells, Dequantised
from ..priors.standard import StandardNormal
from .base import Pair, data_plate


class Density(nn.Module):
    """The distribution of x, or of z in the unit cube."""

    def __init__(self, flow: nn.Module, data_shape: Sequence[int], loc: Tensor, scale: float, bounded: bool) -> None:
        super().__init__()
        self.flow = flow
        self.noise = StandardNormal(len(loc))
        self.loc = nn.Parameter(loc)
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(scale)))
        self.shape = T.ReshapeTransform(loc.shape, torch.Size(data_shape))
        self.ends = [T.SigmoidTransform()] if bounded else []

    def forward(self) -> Any:
        placed = T.AffineTransform(self.loc, self.log_scale.exp(), event_dim=1)
        return dist.TransformedDistribution(self.noise(), [self.flow().transform.inv, placed, self.shape, *self.ends])


class Model(nn.Module):
    """x ~ density; or z ~ density, and x is the cell of z."""

    def __init__(self, density: Density, levels: int) -> None:
        super().__init__()
        self.density = density
        self.levels = levels

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        p = self.density()
        with data_plate(x, n):
            if not self.levels:
                return pyro.sample("x", p, obs=x)
            z = pyro.sample("z", p)
            return pyro.sample("x", Cells(z, self.levels, len(p.event_shape)), obs=x)


class Guide(nn.Module):
    """Empty; or z uniform in the cell of x."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        with data_plate(x, 1):
            return pyro.sample("z", Dequantised(x, self.levels, x.dim() - 1)) if self.levels else None


def flow(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    levels: int = 256,
    kind: str = "nsf",
    transforms: int = 4,
    hidden: Sequence[int] = (64, 64),
) -> Pair:
    """A flow of coupling layers: of continuous data a density, of whole levels a bound by uniform noise.

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data, where the flow starts.
        levels: values of one number, which lie in [0, 1]: 256 for 8-bit pixels; 0 for continuous data.
        kind: nsf (rational-quadratic splines) or maf (affine, as in RealNVP).
        transforms: coupling layers.
        hidden: widths of the networks inside each.

    Raises:
        UserError: one level, another kind, or zuko is not installed.

    Example:
        $ ppl-vae train flow --levels 17 --binarize none --kind maf --epochs 20 --batch-size 64 --lr 2e-3
            --schedule linear --num-samples 100
    """
    if levels < 0 or levels == 1:
        raise UserError(f"levels={levels}: give the number of values of one number, or 0 for continuous data")
    size = math.prod(data_shape)
    loc = torch.full((size,), 0.5 if levels else 0.0) if data_mean is None else data_mean.flatten().clone()
    if levels:
        loc = torch.logit(((levels - 1) * loc + 0.5) / levels)  # the mean of z, uniform in its cell
    layers = coupling("pair 'flow'", size, 0, kind, transforms, hidden)
    for weight in layers.parameters():  # at the identity most of the gradients are zero
        weight.data.add_(0.01 * torch.randn_like(weight))
    return Pair(Model(Density(layers, data_shape, loc, 2.0 if levels else 1.0, bool(levels)), levels), Guide(levels))
