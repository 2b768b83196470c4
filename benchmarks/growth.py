"""How time and memory of ``pv.log_likelihood`` grow with the data, the samples and the latent size."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from .contest import silence
from .job import LATENT, Job

FULL = {
    "data": [10, 100, 1000, 10_000],  # at K = 500
    "samples": [100, 1000, 10_000, 100_000],  # for 16 images
    "latent": [8, 32, 128, 512],  # for 16 images at K = 2000
    "memory": [1000, 10_000, 100_000],  # for 16 images
}
QUICK = {"data": [10, 100, 1000], "samples": [100, 1000, 10_000], "latent": [8, 64, 512], "memory": [1000, 10_000]}
IMAGES = 16


def growth(job: Job, quick: bool, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Medians of a few calls after a first one, each size in a fresh process."""
    sizes = QUICK if quick else FULL
    few = replace(job, images=IMAGES)
    jobs = {
        "data": [(replace(job, images=n, num_samples=500), LATENT) for n in sizes["data"]],
        "samples": [(replace(few, num_samples=k), LATENT) for k in sizes["samples"]],
        "latent": [(replace(few, num_samples=500 if quick else 2000), size) for size in sizes["latent"]],
    }
    rows: dict[str, Any] = {}
    for name, work in jobs.items():
        rows[name] = {"sizes": sizes[name], "seconds": [fresh(partial(seconds, j, z, repeats)) for j, z in work]}
        say(f"  {name}: " + ", ".join(f"{s:.3g} s" for s in rows[name]["seconds"]))
    return rows


def memory(job: Job, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Peak resident memory in MiB of a process that makes one estimate, for each K, and what it held before."""
    sizes = (QUICK if quick else FULL)["memory"]
    few = replace(job, images=IMAGES)
    found = [fresh(partial(peak, replace(few, num_samples=k))) for k in sizes]
    say("  memory: " + ", ".join(f"K = {k:,}: {p:.0f} MiB" for k, (_, p) in zip(sizes, found, strict=True)))
    return {"sizes": sizes, "before": [b for b, _ in found], "peak": [p for _, p in found]}


def fresh(work: Callable[[], Any]) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=silence) as pool:
        return pool.submit(work).result()


def estimate(job: Job, latent: int) -> Callable[[], Any]:
    """A call of ``pv.log_likelihood`` with fresh weights, by a graph at every size: what is chosen would differ."""
    import torch

    import ppl_vae as pv

    from .contenders.ppl_vae import pair_for
    from .images import test_images

    torch.set_float32_matmul_precision(job.matmul)
    pair, x = pair_for(job, latent), torch.from_numpy(test_images(job))
    return lambda: pv.log_likelihood(pair, x, num_samples=job.num_samples, seed=job.seed, capture=True)


def seconds(job: Job, latent: int, repeats: int) -> float:
    """The median of several calls after a first one."""
    call = estimate(job, latent)
    call()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return median(found)


def peak(job: Job) -> tuple[float, float]:
    """Resident memory in MiB before one call, and the most during it."""
    call = estimate(job, LATENT)
    before = resident("VmRSS")
    call()
    return before, resident("VmHWM")


def resident(field: str) -> float:
    """A field of Linux's status of this process, in MiB; getrusage would count what the parent held before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)
