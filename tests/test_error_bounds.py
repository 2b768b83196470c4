"""Bounds on the distance between the guide and the posterior, on Gaussians whose distances are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

import ppl_vae as pv

W = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def off(scale: float, shift: float) -> tuple[pv.Pair, Any]:
    """Probabilistic PCA under its posterior with another scale, and a mean that is off by some standard deviations."""
    pair = pv.build("linear", data_shape=(4,), latent=2, guide="exact").double()
    pair.model.W.data.copy_(W)  # type: ignore[union-attr]

    def of(x: Tensor) -> Any:
        p = pair.model.posterior(x)  # type: ignore[operator, union-attr]
        return dist.MultivariateNormal(p.mean + shift * p.stddev, scale_tril=scale * p.scale_tril)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", of(x))

    return pv.Pair(pair.model, guide), of


def moments(of: Any, x: Tensor) -> tuple[Any, Any]:
    return of.mean[0].detach().numpy(), of.covariance_matrix[0].detach().numpy()


@pytest.mark.parametrize(("scale", "shift"), [(1.1, 0.0), (1.3, 0.0), (1.2, 0.3), (1.5, 0.5)])
def test_bounds_are_above_distances_in_closed_form(scale: float, shift: float) -> None:
    """The 2-Wasserstein distance, the errors of mean and standard deviation, and the 2-divergence, of Gaussians."""
    pair, of = off(scale, shift)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = pv.error_bounds(pair, x, num_samples=20_000)
    (m, c), (mq, cq) = moments(pair.model.posterior(x), x), moments(of(x), x)  # type: ignore[operator, union-attr]
    root = np.real(sqrtm(c))
    w2 = math.sqrt(((m - mq) ** 2).sum() + np.trace(c + cq - 2 * np.real(sqrtm(root @ cq @ root))))
    sd, sdq = np.sqrt(np.diag(c)), np.sqrt(np.diag(cq))
    assert bool(found.holds.all())
    assert float(found.wasserstein.min()) > w2
    assert w2 >= max(abs(m - mq).max(), abs(sd - sdq).max())
    assert float(found.mean_error.min()) > (abs(m - mq) / sdq).max()
    # D_2 of N(m, C) from N(mq, Cq): with S = 2 Cq - C, d' S^-1 d + log |Cq| - (log |C| + log |S|) / 2
    s, d = 2 * cq - c, m - mq
    logs = [np.linalg.slogdet(a)[1] for a in (cq, c, s)]
    exact = d @ np.linalg.solve(s, d) + logs[0] - (logs[1] + logs[2]) / 2
    assert found.divergence.numpy() == pytest.approx(exact, rel=0.1)
    fourth = np.trace(cq) ** 2 + 2 * np.trace(cq @ cq)
    closed = math.sqrt(2) * (fourth * np.expm1(found.divergence.numpy())) ** 0.25
    assert found.wasserstein.numpy() == pytest.approx(closed, rel=0.02)


def test_a_narrow_guide_has_no_bound_that_holds() -> None:
    """Its weights have no second moment, and k says so; the sentence says what else to do."""
    pair, _ = off(0.5, 0.0)
    found = pv.error_bounds(pair, torch.zeros(2, 4), num_samples=2000)
    assert not bool(found.holds.any())
    assert "0 of 2" in str(found)
    assert "sbc" in str(found)
    assert "medians" in str(pv.error_bounds(off(1.2, 0.1)[0], torch.zeros(2, 4), num_samples=2000))


def test_draws_without_a_fourth_moment_have_no_distance() -> None:
    """One latent: a refined guide draws Student's t with 1.75 degrees of freedom, unless it is asked for a Gaussian."""
    pair, x = pv.build("linear", data_shape=(5,), latent=1).double(), torch.zeros(2, 5, dtype=torch.float64)
    heavy, plain = (pv.refine(pair, x, steps=20, **df) for df in ({}, {"df": math.inf}))
    wide = pv.build("linear", data_shape=(5,), latent=5).double()  # with 7.75 degrees of freedom
    five = pv.error_bounds(wide.with_guide(pv.refine(wide, x, steps=20)), x, num_samples=50)
    assert bool(torch.isfinite(five.wasserstein).all())
    with pytest.raises(pv.PairError, match=r"no fourth moment .*1\.75 degrees of freedom"):
        pv.error_bounds(pair.with_guide(heavy), x, num_samples=50)
    assert bool(torch.isfinite(pv.error_bounds(pair.with_guide(plain), x, num_samples=50).wasserstein).all())


def test_discrete_latents_have_no_distance() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(b.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))

    with pytest.raises(pv.PairError, match="'b' is discrete"):
        pv.error_bounds(pv.Pair(model, guide), torch.zeros(2, 1))
    with pytest.raises(pv.UserError, match="num_samples=1"):
        pv.error_bounds(off(1.2, 0.1)[0], torch.zeros(2, 4), num_samples=1)
