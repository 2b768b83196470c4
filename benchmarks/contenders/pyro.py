"""Stock Pyro, written as its VAE tutorial is: two methods with ``pyro.module``, ``Trace_ELBO``, ``pyro.optim.Adam``."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.importance import vectorized_importance_weights
from torch import Tensor, nn

from ..images import probabilities, test_images
from ..job import LATENT, LR, Job, Play
from ..nets import Decoder, Encoder, Visits
from .pytorch import trained


class VAE(nn.Module):
    """Model and guide."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), x.new_ones(len(x), LATENT)).to_event(1))
            logits = self.decoder(z.flatten(0, -2)).reshape(*z.shape[:-1], *x.shape[1:])  # z: (K, B, 50) or (B, 50)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def training(job: Job, *, tuned: bool = False) -> Play:
    """As in the tutorial, which turns off the validation of distributions alone; batches come without a DataLoader.

    ``tuned`` turns off all validation and takes this package's matmul setting: neither is in the tutorial.
    """
    pyro.distributions.enable_validation(False)
    if tuned:
        pyro.enable_validation(False)
        torch.set_float32_matmul_precision(job.matmul)
    pyro.set_rng_seed(job.seed)
    vae = VAE(Encoder(job.network), Decoder(job.network))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    visits = Visits(torch.from_numpy(probabilities(job, "train")), job.batch)

    def play() -> float:
        return sum(svi.step(visits.next()) for _ in range(job.steps)) / (job.steps * job.batch)

    return play


def likelihood(job: Job) -> Play:
    """One datum at a time: with several, the function sums their weights and estimates no datum's log p(x)."""
    vae = VAE(*trained(job))
    pyro.enable_validation(False)
    x = torch.from_numpy(test_images(job))

    @torch.no_grad()
    def play() -> float:
        total = 0.0
        for one in x.split(1):
            log_w, _, _ = vectorized_importance_weights(
                vae.model, vae.guide, one, num_samples=job.num_samples, max_plate_nesting=1
            )
            total += float(log_w.logsumexp(0)) - math.log(job.num_samples)
        return total / len(x)

    return play
