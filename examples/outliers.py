"""Bayes' rule against a discriminative network: accuracy, calibration, and letters that are no digits.

p(y | x) of a conditional VAE comes from p(x | y) p(y), and its sum over y is p(x), which rejects outliers. A classifier
has its confidence alone. Run it: python examples/outliers.py [DATA EPOCHS WIDTH]
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import ascii_letters
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score
from torch import Tensor

import ppl_vae as pv

LIKE_DIGITS = set("IOSZilo")  # letters that are digits to anybody


def letters(side: int, per_letter: int = 10) -> Tensor:
    """Letters in the fonts of matplotlib, (N, 1, side, side) in [0, 1], as large as the digits of MNIST."""
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))[:per_letter]
    images = []
    for path in fonts:
        font = ImageFont.truetype(str(path), 80)
        for letter in sorted(set(ascii_letters) - LIKE_DIGITS):
            image = Image.new("L", (112, 112))
            ImageDraw.Draw(image).text((56, 56), letter, fill=255, font=font, anchor="mm")
            images.append(np.asarray(image.resize((side, side), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(images)).float()[:, None] / 255


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The probability that an example has a higher score than an outlier."""
    labels = [1] * len(inside) + [0] * len(outside)
    return float(roc_auc_score(labels, torch.cat([inside, outside]).numpy()))


def main(
    name: str = "digits",
    epochs: int = 3,
    width: int = 200,
    limit: int | None = 50,
    num_samples: int = 20,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Train both pairs; returns accuracy, calibration error and AUROC of each."""
    data = pv.load_data(name, binarize="static", root=Path("data"))
    test = data.test.limit(limit)
    odd = torch.bernoulli(letters(data.data_shape[-1]), generator=torch.Generator().manual_seed(0))
    found = {}
    for pair_name, own in (("cvae", {"latent": 10}), ("classifier", {})):
        torch.manual_seed(0)
        pair = pv.build(pair_name, data=data, hidden=(width,), **own)
        pv.fit(pair, data, epochs=epochs, batch_size=64, lr=2e-3, schedule="linear", progress=False, seed=0, **options)
        inside, outside = (pv.classify(pair, part, num_samples=num_samples, capture=False) for part in (test, odd))
        scores = {"confidence": auroc(inside.confidence, outside.confidence)}
        if pair_name == "cvae":
            scores["p(x)"] = auroc(inside.log_px, outside.log_px)
        found[pair_name] = {**inside.measured(), **scores}
        told = ", ".join(f"AUROC by {key} {value:.3f}" for key, value in scores.items())
        print(f"{pair_name}: {inside.notes()[-1]}; {told}")
    return found


if __name__ == "__main__":
    name, epochs, width = sys.argv[1:] or ("digits", 60, 200)
    main(name, int(epochs), int(width), limit=None, num_samples=100)
