"""What a user adds from outside: each is one object in this file, handed over, and nothing is registered."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv


class StudentGuide(nn.Module):
    """A guide: features (*, F) to independent Student t distributions."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent)

    def forward(self, h: Tensor) -> Any:
        loc, log_scale = self.linear(h).chunk(2, -1)
        return dist.StudentT(5.0, loc, log_scale.exp()).to_event(1)


class Laplace(pv.likelihoods.Likelihood):
    """A likelihood with an option of its own."""

    def __init__(self, data_shape: Sequence[int] | None = None, width: float = 1.0) -> None:
        super().__init__(data_shape, width=width)
        self.width = width

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Laplace(h[0], self.width)


def gated(in_shape: Sequence[int], out_shape: Sequence[int] | None, hidden: Sequence[int], act: Any) -> nn.Module:
    """A network: one gated layer, and a linear one to the output where there is one to give."""
    layers = [nn.Flatten(), nn.Linear(math.prod(in_shape), 2 * hidden[0]), nn.GLU(-1)]
    return nn.Sequential(*layers, *([] if out_shape is None else [nn.Linear(hidden[0], math.prod(out_shape))]))


class Sine(nn.Module):
    """An activation."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.sin(h)


def softer(t: pv.Terms) -> Tensor:
    """An objective: half the ELBO and half the importance-weighted bound, (B,) nats."""
    return 0.5 * t.log_w.mean(0) + 0.5 * (torch.logsumexp(t.log_w, 0) - math.log(len(t.log_w)))


def median_of_means(log_w: Tensor) -> Tensor:
    """An estimator: the log of the median of five means of weights, (K, N) to (N,)."""
    means = torch.stack([torch.logsumexp(part, 0) - math.log(len(part)) for part in log_w.chunk(5)])
    return means.median(0).values


X = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
OWN: dict[str, dict[str, Any]] = {
    "guide": {"guide": StudentGuide},
    "likelihood": {"likelihood": Laplace},
    "likelihood with an option": {"likelihood": Laplace(width=0.5)},
    "network": {"network": gated},
    "activation": {"activation": Sine},
    "all": {"guide": StudentGuide, "likelihood": Laplace(width=0.5), "network": gated, "activation": Sine},
}


def make(name: str, own: str) -> pv.Pair:
    torch.manual_seed(0)
    options: dict[str, Any] = {"likelihood": "gaussian", "latent": (3, 2) if name == "hierarchical" else 2}
    options |= {"hidden2": (4,)} if name == "hierarchical" else {}
    options |= {"num_classes": 2} if name == "cvae" else {}
    return pv.build(name, data_shape=(2, 3), data_mean=X.mean(0), hidden=(5,), **(options | OWN[own]))


@pytest.mark.parametrize("name", ["vae", "cvae", "hierarchical"])
@pytest.mark.parametrize("own", OWN)
def test_a_part_from_outside_is_built_trained_estimated_and_recorded(name: str, own: str, tmp_path: Path) -> None:
    pair = make(name, own)
    y = torch.arange(len(X)) % 2 if name == "cvae" else None
    data = X if y is None else (X, y)
    pv.check_pair(pair.model, pair.guide, X, y)
    options: dict[str, Any] = {"batch_size": 20, "lr": 1e-2, "device": "cpu", "progress": False, "capture": False}
    history = pv.fit(pair, data, "iwae", epochs=8, run_dir=tmp_path / "run", **options)
    assert history[-1]["train_bound"] > history[0]["train_bound"]
    config = json.loads((tmp_path / "run/config.json").read_text())["pair"]["options"]
    for key in OWN[own]:
        assert set(config[key]) == {"custom"}, key
        assert "test_extending" in config[key]["custom"]["name"], key
    again = pv.load(tmp_path / "run", pair=make(name, own))
    one, two = (pv.log_likelihood(p, X, y, num_samples=9, capture=False).log_px for p in (pair, again))
    assert torch.equal(one, two)
    with pytest.raises(pv.RunError, match="is custom"):
        pv.load(tmp_path / "run")


def test_a_network_that_gives_no_features_is_one_line() -> None:
    with pytest.raises(pv.UserError, match=r"network: an encoder gives \(B, features\); found \(2, 1, 4\)"):
        pv.build("vae", data_shape=(1, 4), network=lambda *_: nn.Identity())


def test_an_objective_and_an_estimator_from_outside() -> None:
    pair = pv.build("linear", data_shape=(6,), latent=2, guide="exact")
    x = X.reshape(40, 6)
    truth = pair.model.evidence(x).detach()
    objective = pv.Objective(softer, num_particles=4)
    # the guide is exact, so that every bound is tight
    torch.testing.assert_close(-objective(pair.model, pair.guide)(x).detach(), truth.sum(), rtol=1e-5, atol=1e-3)
    found = median_of_means(pv.log_weights(pair, x, num_samples=50))
    torch.testing.assert_close(found, truth.double(), rtol=0, atol=1e-3)
    trained = pv.build("linear", data_shape=(6,), latent=2)
    history = pv.fit(trained, x, objective, epochs=10, lr=1e-2, device="cpu", progress=False, capture=False)
    assert history[-1]["train_bound"] > history[0]["train_bound"]
