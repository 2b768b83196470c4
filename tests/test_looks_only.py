"""What only looks moves nothing: running averages, the vectors of a power iteration, parameters and modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Moving(nn.Module):
    """Batch norm in the guide and in the model, spectral norm in both."""

    def __init__(self) -> None:
        super().__init__()
        norm = torch.nn.utils.parametrizations.spectral_norm
        self.encode = nn.Sequential(norm(nn.Linear(4, 4)), nn.BatchNorm1d(4))
        self.decode = norm(nn.Linear(2, 4))
        self.norm = nn.BatchNorm1d(4)

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            h = self.decode(z)
            mean = self.norm(h.reshape(-1, 4)).reshape(h.shape)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        loc, scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


class Both(nn.Module):
    """One half of it as a module, so that it is a pair's."""

    def __init__(self, parts: Moving, role: str) -> None:
        super().__init__()
        self.parts, self.role = parts, role

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        return self.parts.model(x, y, n) if self.role == "model" else self.parts.guide(x, y)


LOOKS: dict[str, Callable[[pv.Pair], Any]] = {
    "check_pair": lambda p: pv.check_pair(p.model, p.guide, X),
    "check_pair for dreg": lambda p: pv.check_pair(p.model, p.guide, X, objective=pv.IWAE(2, gradient="dreg")),
    "check_pair for analytic_kl": lambda p: pv.check_pair(p.model, p.guide, X, objective=pv.AnalyticKL()),
    "terms": lambda p: pv.terms(p.model, p.guide, X, num_samples=2),
    "log_joint": lambda p: pv.log_joint(p.model, X, None, {"z": torch.zeros(2, 6, 2)}),
    "log_likelihood": lambda p: pv.log_likelihood(p, X, num_samples=4, proposal="defensive"),
    "encode": lambda p: pv.encode(p, X),
    "ais": lambda p: pv.ais(p, X, num_chains=2, num_temperatures=2, start="guide"),
    "posterior": lambda p: pv.posterior(p, X, num_samples=2),
    "sample": lambda p: pv.sample(p, 3),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOOKS)
def test_what_looks_moves_nothing(name: str, training: bool) -> None:
    parts = Moving()
    pair = pv.Pair(Both(parts, "model"), Both(parts, "guide")).train(training)
    before = {k: v.clone() for k, v in pair.state_dict().items()}
    LOOKS[name](pair)
    assert all(torch.equal(v, before[k]) for k, v in pair.state_dict().items())
    assert all(m.training == training for m in pair.modules())


def test_terms_of_a_pair_in_training_mode_keep_their_gradient() -> None:
    parts = Moving()
    pv.terms(parts.model, parts.guide, X, num_samples=2).log_w.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parts.parameters())
