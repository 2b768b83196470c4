"""Two pairs of one's own, each in a dozen lines, through the same verbs: fit, log_likelihood, save and load.

Run it: python examples/custom_pair.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppl_vae as pv


# A Laplace prior: sparse codes for real data.
class SparseModel(nn.Module):
    def __init__(self, latent: int, size: int) -> None:
        super().__init__()
        self.latent, self.decoder = latent, nn.Linear(latent, size)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Laplace(torch.zeros(self.latent), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)


class SparseGuide(nn.Module):
    def __init__(self, latent: int, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 2 * latent))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        loc, log_scale = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Laplace(loc, log_scale.exp()).to_event(1))


# A positive latent under counts: Gamma rates, Poisson data. Its evidence is known: negative binomial.
class RateModel(nn.Module):
    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0 * torch.ones(3), 1.5).to_event(1))
            return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


class RateGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Softplus(), nn.Linear(32, 6), nn.Softplus())

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        shape, rate = (0.1 + self.net(x)).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("rate", dist.Gamma(shape, rate).to_event(1))


def through_all_verbs(pair: pv.Pair, fresh: pv.Pair, x: Tensor, folder: Path) -> pv.Estimate:
    """Check, train, save, load, and estimate log p(x)."""
    pv.check_pair(pair.model, pair.guide, x)
    pv.fit(pair, x, epochs=60, batch_size=100, lr=5e-3, schedule="linear", device="cpu", progress=False)
    pv.save(folder, pair)
    return pv.log_likelihood(pv.load(folder, pair=fresh), x[:200], num_samples=2000)


def main() -> dict[str, pv.Estimate]:
    """Both pairs; returns their estimates."""
    torch.manual_seed(0)
    sparse = torch.distributions.Laplace(0.0, 1.0).sample((1000, 2)) @ torch.randn(2, 8) + 0.3 * torch.randn(1000, 8)
    counts = torch.poisson(torch.distributions.Gamma(2.0, 1.5).sample((1000, 3)))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make, x in (
            ("Laplace prior", lambda: pv.Pair(SparseModel(2, 8), SparseGuide(2, 8)), sparse),
            ("Gamma latent, Poisson data", lambda: pv.Pair(RateModel(), RateGuide()), counts),
        ):
            found[name] = through_all_verbs(make(), make(), x, Path(folder) / name)
            print(f"{name}\n{found[name]}\n")
    exact = dist.NegativeBinomial(2.0, probs=torch.tensor(1 / 2.5)).log_prob(counts[:200]).sum(-1)
    print(f"exact log p(x) of the second: {float(exact.mean()):.3f} nats")
    return found


if __name__ == "__main__":
    main()
