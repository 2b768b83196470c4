"""The plane of the codes: an autoencoder beside a VAE, where their codes lie and what images lie there.

Nothing holds the codes of an autoencoder: they spread over any range, with empty space between them. The prior of a VAE
pulls them into the disc where N(0, I) draws.

Run it: python examples/latent_map.py
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

import ppl_vae as pv

NAMES = {"autoencoder": "autoencoder", "vae": "VAE"}
RADIUS = (-2 * math.log(0.05)) ** 0.5  # of the disc that holds 95 % of N(0, I) in two dimensions


def empty_share(z: Tensor, cells: int = 20) -> float:
    """The share of the cells of a grid over the range of the codes (N, 2) that hold no code."""
    low, high = z.amin(0), z.amax(0)
    where = ((z - low) / (high - low) * cells).long().clamp(max=cells - 1)
    return 1 - len(torch.unique(where, dim=0)) / cells**2


def measures(z: Tensor) -> dict[str, float]:
    """The share of empty cells, and that of the codes in the disc of N(0, I)."""
    return {"empty": empty_share(z), "in_disc": float((z.norm(dim=-1) < RADIUS).float().mean())}


def grid(z: Tensor, cells: int = 10) -> Tensor:
    """Equal steps over the range of the codes, row by row from the top left: (cells^2, 2)."""
    low, high = z.amin(0), z.amax(0)
    steps = torch.linspace(0, 1, cells)
    return low + torch.cartesian_prod(steps.flip(0), steps).flip(1) * (high - low)


def draw(found: dict[str, tuple[pv.Pair, Tensor]], labels: Tensor) -> Figure:
    """A column a pair: the codes by label, and below them the images at the same places."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.subplots(2, len(found))
    for (codes, images), (name, (pair, z)) in zip(axes.T, found.items(), strict=True):
        low, high = z.amin(0).tolist(), z.amax(0).tolist()
        dots = codes.scatter(*z.T.numpy(), 6, labels.numpy(), cmap=colormaps["tab10"], linewidths=0)
        codes.add_patch(Circle((0, 0), RADIUS, fill=False, linestyle="--"))
        m = measures(z)
        codes.set(title=f"{NAMES[name]}: {m['empty']:.0%} empty, {m['in_disc']:.0%} in the disc")
        x = torch.nn.functional.pad(pv.decode(pair, {"z": grid(z)}, seed=0)[:, 0], (1, 1, 1, 1), value=math.nan)
        side = math.isqrt(len(x))
        mosaic = x.unflatten(0, (side, side)).transpose(1, 2).flatten(2).flatten(0, 1)  # (side * H, side * W)
        images.imshow(mosaic.numpy(), cmap="gray", extent=(low[0], high[0], low[1], high[1]), aspect="auto")
        for ax in (codes, images):
            ax.set(xlabel="z[0]", ylabel="z[1]")
    figure.colorbar(dots, ax=axes[0], label="digit")
    return figure


def main(epochs: int = 20, out: Path | None = None) -> dict[str, dict[str, float]]:
    """Train both on the digits; returns the measures of the codes of the training data."""
    data = pv.load_data("digits", binarize="static")
    found = {}
    for name in NAMES:
        torch.manual_seed(0)
        pair = pv.build(name, data=data, latent=2, hidden=(64,))
        pv.fit(pair, data, epochs=epochs, batch_size=64, lr=3e-3, schedule="cosine", device="cpu", progress=False)
        found[name] = pair, pv.encode(pair, data.train.x, seed=0).mean["z"]
        m = measures(found[name][1])
        print(f"{NAMES[name]}: {m['empty']:.0%} of the map is empty, {m['in_disc']:.0%} of the codes lie in the disc")
    figure = draw(found, data.train.y)
    if out is not None:
        figure.savefig(out, dpi=120)
        print(f"written: {out}")
    return {name: measures(z) for name, (_, z) in found.items()}


if __name__ == "__main__":
    main(epochs=80, out=Path("latent_map.png"))
