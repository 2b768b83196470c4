r"""Noise that grows along a chain: the schedule of a diffusion, and the Gaussians that it makes of known data.

With u the data, centred and scaled, and r_t = 1 - SNR(t) / SNR(t-1),

.. math:: q(z_t|x) = N(\alpha_t u, \sigma_t^2), \qquad
    q(z_{t-1}|z_t, x) = N(\alpha_{t-1} ((1 - r_t) z_t / \alpha_t + r_t u), \sigma_{t-1}^2 r_t)

Kingma, Salimans, Poole, Ho: Variational Diffusion Models, 2021, arXiv:2107.00630.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .likelihoods import positive


class Noise(nn.Module):
    """The schedule of T steps: SNR(t) = alpha_t^2 / sigma_t^2, with alpha_t^2 + sigma_t^2 = 1; t = 1 ... T.

    Args:
        centre: mean of the data, of the shape of one example.
        scale: standard deviation of a number of the data, about.
        log_snr: log SNR(t), (T,), falling.

    Raises:
        UserError: a scale that is not positive.
    """

    centre: Tensor
    scale: Tensor
    log_snr: Tensor

    def __init__(self, centre: Tensor, scale: float, log_snr: Tensor) -> None:
        super().__init__()
        self.event_dim, self.levels = centre.dim(), len(log_snr)
        self.register_buffer("centre", centre.clone())  # of the data, so kept with the weights
        self.register_buffer("scale", torch.tensor(positive("scale", scale)), persistent=False)
        self.register_buffer("log_snr", log_snr, persistent=False)

    def at(self, t: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Log SNR, alpha and sigma at a step, or at a step for each example (B,)."""
        ratio = self.log_snr[t - 1]
        ratio = ratio.reshape(ratio.shape + (1,) * self.event_dim)
        return ratio, torch.sigmoid(ratio).sqrt(), torch.sigmoid(-ratio).sqrt()

    def scaled(self, x: Tensor) -> Tensor:
        """u, the data centred and scaled."""
        return (x - self.centre) / self.scale

    def noisy(self, t: Any, u: Tensor) -> Any:
        """q(z_t | x)."""
        _, alpha, sigma = self.at(t)
        return dist.Normal(alpha * u, sigma).to_event(self.event_dim)

    def back(self, t: Any, z: Tensor, u: Tensor, v: Tensor | float = 0.0) -> Any:
        """q(z_{t-1} | z_t, x), for t from 2 on; the Gaussian nearest to its mean over u of mean u and variance v."""
        (now, alpha, _), (before, alpha1, sigma1) = self.at(t), self.at(t - 1)
        r = -torch.expm1(now - before)
        variance = sigma1**2 * r + (alpha1 * r) ** 2 * v
        return dist.Normal(alpha1 * ((1 - r) * z / alpha + r * u), variance.sqrt()).to_event(self.event_dim)
