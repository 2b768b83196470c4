"""M1 + M2: the codes of a VAE are the data of M2, which has few labels.

M1 is a VAE of all images. Its codes have few coordinates, in which a class is near to one cloud, so that M2's class can
mean the label. Run it: python examples/stacked.py [DATA LABELS EPOCHS]

Kingma, Rezende, Mohamed, Welling: Semi-Supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

import ppl_vae as pv


def coded(vae: pv.Pair, split: pv.Split) -> pv.Split:
    """The mean codes of a split, with its labels."""
    return pv.Split(pv.encode(vae, split).mean["z"], split.y)


def main(
    name: str = "digits", labels: int = 50, epochs: int = 2, limit: int | None = 50, seed: int = 0
) -> dict[str, float]:
    """Train M1, then M2 on its codes; returns the share of test images whose class is found, by each way."""
    data = pv.load_data(name, root=Path("data"), seed=seed)
    few = data.partly_labelled(labels, seed=seed)
    torch.manual_seed(seed)
    vae = pv.build("vae", data=data, latent=10, hidden=(200,))
    schedule: dict[str, Any] = {"schedule": "linear", "progress": False, "seed": seed}
    pv.fit(vae, data, epochs=epochs, batch_size=64, lr=2e-3, **schedule)
    train, test = coded(vae, few.train), coded(vae, data.test.limit(limit))
    known = train.y >= 0
    read = LogisticRegression(max_iter=1000).fit(train.x[known], train.y[known])
    m2 = pv.build("m2", data_shape=(10,), num_classes=10, latent=2, hidden=(50,), likelihood="gaussian_diagonal")
    pv.fit(m2, train, epochs=epochs, batch_size=64, lr=2e-3, **schedule)
    with torch.no_grad():
        guessed = m2.eval().guide.classifier(test.x).argmax(-1)
    found = {
        "logistic regression on the codes, labels alone": float(read.score(test.x, test.y)),
        "M1 + M2, q(c | x)": float((guessed == test.y).double().mean()),
        "M1 + M2, p(c | x)": pv.classify(m2, test, num_samples=100).measured()["accuracy"],
    }
    print(f"seed {seed}: " + "; ".join(f"{way} {share:.3f}" for way, share in found.items()))
    return found


if __name__ == "__main__":
    name, labels, epochs = sys.argv[1:] or ("digits", 50, 60)
    runs = [main(name, int(labels), int(epochs), limit=None, seed=seed) for seed in range(3)]
    for way in runs[0]:
        print(f"{way}: {fmean(run[way] for run in runs):.3f}, the mean of 3 seeds")
