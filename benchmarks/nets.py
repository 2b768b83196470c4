"""The networks of every contender that runs on torch: plain modules, Glorot weights, zero biases."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .job import HIDDEN, LATENT


class Encoder(nn.Module):
    """x (B, 1, 28, 28) to the mean and the log standard deviation of q(z|x), (B, 50) each."""

    def __init__(self, network: str, latent: int = LATENT) -> None:
        super().__init__()
        hidden = HIDDEN[network]
        layers: list[nn.Module] = []
        if network == "mlp":
            layers = [nn.Flatten(), nn.Linear(784, *hidden), nn.Softplus()]
            features = hidden[-1]
        else:
            for a, b in pairwise((1, *hidden)):
                layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.Softplus()]
            layers.append(nn.Flatten())
            features = hidden[-1] * 7 * 7
        self.net = nn.Sequential(*layers)
        self.loc = nn.Linear(features, latent)
        self.log_scale = nn.Linear(features, latent)
        glorot(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.net(x)
        return self.loc(h), self.log_scale(h)


class Decoder(nn.Module):
    """z (B, 50) to the logits of p(x|z), (B, 1, 28, 28)."""

    def __init__(self, network: str, latent: int = LATENT) -> None:
        super().__init__()
        hidden = HIDDEN[network]
        layers: list[nn.Module]
        if network == "mlp":
            layers = [nn.Linear(latent, *hidden), nn.Softplus(), nn.Linear(*hidden, 784)]
        else:
            layers = [nn.Linear(latent, hidden[-1] * 7 * 7), nn.Unflatten(1, (hidden[-1], 7, 7))]
            for a, b in pairwise((*hidden[::-1], 1)):
                layers += [nn.Softplus(), nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1)]
        self.net = nn.Sequential(*layers)
        glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).reshape(-1, 1, 28, 28)


def glorot(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, in place: where this package starts, and so where all start."""
    for m in module.modules():
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)


class Visits:
    """Batches in shuffled order, drawn anew at each visit from the probabilities: the cheapest loader there is."""

    def __init__(self, p: Tensor, batch: int) -> None:
        self.p = p
        self.batch = batch
        self.order = torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        """The next batch (B, 1, 28, 28), in {0, 1}."""
        if len(self.order) < self.batch:
            self.order = torch.randperm(len(self.p))
        index, self.order = self.order[: self.batch], self.order[self.batch :]
        p = self.p[index]
        return (torch.rand_like(p) < p).to(p.dtype)  # a quarter of the time of torch.bernoulli
