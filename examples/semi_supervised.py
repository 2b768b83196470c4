"""M2 with a classifier of one's own: a hundred labels, and all images.

Few labels go further where images are turned, stretched and moved at random while the classifier is trained; what the
images without labels add is the rest. Run it: python examples/semi_supervised.py [DATA LABELS EPOCHS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ppl_vae as pv


class Distorted(nn.Module):
    """Images (B, 1, side, side), in training each under a random affine map."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        angle, across, down, shear, right, below = (2 * torch.rand(6, len(x), device=x.device) - 1) * 0.15
        maps = torch.stack([1 + across, shear - 2 * angle, right, 2 * angle, 1 + down, below], -1).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)


def classifier(side: int, classes: int) -> nn.Module:
    """Images to logits."""
    return nn.Sequential(
        Distorted(),
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(128, classes),
    )  # fmt: skip


def accuracy(net: nn.Module, test: pv.Split) -> float:
    """The share of images to which the classifier gives their label."""
    with torch.no_grad():
        return float((net.eval()(test.x).argmax(-1) == test.y).double().mean())


def main(
    name: str = "digits", labels: int = 50, epochs: int = 2, limit: int | None = 50, seed: int = 0, **options: Any
) -> dict[str, float]:
    """Train the classifier on the labels alone, and M2 on all; returns the accuracy of each."""
    data = pv.load_data(name, root=Path("data"), seed=seed)
    few = data.partly_labelled(labels, seed=seed, repeat=max(1, len(data.train) // (10 * labels)))
    test = data.test.fixed().limit(limit)
    torch.manual_seed(seed)
    pair = pv.build("m2", data=few, latent=10, hidden=(400,), activation="softplus", alpha=10.0)
    found = {}
    for key, only in (("labels alone", True), ("m2", False)):
        net = pair.guide.classifier = classifier(data.data_shape[-1], 10)
        if only:
            train = few.train.x[few.train.y >= 0], few.train.y[few.train.y >= 0]
            fitted(net, *train, epochs)
        else:
            pv.fit(pair, few, epochs=epochs, batch_size=100, schedule="linear", progress=False, seed=seed, **options)
        found[key] = accuracy(net, test)
        print(f"{key}: {found[key]:.3f} of {len(test)} test images right", flush=True)
    by_bayes = pv.classify(pair, test.limit(1000), num_samples=20, seed=seed, capture=False)
    print("by Bayes' rule:", by_bayes.notes()[-1])
    return found


def fitted(net: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """Cross-entropy of the labels."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(2 * epochs):
        for index in torch.randperm(len(x)).split(100):
            adam.zero_grad()
            F.cross_entropy(net(torch.bernoulli(x[index])), y[index]).backward()
            adam.step()


if __name__ == "__main__":
    name, labels, epochs = sys.argv[1:] or ("digits", 50, 60)
    runs = [main(name, int(labels), int(epochs), limit=None, seed=seed) for seed in range(3)]
    for key in runs[0]:
        print(f"{key}: {sum(run[key] for run in runs) / len(runs):.3f}, the mean of {len(runs)} seeds")
