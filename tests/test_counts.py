"""Counts with a library size: log p(x) against quadrature, and the toys that the pairs for such data are trained on."""

from __future__ import annotations

import pytest
import torch
from exact import quadrature

import ppl_vae as pv
from ppl_vae.common.fields import leaves
from ppl_vae.data.toys import TOYS, toy


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated"])
def test_log_px_is_that_of_quadrature(likelihood: str) -> None:
    pair = pv.build("counts", data_shape=(6,), latent=1, hidden=(), likelihood=likelihood).double()
    x = torch.poisson(torch.rand(5, 6, dtype=torch.float64) * torch.tensor([4.0, 8, 1, 2, 0.5, 6]))
    exact = quadrature(pair, x, 60)
    torch.testing.assert_close(exact, quadrature(pair, x, 90))  # the reference has converged
    est = pv.log_likelihood(pair, x, num_samples=40_000, proposal="defensive")
    assert bool(((est.log_px - exact).abs() < 4 * est.std_error + 1e-6).all())
    assert float(est.std_error.max()) < 0.05


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated"])
def test_means_add_up_to_the_library(likelihood: str) -> None:
    """The means of an example are shares of its total, less what is lost to zeros."""
    pair = pv.build("counts", data_shape=(6,), latent=2, hidden=(4,), likelihood=likelihood).double()
    x = torch.tensor([[3.0, 0, 0, 1, 2, 4], [30.0, 0, 0, 10, 20, 40]], dtype=torch.float64)
    p = pv.terms(pair.model, pair.guide, x, num_samples=3).observed["x"].p.base_dist
    mean = p.base_dist.mean if likelihood == "zero_inflated" else p.mean
    torch.testing.assert_close(mean.sum(-1), x.sum(-1).expand(3, 2))


def test_zero_inflated_counts_sum_to_one() -> None:
    p = pv.likelihoods.ZeroInflated((1,), total_count=3.0)(torch.tensor([[0.7], [-0.4]])).base_dist
    values = torch.arange(400.0)[:, None]
    torch.testing.assert_close(p.log_prob(values).exp().sum(0), torch.ones(1))
    assert bool(p.log_prob(torch.zeros(1)) > p.base_dist.log_prob(torch.zeros(1)))


def test_a_library_or_a_shape_that_it_does_not_have() -> None:
    with pytest.raises(pv.UserError, match="observed or latent"):
        pv.build("counts", data_shape=(6,), library="known")
    with pytest.raises(pv.UserError, match=r"\(genes,\)"):
        pv.build("counts", data_shape=(2, 3))
    with pytest.raises(pv.UserError, match="fields 'one', 'two'"):
        pv.build("counts", data=pv.load_data("views"))


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_the_same_for_the_same_seed(name: str, untouched: None) -> None:
    one, two, other = (toy(name, seed)[0] for seed in (0, 0, 1))
    for a, b, c in zip(*map(leaves, (one, two, other)), strict=True):
        assert a.shape == c.shape
        assert torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        assert not torch.equal(a, c)


def test_what_the_toys_say_of_themselves() -> None:
    data = {name: pv.load_data(name) for name in TOYS}
    assert data["table"].column_classes == (0, 0, 0, 2, 2, 3, 4)
    assert data["tokens"].vocabulary == 24
    assert data["views"].data_shape == {"one": (10,), "two": (6,)}
    x = data["views"].train.x
    assert not bool((x["one"].isnan().all(1) & x["two"].isnan().all(1)).any())
    over = data["series"].train.x.isnan().all(-1)  # nothing follows a step that is over
    assert bool((over[:, 1:] >= over[:, :-1]).all())
    ended = data["tokens"].train.x == 0
    assert bool((ended[:, 1:] >= ended[:, :-1]).all())
    torch.testing.assert_close(data["table"].scale[0], torch.tensor(10.0), rtol=0.1, atol=0)
    assert all(len(d.train) == 1400 for d in data.values())


@pytest.mark.parametrize("like", [False, True])
def test_draws_that_are_scored_by_another_density_are_refused(like: bool) -> None:
    """With the total of x as a covariate, an example drawn for another total is scored given its own."""
    observed, latent = (
        pv.build("counts", data_shape=(6,), latent=2, hidden=(4,), library=name) for name in ("observed", "latent")
    )
    x = torch.poisson(torch.full((4, 6), 20.0)) if like else None
    for check in (pv.eubo, pv.bdmc, pv.sbc):
        with pytest.raises(pv.UserError, match="'x' scores an example by another density than that which it was drawn"):
            check(observed, 4, like=x)
    assert pv.eubo(latent, 4, 10, like=x).upper.shape == (4,)
