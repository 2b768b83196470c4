"""A flow of x: its density integrates to one; of whole levels, the bound by uniform noise, and the probability."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.nn.dequantisation import Cells, Dequantised

pytest.importorskip("zuko")
pyro.enable_validation(True)  # which importing zuko turns off


def build(shape: tuple[int, ...], **options: Any) -> pv.Pair:
    """A flow that is far from the identity."""
    torch.manual_seed(1)
    pair = pv.build("flow", data_shape=shape, hidden=(8,), transforms=2, **options).double()
    for parameter in pair.parameters():
        parameter.data.add_(0.15 * torch.randn_like(parameter))
    return pair


def log_px(pair: pv.Pair, x: Tensor) -> Tensor:
    with torch.no_grad():
        return pv.terms(pair.model, pair.guide, x).log_w[0]


def midpoints(low: float, high: float, n: int) -> Tensor:
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_the_density_integrates_to_one(kind: str) -> None:
    pair = build((2,), levels=0, kind=kind)
    n, end = 120, 7.0
    line = midpoints(-end, end, n)
    density = log_px(pair, torch.cartesian_prod(line, line)).exp()
    total = density.sum() * (2 * end / n) ** 2
    torch.testing.assert_close(total, torch.ones_like(total), atol=2e-3, rtol=0)


@pytest.mark.parametrize("levels", [0, 2, 17])
def test_it_starts_at_the_mean_of_the_data(levels: int) -> None:
    """The centre of the density is the mean of x, or that of z, which is uniform in the cell of x."""
    mean = torch.tensor([[0.0, 0.3], [0.5, 1.0]])
    density = pv.build("flow", data_shape=(2, 2), data_mean=mean, levels=levels, hidden=(8,)).model.density
    centre = density.loc.detach().reshape(2, 2)
    x = mean.repeat(4000, 1, 1) if levels == 0 else torch.bernoulli(mean.repeat(4000, 1, 1))
    z = x if levels == 0 else Dequantised(x, levels, 2).sample()
    torch.testing.assert_close(centre if levels == 0 else centre.sigmoid(), z.mean(0), atol=0.03, rtol=0)


def test_draws_have_the_density() -> None:
    """In each cell of a grid, the share of the draws is the integral of the density."""
    pair = build((2,), levels=0)
    n = 20_000
    x = pv.sample(pair, n, seed=0)
    line = midpoints(-4, 4, 160)
    p = log_px(pair, torch.cartesian_prod(line, line)).exp().reshape(8, 20, 8, 20).sum((1, 3)) / 20**2
    inside = (x.abs() < 4).all(-1)
    i, j = (x[inside] + 4).floor().long().unbind(-1)
    shares = torch.bincount(8 * i + j, minlength=64).reshape(8, 8) / n
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all())


@pytest.mark.parametrize("levels", [2, 3])
def test_probabilities_of_whole_levels_sum_to_one_and_the_bound_lies_below(levels: int) -> None:
    pair = build((1, 2), levels=levels)
    pair.model.density.log_scale.data.zero_()  # a density that vanishes at the ends, for the midpoint rule
    values = list(itertools.product(range(levels), repeat=2))
    x = torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 2) / (levels - 1)
    n = 120 // levels
    line = midpoints(0, 1, n * levels)
    with torch.no_grad():
        density = pair.model.density().log_prob(torch.cartesian_prod(line, line).reshape(-1, 1, 2)).exp()
    probability = density.reshape(levels, n, levels, n).sum((1, 3)).flatten() / (n * levels) ** 2
    torch.testing.assert_close(probability.sum(), torch.ones_like(probability.sum()), atol=2e-3, rtol=0)
    found = pv.log_likelihood(pair, x, num_samples=2000, seed=0)
    torch.testing.assert_close(found.log_px, probability.log(), atol=0.05, rtol=0)
    assert bool((found.elbo < found.log_px).all())
    n = 20_000
    draws = pv.sample(pair, n, seed=0)
    shares = (draws.unsqueeze(1) == x).all(-1).all(-1).double().mean(0)
    assert bool(((shares - probability).abs() < 5 * (probability * (1 - probability) / n).sqrt() + 2e-3).all())


def test_noise_stays_in_its_cell() -> None:
    for levels, dtype in ((2, torch.float32), (17, torch.float32), (256, torch.float32), (256, torch.float64)):
        x = torch.arange(levels, dtype=dtype) / (levels - 1)
        q = Dequantised(x, levels)
        z = q.rsample((2000,))
        assert torch.equal(Cells(z, levels).sample(), x.expand_as(z))
        assert bool((Cells(z, levels).log_prob(x) == 0).all())
        assert bool((Cells(q.mean, levels).log_prob(x.roll(1)) == -torch.inf).all())
        torch.testing.assert_close(q.log_prob(z).exp(), torch.full_like(z, levels))
        assert torch.equal(Cells(q.mean, levels).mean, x)


def test_a_missing_entry_is_not_scored() -> None:
    q = Dequantised(torch.tensor([[0.0, torch.nan]]), 2, 1)
    assert bool(Cells(torch.rand(1, 2), 2, 1).log_prob(q.x).isnan().all())


def test_wrong_options_are_refused_in_one_line() -> None:
    for options, message in (({"levels": 1}, "0 for continuous"), ({"kind": "glow"}, "one of nsf, maf")):
        with pytest.raises(pv.UserError, match=message):
            pv.build("flow", data_shape=(4,), **options)


def test_data_of_another_number_of_levels_are_refused_with_the_option() -> None:
    pair = pv.build("flow", data_shape=(4,), hidden=(8,))
    message = r"outside the support of site 'x' \(Cells\): scale or round the data to 0, 1/255, ..., 1, give the number"
    with pytest.raises(pv.DataError, match=message):
        pv.log_likelihood(pair, torch.full((3, 4), 0.1), num_samples=2)
