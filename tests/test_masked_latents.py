"""Latents that are masked, as in series of unequal length: what is masked is no part of p(x), annealed or not."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae as pv

LENGTHS = torch.tensor([1, 2, 4, 3])
STEPS, A, Q, R = 4, 0.8, 0.5, 0.3  # z_t = A z_{t-1} + N(0, Q), x_t = z_t + N(0, R)
X = torch.randn(4, STEPS, generator=torch.Generator().manual_seed(0))


def step(t: int, z: Tensor | None) -> Any:
    return dist.Normal(0.0, 1.0) if z is None else dist.Normal(A * z, Q**0.5)


def by_poutine(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = None
        for t in range(STEPS):
            with pyro.poutine.mask(mask=t < LENGTHS[: len(x)]):
                z = pyro.sample(f"z{t}", step(t, z))
                pyro.sample(f"x{t}", dist.Normal(z, R**0.5), obs=x[:, t])


def by_distribution(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = None
        for t in range(STEPS):
            seen = t < LENGTHS[: len(x)]
            z = pyro.sample(f"z{t}", step(t, z).mask(seen))
            pyro.sample(f"x{t}", dist.Normal(z, R**0.5).mask(seen), obs=x[:, t])


def guide(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        for t in range(STEPS):
            with pyro.poutine.mask(mask=t < LENGTHS[: len(x)]):
                pyro.sample(f"z{t}", dist.Normal(0.6 * x[:, t], 0.7))


def kalman(x: Tensor) -> Tensor:
    """log p of the observed steps, by the joint normal."""
    cov_z = torch.zeros(STEPS, STEPS)
    variance = torch.ones(STEPS)
    for t in range(1, STEPS):
        variance[t] = A**2 * variance[t - 1] + Q
    for i in range(STEPS):
        for j in range(STEPS):
            cov_z[i, j] = A ** abs(i - j) * variance[min(i, j)]
    cov = cov_z + R * torch.eye(STEPS)
    return torch.stack(
        [
            dist.MultivariateNormal(torch.zeros(n), cov[:n, :n]).log_prob(x[b, :n])
            for b, n in enumerate(LENGTHS[: len(x)].tolist())
        ]
    )


@pytest.mark.parametrize("model", [by_poutine, by_distribution])
def test_every_estimate_has_the_evidence_of_the_kalman_filter(model: Any) -> None:
    pair = pv.Pair(model, guide)
    pv.check_pair(model, guide, X)
    est = pv.log_likelihood(pair, X, num_samples=20_000)
    assert ((est.log_px - kalman(X)).abs() < 6 * est.std_error + 0.01).all()
    for start in ("prior", "guide"):
        est = pv.ais(pair, X, num_chains=64, num_temperatures=15, start=start)
        assert ((est.log_px - kalman(X)).abs() < 6 * est.std_error + 0.03).all(), start


def test_samplers_run_on_series_of_unequal_length() -> None:
    pair = pv.Pair(by_poutine, guide)
    draws = pv.posterior(pair, X, method="hmc", num_samples=400, num_chains=100, warmup=20)
    first = draws["z0"][:, 0]  # of length one: z0 | x0 is normal
    assert first.mean() == pytest.approx(float(X[0, 0] / (1 + R)), abs=0.15)
    assert draws["z3"].isfinite().all()
    nuts = pv.posterior(pair, X[:1], method="nuts", num_samples=8, num_chains=2, warmup=5)
    assert nuts["z0"].isfinite().all()


def test_a_step_that_no_series_of_the_batch_reaches_is_masked_too() -> None:
    est = pv.ais(pv.Pair(by_poutine, guide), X[:2], num_chains=64, num_temperatures=15)
    assert ((est.log_px - kalman(X[:2])).abs() < 6 * est.std_error + 0.03).all()


def test_masked_coordinates_of_one_latent_are_annealed_too() -> None:
    seen = torch.tensor([[True, False], [True, True]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(seen).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).mask(seen).to_event(1), obs=x)

    def masked_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.8).mask(seen).to_event(1))

    x = torch.tensor([[0.5, 9.0], [1.0, -1.0]])
    truth = torch.where(seen, dist.Normal(0.0, 2**0.5).log_prob(x), 0.0).sum(-1)
    pair = pv.Pair(model, masked_guide)
    for start in ("prior", "guide"):
        est = pv.ais(pair, x, num_chains=64, num_temperatures=8, start=start)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.02).all(), start
    weighed = pv.log_likelihood(pair, x, num_samples=20_000)
    assert ((weighed.log_px - truth).abs() < 6 * weighed.std_error + 0.01).all()


def test_a_flat_prior_is_refused_still() -> None:
    pair = pv.build("autoencoder", data_shape=(6,), latent=2, hidden=(4,))
    for start in ("prior", "guide"):
        with pytest.raises(pv.PairError, match=r"masked in the model, where the rest depends on it|deterministic"):
            pv.ais(pair, torch.zeros(2, 6), num_chains=2, num_temperatures=2, start=start)


def test_a_mask_on_one_side_only_is_no_weight() -> None:
    def bare(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            for t in range(STEPS):
                pyro.sample(f"z{t}", dist.Normal(0.6 * x[:, t], 0.7))

    with pytest.raises(pv.PairError, match=r"'z1'.*mask different entries.*the same mask on both"):
        pv.log_likelihood(pv.Pair(by_poutine, bare), X, num_samples=5)
