"""Constructors that the laws are crossed with; a new pair is one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.fields import X, each, rows


@dataclass(frozen=True)
class Case:
    """A registered pair with its options, and the kind of data that it takes."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    shape: Any = (1, 6, 6)  # of each field, where there are several
    data: str = "binary"
    labels: int = 0
    latents: tuple[str, ...] = ("z",)
    codes: tuple[str, ...] | None = None  # the latents in evaluation mode, where they differ
    draws: bool = True  # whether the model draws x
    delta: bool = False
    objective: str = "elbo"
    toy: str = ""  # of load_data, in place of random numbers

    def build(self) -> pv.Pair:
        extra = {"num_classes": self.labels} if self.labels else {}
        if self.toy:
            return pv.build(self.name, data=pv.load_data(self.toy), **self.options)
        return pv.build(self.name, data_shape=self.shape, **self.options, **extra)

    def zeros(self, n: int) -> X:
        if isinstance(self.shape, dict):
            return {name: torch.zeros(n, *shape) for name, shape in self.shape.items()}
        return torch.zeros(n, *self.shape)

    def draw(self, n: int) -> tuple[X, Tensor | None]:
        if self.toy:
            return each(torch.Tensor.float, rows(pv.load_data(self.toy).train.x, slice(n))), None
        x = torch.rand(n, *self.shape)
        x = {"binary": (x > 0.5).float(), "real": 2 * x - 1, "unit": x, "bytes": (255 * x).round() / 255}[self.data]
        return x, (torch.arange(n) % self.labels if self.labels else None)


SMALL: dict[str, Any] = {"hidden": (8, 7), "latent": 3}
CASES = {
    "vae": Case("vae", SMALL),
    "vae-conv": Case("vae", {**SMALL, "network": "conv"}, shape=(2, 7, 5)),
    "vae-deep-relu": Case("vae", {"hidden": (9, 8, 7), "latent": 1, "activation": "relu"}),
    "vae-no-hidden": Case("vae", {"hidden": (), "latent": 2}, shape=(4,)),
    "vae-gaussian": Case("vae", {**SMALL, "likelihood": "gaussian", "sigma": 0.5}, shape=(5,), data="real"),
    "vae-gaussian-learned": Case("vae", {**SMALL, "likelihood": "gaussian_learned"}, data="real"),
    "vae-gaussian-diagonal": Case("vae", {**SMALL, "likelihood": "gaussian_diagonal"}, data="real"),
    "vae-gaussian-network": Case("vae", {**SMALL, "likelihood": "gaussian_network"}, data="real"),
    "vae-continuous-bernoulli": Case("vae", {**SMALL, "likelihood": "continuous_bernoulli"}, data="unit"),
    "vae-discretized": Case("vae", {**SMALL, "likelihood": "discretized"}, data="bytes"),
    "vae-discretized-conv": Case(
        "vae", {**SMALL, "likelihood": "discretized", "network": "conv"}, shape=(3, 8, 8), data="bytes"
    ),
    "vae-full": Case("vae", {**SMALL, "guide": "full"}),
    "vae-mixture": Case("vae", {**SMALL, "guide": "mixture:components=2"}),
    "vae-mixture-prior": Case("vae", {**SMALL, "prior": "mixture:components=4"}),
    "vae-vamp": Case("vae", {**SMALL, "prior": "vamp:components=4"}),
    "vae-vamp-full": Case("vae", {**SMALL, "prior": "vamp:components=4", "guide": "full"}),
    "vae-laplace": Case("vae", {**SMALL, "prior": "laplace:scale=0.5"}),
    "vae-resnet": Case("vae", {**SMALL, "network": "resnet"}, shape=(1, 8, 8)),
    "vae-poisson": Case("vae", {**SMALL, "likelihood": "poisson"}),
    "linear": Case("linear", {"latent": 2}, shape=(5,), data="real"),
    "linear-exact": Case("linear", {"latent": 2, "guide": "exact"}, shape=(5,), data="real"),
    "cvae": Case("cvae", SMALL, labels=4),
    "cvae-conv": Case("cvae", {**SMALL, "network": "conv"}, shape=(1, 8, 8), labels=4),
    "clusters": Case("clusters", SMALL, labels=4),
    "m2": Case("m2", SMALL, labels=4, latents=("c", "z"), codes=("z",)),
    "classifier": Case("classifier", {"hidden": (8,)}, labels=4, latents=(), draws=False),
    "hierarchical": Case("hierarchical", {"latent": (4, 2), "hidden": (8,), "hidden2": (6,)}, latents=("z1", "z2")),
    "hierarchical-three": Case(
        "hierarchical",
        {"latent": (4, 3, 2), "hidden": (8,), "hidden2": (5,), "prior": "mixture:components=3"},
        latents=("z1", "z2", "z3"),
    ),
    "ladder": Case("ladder", {"latent": (4, 2), "hidden": (8,), "hidden2": (6,)}, latents=("z1", "z2")),
    "ladder-resnet": Case(
        "ladder",
        {"latent": (4, 3, 2), "hidden": (4, 5), "hidden2": (6,), "network": "resnet", "prior": "vamp:components=4"},
        shape=(1, 8, 8),
        latents=("z1", "z2", "z3"),
    ),
    "binary": Case("binary", SMALL),
    "binary-three": Case("binary", {"latent": (4, 3, 2), "hidden": (8,)}, latents=("z1", "z2", "z3")),
    "categorical": Case("categorical", {**SMALL, "classes": 4}),
    "diffusion": Case("diffusion", {"hidden": (8, 7), "levels": 3}, latents=("z1", "z2", "z3")),
    "diffusion-gaussian": Case(
        "diffusion", {"hidden": (8,), "levels": 2, "likelihood": "gaussian_network"}, (5,), "real", latents=("z1", "z2")
    ),
    "gan": Case("gan", SMALL, objective="adversarial"),
    "autoencoder": Case("autoencoder", SMALL, delta=True),
    "autoencoder-denoising": Case("autoencoder", {**SMALL, "noise": 0.3, "drop": 0.2, "tied": True}, delta=True),
    "sparse-autoencoder": Case("sparse_autoencoder", SMALL, delta=True),
    "contractive-autoencoder": Case("contractive_autoencoder", SMALL, delta=True),
    "contractive-autoencoder-exact": Case("contractive_autoencoder", {"hidden": (), "latent": 3}, delta=True),
    "made": Case("made", {"hidden": (20,)}, shape=(1, 3, 3), latents=()),
    "made-two-layers": Case(
        "made", {"hidden": (20, 15), "levels": 256, "order": "random"}, shape=(5,), data="bytes", latents=()
    ),
    "pixelcnn": Case(
        "pixelcnn", {"features": 3, "layers": 2, "levels": 256}, shape=(3, 3, 2), data="bytes", latents=()
    ),
    "transformer": Case("transformer", {"width": 8, "heads": 2, "tile": 2}, shape=(1, 4, 4), latents=()),
    "flow": Case("flow", {"hidden": (8,), "transforms": 2}, shape=(1, 2, 3), data="bytes"),
    "flow-continuous": Case(
        "flow", {"hidden": (8,), "transforms": 2, "kind": "maf", "levels": 0}, shape=(4,), data="real", latents=()
    ),
    "vqvae": Case("vqvae", {"hidden": (8,), "tokens": 3, "codes": 5, "width": 2, "depth": 1}, delta=True),
    "counts": Case("counts", SMALL, shape=(50,), toy="counts"),
    "counts-latent-library": Case(
        "counts",
        {**SMALL, "library": "latent", "likelihood": "zero_inflated"},
        shape=(50,),
        toy="counts",
        latents=("size", "z"),
    ),
    "table": Case("table", {**SMALL, "guide": "full"}, shape=(7,), toy="table"),
    "series": Case(
        "series",
        {"latent": 2, "hidden": (5,), "units": 6},
        shape=(20, 2),
        toy="series",
        latents=tuple(f"z_{t}" for t in range(1, 21)),
    ),
    "views": Case("views", {"hidden": (8,), "latent": 3}, shape={"one": (10,), "two": (6,)}, toy="views"),
    "views-mixture": Case(
        "views",
        {"hidden": (8,), "latent": 3, "experts": "mixture"},
        shape={"one": (10,), "two": (6,)},
        toy="views",
    ),
    "topics": Case("topics", SMALL, shape=(60,), toy="bags"),
    "sentences": Case("sentences", {"latent": 3, "embedding": 5, "units": 6}, shape=(9,), toy="tokens"),
}
