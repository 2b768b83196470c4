r"""Denoising diffusion: a chain z_T -> ... -> z_1 -> x whose guide adds noise by a fixed schedule, without parameters.

The guide is of :class:`ppl_vae.nn.noise.Noise`. With u the data, centred and scaled, and r_t = 1 - SNR(t) / SNR(t-1),

.. math:: p(z_{t-1}|z_t) = N(\alpha_{t-1} ((1 - r_t) z_t / \alpha_t + r_t E[u|z_t]),
    \sigma_{t-1}^2 r_t + \alpha_{t-1}^2 r_t^2 \operatorname{var}[u|z_t])

Sohl-Dickstein et al.: Deep Unsupervised Learning using Nonequilibrium Thermodynamics, 2015, arXiv:1503.03585. Ho, Jain,
Abbeel: Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239. Kingma, Salimans, Poole, Ho: Variational
Diffusion Models, 2021, arXiv:2107.00630. The variance: Bao, Li, Zhu, Zhang: Analytic-DPM, 2022, arXiv:2201.06503.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ..common.errors import UserError
from ..nn import likelihoods
from ..nn.likelihoods import Likelihood
from ..nn.networks import Decoder, cat, flat
from ..nn.noise import Noise
from .base import Pair, data_plate
from .networks import Networks, with_networks

WAVES = 4  # sines, and as many cosines, of t / T: what the network sees of t


class Model(nn.Module):
    """z_T ~ N(0, I); z_{t-1} ~ p(z_{t-1} | z_t); x ~ p(x | z_1): one network gives every p(x | z_t)."""

    waves: Tensor
    zero: Tensor

    def __init__(self, noise: Noise, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.noise = noise
        self.decoder = decoder
        self.likelihood = likelihood
        angles = math.pi * torch.linspace(0, 1, noise.levels)[:, None] * 2.0 ** torch.arange(WAVES)  # (T, WAVES)
        self.register_buffer("waves", torch.cat([angles.sin(), angles.cos()], -1), persistent=False)
        self.register_buffer("zero", torch.zeros_like(noise.centre), persistent=False)

    def clean(self, t: Any, z: Tensor) -> tuple[Any, Tensor]:
        """p(x | z_t), and the variance of u given z_t: those of independent coordinates, corrected by the network."""
        noise, axis = self.noise, -1 - self.noise.event_dim
        _, alpha, sigma = noise.at(t)
        value = noise.centre + noise.scale * z / alpha  # x, with noise
        start = self.likelihood.seen(noise.centre.expand_as(z), noise.scale, value, noise.scale * sigma / alpha)
        h = self.decoder(cat(flat(z, noise.event_dim), self.waves[t - 1])).movedim(axis, 0)  # (multiple + 1, *)
        given = torch.cat([(start[0] + sigma * h[0])[None], start[1:] + h[1:-1]])
        return self.likelihood(given.movedim(0, axis)), sigma**2 * h[-1].exp()

    def back(self, t: Any, z: Tensor, clean: Any, v: Tensor) -> Any:
        """p(z_{t-1} | z_t), from p(x | z_t) and the variance of u."""
        return self.noise.back(t, z, self.noise.scaled(self.likelihood.expected(clean)), v)

    def top(self) -> Any:
        """p(z_T)."""
        return dist.Normal(self.zero, 1.0).to_event(self.noise.event_dim)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            z = pyro.sample(f"z{self.noise.levels}", self.top())
            for t in range(self.noise.levels, 1, -1):
                z = pyro.sample(f"z{t - 1}", self.back(t, z, *self.clean(t, z)))
            return pyro.sample("x", self.clean(1, z)[0], obs=x)

    @property
    def num_terms(self) -> int:
        """T, for the objective ``one_term``."""
        return self.noise.levels

    def term(self, t: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        """T times the term of the ELBO at one t for each example, (B,) nats: its mean over t = 1 ... T is the ELBO."""
        noise, u = self.noise, self.noise.scaled(x)
        z = noise.noisy(t, u).sample()
        clean, v = self.clean(t, z)
        s = t.clamp(min=2)  # there is no z_0: the term at t = 1 is log p(x | z_1)
        kl = kl_divergence(noise.back(s, z, u), self.back(s, z, clean, v))
        first = kl_divergence(noise.noisy(noise.levels, u), self.top())
        return noise.levels * torch.where(t == 1, clean.log_prob(x), -kl) - first


class Guide(nn.Module):
    """z_T ~ q(z_T | x); z_{t-1} ~ q(z_{t-1} | z_t, x)."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        u = self.noise.scaled(x)
        with data_plate(x, 1):
            z = pyro.sample(f"z{self.noise.levels}", self.noise.noisy(self.noise.levels, u))
            for t in range(self.noise.levels, 1, -1):
                z = pyro.sample(f"z{t - 1}", self.noise.back(t, z, u))
            return z


@with_networks
def diffusion(networks: Networks, *, levels: int = 50, snr: Sequence[float] = (3.0, -5.0), scale: float = 0.5) -> Pair:
    """Denoising diffusion with a fixed guide, trained by the objective one_term.

    Args:
        levels: T, the latents of the chain, each of the shape of the data.
        snr: log of the signal-to-noise ratio at z_1 and at z_T; it falls linearly between them.
        scale: standard deviation of a number of the data, about: 0.5 for pixels in [0, 1].

    Raises:
        UserError: fewer than two levels, a ratio that does not fall, or a scale that is not positive.

    Example:
        $ ppl-vae train diffusion --levels 20 --epochs 100 --batch-size 64 --lr 2e-3 --schedule linear
            --num-samples 50
    """
    if levels < 2 or len(snr) != 2 or not snr[0] > snr[1]:
        raise UserError(f"levels={levels}, snr={tuple(snr)}: give two levels or more, and a ratio that falls: (3, -5)")
    shape, hidden = tuple(networks.data_shape), tuple(networks.hidden)
    p = likelihoods.make(networks.likelihood, shape, networks.sigma)
    width = math.prod(shape) + 2 * WAVES
    decoder = Decoder(width, shape, hidden[::-1], networks.activation, networks.network, p.multiple + 1)
    centre = torch.zeros(shape) if networks.data_mean is None else networks.data_mean.to(torch.get_default_dtype())
    noise = Noise(centre, scale, torch.linspace(snr[0], snr[1], levels))
    return Pair(Model(noise, decoder, p), Guide(noise))
