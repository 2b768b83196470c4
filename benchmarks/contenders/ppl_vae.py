"""This package, as its users call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import ppl_vae as pv
from ppl_vae.data.binarisation import visit

from ..images import probabilities, test_images
from ..job import HIDDEN, LATENT, LR, SHAPE, Job, Loop, Play
from .pytorch import trained


def pair_for(job: Job, latent: int = LATENT) -> pv.Pair:
    """The registered VAE in the sizes of the job."""
    torch.manual_seed(job.seed)
    return pv.build(
        "vae", data_shape=SHAPE, latent=latent, hidden=HIDDEN[job.network], network=job.network, activation="softplus"
    )


def training(job: Job, *, capture: bool) -> Play:
    """A loop of one's own around ``pv.SVI.step``; choosing and binarising the batch is part of the step."""
    torch.set_float32_matmul_precision(job.matmul)
    pair = pair_for(job)
    p = torch.from_numpy(probabilities(job, "train"))

    def prepare(p: torch.Tensor, index: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor]:
        return (visit(p.index_select(0, index), "dynamic", key),)

    adam = torch.optim.Adam(pair.parameters(), lr=LR, fused=True)
    svi = pv.SVI(pair.model, pair.guide, adam, capture=capture, prepare=prepare)
    key = torch.zeros((), dtype=torch.int64)

    def play() -> float:
        total = torch.zeros(())
        for index in torch.randperm(len(p))[: job.steps * job.batch].split(job.batch):
            total += svi.step(p, index, key.add_(1))
        return float(total) / (job.steps * job.batch)

    return play


def fit(job: Job, **options: Any) -> Loop:
    """``pv.fit``; a round is one whole epoch."""
    torch.set_float32_matmul_precision(job.matmul)
    p = torch.from_numpy(probabilities(job, "train"))[: job.steps * job.batch]
    data = pv.Split(p, binarize="dynamic", name="train")

    def run(turn: Callable[[float], None]) -> None:
        pv.fit(
            pair_for(job), data, epochs=job.rounds + 1, batch_size=job.batch, lr=LR, seed=job.seed, device="cpu",
            progress=False, callbacks=[lambda row, _: turn(-row["train_bound"])], **options,
        )  # fmt: skip

    return Loop(run)


def epochs(job: Job, count: int, reached: Callable[[Callable[[], float]], bool], **options: Any) -> None:
    """``pv.fit`` on MNIST, as it is called; ``reached`` is given the NLL of the test images after each epoch."""
    data = pv.Split(torch.from_numpy(probabilities(job, "train")), binarize="dynamic", name="train")
    test = torch.from_numpy(test_images(job))

    def enough(_: Any, pair: pv.Pair) -> bool:
        def nll() -> float:
            return -float(pv.log_likelihood(pair, test, num_samples=job.num_samples, capture=False).log_px.mean())

        return reached(nll)

    pv.fit(
        pair_for(job), data, epochs=count, batch_size=job.batch, lr=LR, seed=job.seed, device="cpu", progress=False,
        callbacks=[enough], **options,
    )  # fmt: skip


def likelihood(job: Job, **options: Any) -> Play:
    """``pv.log_likelihood`` with the weights of the hand-written networks, whose layers come in the same order.

    Theirs have the mean and log sigma of the guide apart.
    """
    encoder, decoder = trained(job)
    torch.set_float32_matmul_precision(job.matmul)
    pair = pair_for(job)
    weight, bias, *heads = encoder.parameters()
    joined = [torch.cat(parts) for parts in (heads[0::2], heads[1::2])]
    with torch.no_grad():
        for program, values in ((pair.model, decoder.parameters()), (pair.guide, [weight, bias, *joined])):
            for mine, theirs in zip(program.parameters(), values, strict=True):
                mine.copy_(theirs)
    x = torch.from_numpy(test_images(job))

    def play() -> float:
        est = pv.log_likelihood(pair, x, num_samples=job.num_samples, seed=job.seed, **options)
        return float(est.log_px.mean())

    return play
