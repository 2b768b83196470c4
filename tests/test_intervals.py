"""Intervals of annealed estimates against a known log p(x), and the number of chains that an error needs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.likelihood.result import SOURCES


def annealed(log_w: Tensor) -> pv.Estimate:
    """What annealing makes of log weights (C, N)."""
    chains, n = log_w.shape
    value, error = pv.estimators.log_mean_exp(log_w)
    unknown = torch.full((n,), math.nan, dtype=torch.float64)
    return pv.Estimate(
        value, error, pv.ess(log_w), unknown, log_w.mean(0), chains, 0, 1, n, chains, num_temperatures=9,
        num_chains=chains,
    )  # fmt: skip


def covered(ends: tuple[Tensor, Tensor], truth: Tensor | float) -> float:
    return float(((ends[0] <= truth) & (truth <= ends[1])).double().mean())


@pytest.mark.parametrize("chains", [4, 16, 64])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_intervals_hold_where_log_weights_are_normal(scale: float, chains: int) -> None:
    """log w ~ N(-s^2 / 2, s^2), so that log p(x) = 0: 90 to 99 % of 4,000 intervals of 95 % hold it.

    At s = 2.5 the weights that matter are rare: 87 % then, where the delta method has 65 % or less.
    """
    torch.manual_seed(0)
    log_w = scale * torch.randn(chains, 4000, dtype=torch.float64) - scale**2 / 2
    est = annealed(log_w)
    assert (0.87 if scale > 2 else 0.9) <= covered(est.interval(), 0.0) <= 0.99
    assert covered(est.interval(0.5), 0.0) < covered(est.interval(0.8), 0.0) < covered(est.interval(), 0.0)
    normal = est.log_px - 1.96 * est.std_error, est.log_px + 1.96 * est.std_error
    assert scale < 2 or covered(normal, 0.0) < 0.65


def test_intervals_of_short_annealing_hold_log_px() -> None:
    """Probabilistic PCA, latent 10, D = 30, chains from the prior: by the delta method far fewer do."""
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(30,), latent=10, sigma=0.5)
    x = pv.sample(pair, 60, seed=1)
    truth = pair.model.evidence(x).detach().double()  # type: ignore[operator, union-attr]
    est = pv.ais(pair, x, num_chains=16, num_temperatures=20)
    assert covered(est.interval(), truth) > 0.86  # 0.94 less three errors
    normal = est.log_px - 1.96 * est.std_error, est.log_px + 1.96 * est.std_error
    assert covered(normal, truth) < 0.75


def test_many_equal_chains_have_the_normal_interval() -> None:
    torch.manual_seed(0)
    est = annealed(0.2 * torch.randn(200, 50, dtype=torch.float64))
    low, high = est.interval()
    assert torch.allclose((high - low) / est.std_error, torch.tensor(3.92, dtype=torch.float64), rtol=0.06)
    nothing = annealed(torch.zeros(1, 2, dtype=torch.float64)).interval()
    assert bool(torch.stack(nothing).isnan().all())  # one chain says nothing of its error


def test_under_auto_the_annealed_examples_alone_have_it() -> None:
    torch.manual_seed(0)
    one = annealed(2 * torch.randn(16, 3, dtype=torch.float64))
    source = torch.tensor([SOURCES.index(name) for name in ("guide", "ais", "refined")])
    auto = replace(one, num_temperatures=0, num_samples=5000, source=source)
    plain = replace(one, num_temperatures=0, num_samples=5000)
    for end, of_all, normal in zip(auto.interval(), one.interval(), plain.interval(), strict=True):
        assert torch.equal(end, torch.where(source == 2, of_all, normal))
    assert auto.chains_needed(0.1)[0].isnan().tolist() == [True, False, True]


def test_the_chains_that_an_error_needs_lie_between_the_two_numbers() -> None:
    """Normal log weights: e^(s^2) - 1 over the squared error. A tenth of the error needs a hundred times as many."""
    torch.manual_seed(0)
    for scale in (0.5, 1.5):
        est = annealed(scale * torch.randn(64, 500, dtype=torch.float64) - scale**2 / 2)
        least, most = est.chains_needed(0.1)
        true = math.expm1(scale**2) / 0.01
        assert bool((least <= most).all())
        assert float(least.median()) == pytest.approx(true, rel=0.6)
        assert float(most.median()) == pytest.approx(true, rel=0.6)
        assert torch.allclose(est.chains_needed(0.01)[0], 100 * least, atol=100)
    with pytest.raises(pv.UserError, match="std_error=0"):
        est.chains_needed(0)
