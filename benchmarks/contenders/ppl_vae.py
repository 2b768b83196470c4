"""This package, as its users call it."""

from __future__ import annotations

import threading
from queue import Queue
from typing import Any

import torch

import ppl_vae as pv

from ..images import probabilities, test_images
from ..job import HIDDEN, LATENT, LR, SHAPE, Job, Play
from ..nets import Visits
from .pytorch import trained


def pair_for(job: Job, latent: int = LATENT) -> pv.Pair:
    """The registered VAE in the sizes of the job."""
    torch.manual_seed(job.seed)
    return pv.build(
        "vae", data_shape=SHAPE, latent=latent, hidden=HIDDEN[job.network], network=job.network, activation="softplus"
    )


def training(job: Job, *, capture: bool) -> Play:
    """A loop of one's own around ``pv.SVI.step``."""
    torch.set_float32_matmul_precision(job.matmul)
    pair = pair_for(job)
    adam = torch.optim.Adam(pair.parameters(), lr=LR, fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, capture=capture)
    visits = Visits(torch.from_numpy(probabilities(job, "train")), job.batch)

    def play() -> float:
        total = torch.zeros(())
        for _ in range(job.steps):
            total += svi.step(visits.next())
        return float(total) / (job.steps * job.batch)

    return play


def fit(job: Job, **options: Any) -> Play:
    """``pv.fit``, stopped after each epoch until the next round is asked for; a round is one whole epoch.

    ``fit`` runs in a thread of its own, so that its loop need not be written again here.
    """
    torch.set_float32_matmul_precision(job.matmul)
    p = torch.from_numpy(probabilities(job, "train"))[: job.steps * job.batch]
    data = pv.data.Split(p, binarize="dynamic", name="train")
    turns: Queue[None] = Queue()
    ends: Queue[float | BaseException] = Queue()

    def wait(row: dict[str, Any], _: pv.Pair) -> None:
        ends.put(-row["train_bound"])
        turns.get()

    def run() -> None:
        turns.get()
        try:
            pv.fit(
                pair_for(job), data, epochs=job.rounds + 1, batch_size=job.batch, lr=LR, seed=job.seed, device="cpu",
                progress=False, callbacks=[wait], **options,
            )  # fmt: skip
        except BaseException as error:
            ends.put(error)

    threading.Thread(target=run, daemon=True).start()

    def play() -> float:
        turns.put(None)
        end = ends.get()
        if isinstance(end, BaseException):
            raise end
        return end

    return play


def likelihood(job: Job, **options: Any) -> Play:
    """``pv.log_likelihood`` with the weights of the hand-written networks, whose layers come in the same order."""
    encoder, decoder = trained(job)
    torch.set_float32_matmul_precision(job.matmul)
    pair = pair_for(job)
    with torch.no_grad():
        for program, network in ((pair.model, decoder), (pair.guide, encoder)):
            for mine, theirs in zip(program.parameters(), network.parameters(), strict=True):
                mine.copy_(theirs)
    x = torch.from_numpy(test_images(job))

    def play() -> float:
        est = pv.log_likelihood(pair, x, num_samples=job.num_samples, seed=job.seed, **options)
        return float(est.log_px.mean())

    return play
