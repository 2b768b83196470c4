r"""An autoencoder whose code changes little with x: a price on the squared Jacobian of the encoder.

.. math:: \max \log p(x | z = f(x)) - \lambda \left\| \frac{\partial f}{\partial x} \right\|_F^2, \qquad
    f(x) = s(A h(x) + b)

Without hidden layers, h(x) = x, the norm is exact: :math:`\sum_j s'_j(x)^2 \|A_j\|^2`. With them it is estimated by
:math:`\|v^T \partial f / \partial x\|^2` at random signs v (Hutchinson 1990), whose mean it is.

Rifai, Vincent, Muller, Glorot, Bengio: Contractive Auto-Encoders: Explicit Invariance During Feature Extraction, 2011.
"""

from __future__ import annotations

from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice
from ..common.errors import UserError
from ..nn.networks import MLP, Encoder, Mirror
from .autoencoder import prior_of_codes
from .base import Pair, data_plate
from .networks import Networks, with_networks
from .vae import Model


class Guide(nn.Module):
    """z = tanh(A h(x) + b), with a factor: the price of its Jacobian."""

    def __init__(self, encoder: Encoder, latent: int, weight: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = MLP((encoder.features, latent))
        self.weight = weight
        self.exact = isinstance(encoder.net, nn.Identity)

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.code(self.encoder(x)).tanh()
        return z

    def contraction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The code (B, latent), and the squared Frobenius norm of its Jacobian or an unbiased estimate, (B,)."""
        if self.exact:
            z, weight = self.encode(x), cast(Tensor, self.code[0].weight)  # (B, latent), (latent, numbers of x)
            return z, (1 - z**2).square() @ weight.square().sum(1)
        z, pull = cast(Any, torch.func.vjp(self.encode, x))
        signs = torch.randint_like(z, 2) * 2 - 1
        return z, pull(signs)[0].flatten(1).square().sum(1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        z, norm = self.contraction(x)
        with data_plate(x, 1):
            pyro.factor("contraction", self.weight * norm, has_rsample=True)  # the ELBO has minus this
            return pyro.sample("z", dist.Delta(z, event_dim=1))


@with_networks
def contractive_autoencoder(
    networks: Networks, *, latent: int = 20, weight: float = 0.1, tied: bool = True, prior: Choice = "fitted"
) -> Pair:  # fmt: skip
    """An autoencoder whose code, in [-1, 1], is made insensitive to what does not help to rebuild x.

    Args:
        latent: width of the code.
        weight: price of the squared norm of the encoder's Jacobian, in nats.
        tied: whether the decoder has the encoder's weights, transposed (network mlp); else it can undo the contraction.
        prior: as of the autoencoder.

    Raises:
        UserError: a negative weight; a prior that learns; tied weights with other networks, or two outputs for a
            number.

    Example:
        $ ppl-vae train contractive_autoencoder --latent 10 --epochs 30 --batch-size 64 --lr 2e-3
            --schedule linear
    """
    if not weight >= 0:
        raise UserError(f"weight={weight}: the price of the Jacobian is at least 0 nats")
    p, encoder, decoder = networks.make(latent)
    guide = Guide(encoder, latent, weight)
    if tied:
        decoder.net = Mirror(nn.Sequential(encoder, guide.code), decoder.net, networks.activation)
    return Pair(Model(prior_of_codes(prior, latent), decoder, p), guide)
