"""Tables: log p(x) against quadrature, missing entries are integrated out, columns have units and classes."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from exact import quadrature

import ppl_vae as pv
from ppl_vae.nn.columns import Columns

CLASSES = (0, 2, 3)


def small(**options: Any) -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("table", data_shape=(3,), column_classes=CLASSES, latent=1, hidden=(), **options).double()


ROWS = torch.tensor([[0.3, 1, 2], [torch.nan, 0, 1], [-1.2, torch.nan, torch.nan], [0.1, 1, torch.nan]]).double()


def test_log_px_is_that_of_quadrature() -> None:
    pair = small()
    exact = quadrature(pair, ROWS, 60)
    torch.testing.assert_close(exact, quadrature(pair, ROWS, 90), rtol=1e-5, atol=1e-5)
    est = pv.log_likelihood(pair, ROWS, num_samples=5000)
    assert bool(((est.log_px - exact).abs() < 4 * est.std_error + 1e-6).all())


def test_a_missing_class_is_summed_out_and_a_missing_number_integrated_out() -> None:
    pair = small()
    whole = ROWS[3].expand(3, 3).clone()
    whole[:, 2] = torch.arange(3)
    torch.testing.assert_close(quadrature(pair, whole, 60).logsumexp(0), quadrature(pair, ROWS[3:], 60)[0])
    line = ROWS[1].expand(600, 3).clone()
    line[:, 0] = torch.arange(-300, 300) * 0.05
    total = (quadrature(pair, line, 60).exp() * 0.05).sum().log()
    torch.testing.assert_close(total, quadrature(pair, ROWS[1:2], 60)[0], rtol=0, atol=1e-3)


def test_nothing_seen_has_probability_one() -> None:
    x = torch.full((2, 3), torch.nan).double()
    t = pv.terms(small().model, small().guide, x, num_samples=3)
    assert bool((t.log_lik == 0).all())


def test_other_units_change_log_px_by_the_log_of_the_unit() -> None:
    mean, scale = torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, 1.0])
    unit = torch.tensor([100.0, 1.0, 1.0])
    one, two = (small(data_mean=mean * u, data_scale=scale * u) for u in (torch.ones(3), unit))
    x = ROWS[:1]
    difference = quadrature(one, x, 60) - quadrature(two, x * unit, 60)
    torch.testing.assert_close(difference, unit.log().sum().double().reshape(1))
    features = one.guide.encoder(x), two.guide.encoder(x * unit)
    torch.testing.assert_close(*features)


def test_columns_sum_to_one_and_draws_follow_them() -> None:
    torch.manual_seed(0)
    p = Columns(torch.randn(3, 3), torch.tensor(CLASSES), torch.tensor([5.0, 0, 0]), torch.tensor([2.0, 1, 1]))
    line = torch.arange(-4000.0, 4000.0)[:, None].expand(-1, 3) * 0.01
    total = p.log_prob(line).exp()[:, 0].sum() * 0.01
    torch.testing.assert_close(total, torch.tensor(1.0))
    codes = torch.arange(3.0)[:, None].expand(3, 3)
    torch.testing.assert_close(p.log_prob(codes).exp().sum(0)[1:], torch.ones(2))
    draws = p.sample((20_000,))
    assert bool(p.support.check(draws).all())
    torch.testing.assert_close(draws.mean(0)[:2], p.mean[:2], rtol=0, atol=0.05)
    assert not bool(p.support.check(torch.tensor([0.5, 2.0, 0.5]))[1:].any())


def test_a_missing_entry_leaves_a_finite_gradient_in_stock_pyro() -> None:
    pair = small()
    pyro.infer.Trace_ELBO().differentiable_loss(pair.model, pair.guide, ROWS).backward()
    assert all(bool(p.grad.isfinite().all()) for p in pair.parameters() if p.grad is not None)


def test_gaps_are_imputed_and_classes_without_a_place_are_refused() -> None:
    data = pv.load_data("table")
    pair = pv.build("table", data=data, latent=2, hidden=(8,))
    assert not bool(pv.reconstruct(pair, data.test.x[:20]).isnan().any())
    x = data.test.x[:3].clone()
    x[1, 6] = 4.0
    with pytest.raises(pv.UserError, match="example 1 lies outside the support"):
        pv.log_likelihood(pair, x, num_samples=10)
    with pytest.raises(pv.UserError, match="shape"):
        pv.log_likelihood(pair, x[:, :5], num_samples=10)
    for options in ({"column_classes": (0, 2)}, {"data_shape": (2, 3)}, {"column_classes": (0, -1, 2)}):
        with pytest.raises(pv.UserError, match="its number of classes"):
            pv.build("table", **{"data_shape": (3,), **options})
