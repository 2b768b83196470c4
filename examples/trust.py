"""How far to trust an estimate: two toys with known answers, and the pictures of docs/trust.md.

python examples/trust.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae import figures
from ppl_vae.figures.style import COLORS, canvas


class Model(nn.Module):
    """z ~ N(0, I), x ~ N(z, I): p(x) = N(0, 2 I), p(z|x) = N(x / 2, I / 2)."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.dims), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    """The right mean; the posterior's standard deviation times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.scale = factor * math.sqrt(1 / 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, self.scale).to_event(1))


def evidence(x: Tensor) -> Tensor:
    return dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1)


def too_narrow() -> tuple[Figure, pv.Panel]:
    """A guide three times too narrow: plain weights have k > 0.7; two proposals mend it."""
    pair = pv.Pair(Model(2), Guide(1 / 3))
    x = pv.sample(pair, 50, seed=0)
    names = ("guide", "tempered", "defensive", "prior")
    figure = figures.bound_curves({p: pv.bound_curve(pair, x, num_samples=20_000, proposal=p) for p in names})
    truth = float(evidence(x).mean())
    figure.axes[0].axhline(truth, color="black", linestyle="--", linewidth=1)
    figure.axes[0].annotate(f"log p(x) = {truth:.2f}", (1, truth), va="bottom")
    found = pv.panel(pair, x, estimators=("iwae", "psis", "tempered", "defensive", "prior"), num_samples=20_000)
    print(f"guide three times too narrow; the truth is {truth:.3f} nats")
    print(found)
    return figure, found


def quasi_random(repeats: int = 100) -> tuple[Figure, dict[str, list[float]]]:
    """The error of quasi-random points against that of independent ones, over independent scramblings."""
    pair, x = pv.Pair(Model(20), Guide(math.sqrt(4 / 3))), torch.ones(1, 20)
    sizes = [64, 256, 1024, 4096, 16_384]
    errors: dict[str, list[float]] = {}
    for name, proposal in (("independent", "guide"), ("quasi-random", "qmc")):
        for k in sizes:
            found = [
                pv.log_likelihood(pair, x, num_samples=k, proposal=proposal, seed=s).log_px for s in range(repeats)
            ]
            errors.setdefault(name, []).append(float((torch.cat(found) - evidence(x)).square().mean().sqrt()))
    figure, ax = canvas(4.2)
    for (name, values), mark, color in zip(errors.items(), "o^", COLORS[:2], strict=True):
        ax.plot(sizes, values, marker=mark, color=color, label=name)
    ax.set(xscale="log", yscale="log", xlabel="K", ylabel="root-mean-square error of log p(x) (nats)")
    ax.set_title(f"20 latent dimensions, {repeats} repeats", fontsize=11)
    ax.legend(frameon=False, title="draws of the guide")
    print("K, error of independent and of quasi-random draws, ratio")
    for k, one, other in zip(sizes, *errors.values(), strict=True):
        print(f"{k:>6} {one:.5f} {other:.5f} {other / one:.2f}")
    return figure, errors


def main(folder: Path | None = None, repeats: int = 10) -> tuple[pv.Panel, dict[str, list[float]]]:
    narrow, found = too_narrow()
    error, errors = quasi_random(repeats)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        narrow.savefig(folder / "too_narrow.png")
        error.savefig(folder / "quasi_random.png")
    return found, errors


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, 100)
