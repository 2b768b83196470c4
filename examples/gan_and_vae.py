"""A GAN and a VAE with the same decoder: their samples, how sharp these are, and log p(x). Why are VAE images blurry?

Run it: python examples/gan_and_vae.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import ppl_vae as pv

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
SHARED: dict[str, Any] = {"latent": 10, "hidden": (200, 200), "likelihood": "gaussian:sigma=0.1"}
OPTIONS: dict[str, Any] = {"batch_size": 64, "lr": 1e-3, "schedule": "linear", "device": "cpu", "progress": False}


def sharpness(images: Tensor) -> float:
    """The variance of the Laplacian of an image, over its pixels; the mean over images (N, 1, H, W)."""
    return float(conv2d(images, LAPLACIAN).flatten(1).var(1).mean())


def nearest(one: Tensor, other: Tensor) -> float:
    """The mean distance from an image of the first set to the nearest of the second."""
    return float(torch.cdist(one.flatten(1), other.flatten(1)).amin(1).mean())


@torch.no_grad()
def means(pair: pv.Pair, n: int) -> Tensor:
    """What the decoder makes of n draws of the prior: samples without the noise of p(x | z)."""
    mean: Tensor = pair.model.likelihood(pair.model.decoder(torch.randn(n, SHARED["latent"]))).mean
    return mean


def main(epochs: int = 2, examples: int = 4, temperatures: int = 20, out: str | None = None) -> dict[str, Any]:
    """Train both on the digits; returns sharpness, distances and log p(x) by name, and draws samples where asked."""
    data = pv.load_data("digits", binarize="none")  # grey
    x, test = data.train.x, data.test.x
    found: dict[str, Any] = {"data": {"sharpness": sharpness(test), "covers": nearest(test, x[:500])}}
    rows = [test[:12]]
    for name in ("vae", "gan"):
        torch.manual_seed(0)
        pair = pv.build(name, data=data, activation="leaky_relu", **SHARED)
        pv.fit(pair, x, epochs=epochs, **OPTIONS)
        made = means(pair, 500)
        annealed = pv.ais(pair, test[:examples], num_chains=8, num_temperatures=temperatures, start="prior")
        found[name] = {
            "sharpness": sharpness(made),
            "covers": nearest(test, made),
            "log_px": float(annealed.log_px.mean()),
            "log_px_se": float(annealed.log_px.std()) / examples**0.5,
        }
        if name == "vae":  # a mean leaves out the detail that p(x | z) takes for noise; here the noise is drawn too
            back = pv.reconstruct(pair, test, seed=0)
            noise = pair.model.likelihood.sigma * torch.randn_like(back)
            found[name] |= {"reconstructed": sharpness(back), "with_noise": sharpness(back + noise)}
            found[name]["error"] = float((back - test).square().mean().sqrt())
        rows.append(made[:12])
    for name, figures in found.items():
        print(f"{name:5}" + "".join(f"  {key} {value:.3f}" for key, value in figures.items()))
    if out is not None:
        draw(rows, ("data", "VAE", "GAN"), Path(out))
    return found


def draw(rows: list[Tensor], names: tuple[str, ...], path: Path) -> None:
    """One row of images for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for images, name, axes in zip(rows, names, figure.subplots(len(rows), len(rows[0])), strict=True):
        for image, ax in zip(images, axes, strict=True):
            ax.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(epochs=150, examples=50, temperatures=500, out="gan_and_vae.png")
