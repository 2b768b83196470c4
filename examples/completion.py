"""The lower half of an image from its upper half: a conditional VAE whose y is a vector.

Run it: python examples/completion.py [FIGURE.png]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import ppl_vae as pv


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The lower half of images, and the upper one as a vector."""
    upper, lower = x.chunk(2, dim=-2)
    return lower, upper.flatten(1)


def main(epochs: int = 3, figure: str | None = None) -> dict[str, float]:
    """Train p(lower | upper) and p(lower); returns the log-likelihoods of both."""
    digits = pv.load_data("digits", binarize="static")
    parts = {name: halves(digits.split(name).x) for name in ("train", "valid", "test")}
    arrays = {f"{key}_{name}": part for name, both in parts.items() for key, part in zip("xy", both, strict=True)}
    data = pv.load_data(arrays)
    found = {}
    for name in ("cvae", "vae"):
        torch.manual_seed(0)
        pair = pv.build(name, data=data, latent=5, hidden=(100,))
        pv.fit(pair, data, epochs=epochs, batch_size=64, lr=2e-3, schedule="linear", progress=False, seed=0)
        est = pv.log_likelihood(pair, data.test, num_samples=500)
        found[est.name] = float(est.log_px.mean())
        print(f"{name}: {est.name} {found[est.name]:.3f} nats for each lower half")
        if name == "cvae" and figure:
            lower, upper = (part[:8] for part in parts["test"])
            rows = [lower, *(pv.sample(pair, 8, upper, mean=True, seed=seed) for seed in range(3))]
            upper = upper.reshape(8, 1, 4, 8)
            shown = torch.stack([torch.cat([upper, row], -2) for row in rows], 1)  # the image, and three completions
            pv.figures.samples(shown.flatten(0, 1)).savefig(figure, dpi=120)
    return found


if __name__ == "__main__":
    main(epochs=60, figure=next(iter(sys.argv[1:]), None))
