"""A deep Markov model of series: z_1 ~ p(z_1), z_t ~ p(z_t | z_{t-1}), x_t ~ p(x_t | z_t).

The guide reads a series from its end: q(z_t | z_{t-1}, x_t, ..., x_T). Steps after the last one of a series are NaN,
and have no latents; a number that is NaN before the last step is missing, and left out.

Krishnan, Shalit, Sontag: Structured Inference Networks for Nonlinear State Space Models, 2017, arXiv:1609.09869.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.likelihoods import Likelihood, seen
from ..nn.networks import MLP
from ..nn.recurrent import FromTheEnd, running
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks, with_networks


class Linear(nn.Module):
    """z_t ~ N(A z_{t-1} + b, diag s^2)."""

    def __init__(self, latent: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, latent)
        self.log_scale = nn.Parameter(torch.full((latent,), -1.0))

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(self.linear(z), self.log_scale.exp()).to_event(1)


class Gated(nn.Module):
    """z_t ~ N((1 - g) (A z_{t-1} + b) + g f, diag s^2), where the gate g, f and s are functions of z_{t-1}."""

    def __init__(self, latent: int, units: int) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.net = MLP((latent, units, 2 * latent), "relu")

    def forward(self, z: Tensor) -> Any:
        gate, f = self.net(z).chunk(2, -1)
        return dist.Normal(self.linear(z).lerp(f, gate.sigmoid()), softplus(self.scale(relu(f))) + 1e-3).to_event(1)


TRANSITIONS = {"gated": Gated, "linear": Linear}


def at(p: Any, on: Tensor | None, t: int) -> Any:
    """The distribution of z_t, which is masked in series that are over."""
    return p if on is None else p.mask(on[:, t])


class Model(nn.Module):
    """z_1 ~ prior, z_t ~ move(z_{t-1}), x_t ~ likelihood(decoder(z_t))."""

    pictured = "series"  # how the figures draw an example

    def __init__(self, prior: nn.Module, move: nn.Module, decoder: nn.Module, p: Likelihood, steps: int) -> None:
        super().__init__()
        self.prior, self.move, self.decoder, self.likelihood, self.steps = prior, move, decoder, p, steps

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        on = None if x is None else running(x)
        with data_plate(x, n):
            z = [pyro.sample("z_1", at(self.prior(), on, 0))]
            for t in range(1, self.steps):
                z.append(pyro.sample(f"z_{t + 1}", at(self.move(z[-1]), on, t)))
            h = self.decoder(torch.stack(z, -2))  # (*, T, multiple, 1, *step)
            last = self.likelihood.event_dim  # of (1, *step)
            p = self.likelihood(h.transpose(-last, -last - 2).squeeze(-last - 2))  # event shape (T, *step)
            return pyro.sample("x", seen(p, x), obs=x)


class Guide(nn.Module):
    """z_t ~ head((tanh(A z_{t-1} + b) + h_t) / 2), where h_t is what the encoder knows of the steps from t on."""

    def __init__(self, encoder: nn.Module, combine: nn.Linear, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.combine, self.head = encoder, combine, head

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        h, on = self.encoder(x), running(x)
        z = h.new_zeros(self.combine.in_features)
        with data_plate(x, 1):
            for t in range(h.shape[1]):
                q = self.head((torch.tanh(self.combine(z)) + h[:, t]) / 2)
                z = pyro.sample(f"z_{t + 1}", at(q, on, t))


@with_networks
def series(
    networks: Networks,
    *,
    latent: int = 4,
    hidden: Sequence[int] = (32,),
    units: int = 64,
    likelihood: Choice = "gaussian_learned",
    transition: str = "gated",
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """A deep Markov model of series of different lengths, padded by NaN.

    Args:
        latent: latent dimensions of a step.
        hidden: widths (or channels) of the networks of one step, from the data inwards.
        units: width of the recurrent network of the guide, and of the transition.
        likelihood: of one step, as for the other pairs.
        transition: gated or linear.
        guide: family of q(z_t | z_{t-1}, x): diagonal, full, flow or mixture.
        prior: family of p(z_1): standard, mixture, flow or laplace.

    Raises:
        UserError: data without steps, or no such transition.

    Example:
        $ ppl-vae train series --data series --latent 4 --epochs 30 --batch-size 64 --lr 1e-2 --schedule cosine
            --num-samples 200
    """
    if len(networks.data_shape) < 1 or transition not in TRANSITIONS or units < 1:
        raise UserError(
            f"data_shape={tuple(networks.data_shape)}, transition={transition!r}, units={units}: give series (steps, "
            f"*shape of a step), one of {', '.join(TRANSITIONS)}, and at least one unit"
        )
    steps, *step = networks.data_shape
    mean = None if networks.data_mean is None else networks.data_mean.mean(0, keepdim=True)
    one = replace(networks, data_shape=(1, *step), data_mean=mean, hidden=hidden, likelihood=likelihood)
    p, encoder, decoder = one.make(latent)
    move = TRANSITIONS[transition](latent, units)
    head = construct("guide", guide, units, latent)
    model = Model(make_prior(prior, latent, None, step), move, decoder, p, steps)
    return Pair(model, Guide(FromTheEnd(encoder, units), nn.Linear(latent, units), head))
