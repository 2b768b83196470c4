"""Clusters without labels: a mixture of ten Bernoulli templates, whose class is summed out. log p(x) is exact.

Run it: python examples/clusters.py
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import ppl_vae as pv


class Mixture(nn.Module):
    """c ~ Categorical(weights), x ~ Bernoulli(template of c)."""

    def __init__(self, classes: int, mean: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(classes))
        self.templates = nn.Parameter(mean.logit() + 0.5 * torch.randn(classes, len(mean)))

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.weights), infer={"enumerate": "parallel"})
            return pyro.sample("x", dist.Bernoulli(logits=self.templates[c]).to_event(1), obs=x)


def no_guide(x: Tensor, y: Tensor | None = None) -> None:
    """Nothing is left to guess: the only latent is summed out."""


def accuracy(clusters: Tensor, labels: Tensor) -> float:
    """The share of examples whose cluster is that of their label, under the best assignment of clusters to labels."""
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((clusters, labels), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(-counts.numpy())
    return float(counts[rows, columns].sum()) / len(labels)


def main(seeds: int = 1, epochs: int = 60) -> list[dict[str, float]]:
    """Train a mixture for each seed; returns its test figures."""
    data = pv.load_data("digits", binarize="static")
    train, test = (part.x.reshape(len(part.x), -1) for part in (data.train, data.test))
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        pair = pv.Pair(Mixture(10, train.mean(0).clamp(0.02, 0.98)), no_guide)
        pv.fit(pair, train, epochs=epochs, batch_size=64, lr=1e-2, schedule="linear", device="cpu", progress=False)
        classes = pv.posterior(pair, test, num_samples=1).probs["c"].argmax(-1)
        log_px = float(pv.log_likelihood(pair, test).log_px.mean())
        found.append({"accuracy": accuracy(classes, data.test.y), "log_px": log_px})
        print(f"seed {seed}: accuracy {found[-1]['accuracy']:.3f}, log p(x) {log_px:.3f} nats per example (exact)")
    return found


if __name__ == "__main__":
    main(seeds=5)
