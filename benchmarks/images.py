"""MNIST from its files, for every framework alike: probabilities in [0, 1], no library's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .job import SHAPE, Job

FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}


def probabilities(job: Job, split: str) -> npt.NDArray[np.float32]:
    """The grey values of a split, (N, 1, 28, 28) in [0, 1]."""
    raw = np.fromfile(Path(job.root) / "MNIST" / "raw" / FILES[split], dtype=np.uint8)[16:]  # 16 bytes of header
    return raw.reshape(-1, *SHAPE).astype(np.float32) / 255


def test_images(job: Job) -> npt.NDArray[np.float32]:
    """The binary test images of a likelihood: one draw, the same for every contender."""
    p = probabilities(job, "test")[: job.images]
    return (np.random.default_rng(job.seed).random(p.shape) < p).astype(np.float32)
