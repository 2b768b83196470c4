"""Hand-written PyTorch: what a programmer gets who writes this one model and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import probabilities, test_images
from ..job import LATENT, LR, Job, Play
from ..nets import Decoder, Encoder, Visits

CHUNK, BLOCK = 256, 32  # samples and images at once: 8192 rows, as in this package


def negative_elbo(encoder: Encoder, decoder: Decoder, x: Tensor) -> Tensor:
    """The sampled ELBO, negated and summed over the batch; constants of the two Gaussians cancel."""
    loc, log_scale = encoder(x)
    eps = torch.randn_like(loc)
    z = loc + log_scale.exp() * eps
    log_ratio = (0.5 * (z.square() - eps.square()) - log_scale).sum()  # log q(z|x) - log p(z)
    return F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + log_ratio


def start(job: Job, compiled: bool = False) -> tuple[Encoder, Decoder, Callable[[], Tensor]]:
    """The networks, and one step of fused Adam on them, which returns its loss: eager, or under ``torch.compile``."""
    torch.manual_seed(job.seed)
    encoder, decoder = Encoder(job.network), Decoder(job.network)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR, fused=True)
    visits = Visits(torch.from_numpy(probabilities(job, "train")), job.batch)
    loss_of = torch.compile(negative_elbo) if compiled else negative_elbo

    def step() -> Tensor:
        loss = loss_of(encoder, decoder, visits.next())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return encoder, decoder, step


def training(job: Job, *, compiled: bool = False) -> Play:
    """A round of steps; the host reads the loss once."""
    torch.set_float32_matmul_precision(job.matmul)
    _, _, step = start(job, compiled)

    def play() -> float:
        total = torch.zeros(())
        for _ in range(job.steps):
            total += step()
        return float(total) / (job.steps * job.batch)

    return play


def trained(job: Job) -> tuple[Encoder, Decoder]:
    """Networks after a few hundred steps: the same weights in every contender for the likelihood."""
    encoder, decoder, step = start(job)
    for _ in range(job.pretrain):
        step()
    return encoder.requires_grad_(False), decoder.requires_grad_(False)


def likelihood(job: Job) -> Play:
    """Importance sampling in chunks, the encoder once for each image, a running logsumexp."""
    encoder, decoder = trained(job)
    torch.set_float32_matmul_precision(job.matmul)
    x = torch.from_numpy(test_images(job))

    @torch.no_grad()
    def play() -> float:
        total = 0.0
        for part in x.split(BLOCK):
            loc, log_scale = encoder(part)
            log_sum = torch.full((len(part),), -math.inf)
            for done in range(0, job.num_samples, CHUNK):
                eps = torch.randn(min(CHUNK, job.num_samples - done), len(part), LATENT)
                z = loc + log_scale.exp() * eps
                logits = decoder(z.flatten(0, 1)).reshape(*z.shape[:2], -1)
                target = part.flatten(1).expand_as(logits)
                log_lik = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
                log_w = log_lik + (log_scale + 0.5 * (eps.square() - z.square())).sum(-1)  # (K, B)
                log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
            total += float((log_sum - math.log(job.num_samples)).sum())
        return total / len(x)

    return play
