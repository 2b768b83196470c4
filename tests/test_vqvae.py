"""VQ-VAE: straight-through codes, the loss that moves them, and a bound of a log p(x) that can be summed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.nn.codes import Codebook


def build(**options: Any) -> pv.Pair:
    torch.manual_seed(0)
    pair = pv.build("vqvae", data_shape=(1, 3, 3), hidden=(12,), tokens=3, codes=4, width=2, depth=1, **options)
    pair.guide.book.table.data.mul_(5)
    return pair.double()


def images() -> Tensor:
    return (torch.rand(20, 1, 3, 3, dtype=torch.float64) > 0.5).double()


def test_the_nearest_code_is_that_of_the_least_distance() -> None:
    book = Codebook(7, 3).double()
    h = torch.randn(50, 2, 4 * 3, dtype=torch.float64)
    distance = (h.reshape(50, 2, 4, 1, 3) - book.table).norm(dim=-1)
    assert torch.equal(book.nearest(h), distance.argmin(-1))
    tokens = torch.randint(7, (50, 4)).double()
    assert torch.equal(book.nearest(book.read(tokens)), tokens.long())


def test_the_gradient_of_a_code_is_that_of_the_encoder() -> None:
    """Straight through: d z / d h is the identity, and the loss gives 2 (e - h) to codes and 2 beta (h - e) to h."""
    book = Codebook(5, 2).double()
    h = torch.randn(6, 3 * 2, dtype=torch.float64, requires_grad=True)
    z, loss = book.quantise(h, 0.25)
    weight = torch.randn_like(z)
    (through,) = torch.autograd.grad((z * weight).sum(), h, retain_graph=True)
    torch.testing.assert_close(through, weight)
    e = book.read(book.nearest(h)).detach()
    torch.testing.assert_close(z, e)
    to_h, to_table = torch.autograd.grad(loss.sum(), (h, book.table))
    torch.testing.assert_close(to_h, 0.5 * (h.detach() - e))
    each = torch.zeros_like(book.table)
    each.index_add_(0, book.nearest(h).flatten(), 2 * (e - h.detach()).reshape(-1, 2))
    torch.testing.assert_close(to_table, each)


def test_the_prior_sums_to_one_and_the_elbo_is_below_the_sum_over_all_codes() -> None:
    pair, x = build().eval(), images()
    tokens = torch.tensor(list(itertools.product(range(4), repeat=3)), dtype=torch.float64)
    z = pair.guide.book.read(tokens)  # (64, 6)
    with torch.no_grad():
        log_prior = pair.model.prior().log_prob(z)
        torch.testing.assert_close(log_prior.logsumexp(0), torch.zeros((), dtype=torch.float64))
        p = pair.model.likelihood(pair.model.decoder(z))
        joint = p.log_prob(x.unsqueeze(1)) + log_prior  # (20, 64)
        t = pv.terms(pair.model, pair.guide, x)
    at = pair.guide.book.nearest(pv.encode(pair, x).mean["z"])
    index = (at * torch.tensor([16, 4, 1])).sum(-1, keepdim=True)
    torch.testing.assert_close(t.log_w[0], joint.gather(1, index)[:, 0])
    assert bool((t.log_w[0] < joint.logsumexp(1)).all())


def test_the_loss_of_codes_counts_in_training_alone() -> None:
    pair, x = build(), images()
    h = pair.guide.row(pair.guide.encoder(x))
    extra = pair.guide.book.quantise(h, 0.25)[1]
    bounds = [pv.Elbo().bounds(pair.train(mode).model, pair.guide, x) for mode in (True, False)]
    torch.testing.assert_close(bounds[1] - bounds[0], extra)


def test_the_prior_learns_the_tokens_and_leaves_the_encoder() -> None:
    pair, x = build(), images()
    t = pv.terms(pair.model, pair.guide, x)
    t.log_prior.sum().backward()
    assert pair.model.prior.net.positions.grad is not None
    assert all(p.grad is None or not bool(p.grad.any()) for p in pair.guide.parameters())


def test_the_guide_gives_no_log_px_and_the_prior_does() -> None:
    pair, x = build(), images()[:5]
    for estimate in (pv.log_likelihood, pv.compress):
        with pytest.raises(pv.PairError, match="deterministic"):
            estimate(pair, x)
    with pytest.raises(pv.PairError, match="discrete"):
        pv.ais(pair, x, num_chains=2, num_temperatures=5)  # which would move codes to where p(z) is zero
    z = pair.guide.book.read(torch.tensor(list(itertools.product(range(4), repeat=3))))
    with torch.no_grad():
        p = pair.model.likelihood(pair.model.decoder(z))
        exact = (p.log_prob(x.unsqueeze(1)) + pair.model.prior().log_prob(z)).logsumexp(1)
    found = pv.log_likelihood(pair, x, num_samples=1000, proposal="prior")
    assert bool(((found.log_px - exact).abs() < 5 * found.std_error + 1e-3).all())


def test_draws_are_rows_of_codes() -> None:
    p = build().model.prior()
    z = p.sample((50,))
    assert bool(p.support.check(z).all())
    assert not bool(p.support.check(z + 0.1).any())


def test_wrong_options_are_refused_in_one_line() -> None:
    for options, message in (({"codes": 1}, "at least two codes"), ({"tokens": 0}, "at least one")):
        with pytest.raises(pv.UserError, match=message):
            pv.build("vqvae", data_shape=(4,), **options)
