"""Topics: log p(x) against quadrature, bags sum to one, and draws have their totals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.nn.bags import Bag
from ppl_vae.pairs.topics import WORDS


def quadrature(pair: pv.Pair, x: Tensor, nodes: int) -> Tensor:
    """log of the integral of p(z) p(x | z) over two standard normals, by Gauss-Hermite."""
    one, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    z = torch.cartesian_prod(one, one)  # (nodes^2, 2)
    log_w = torch.cartesian_prod(weight, weight).log().sum(-1) - 2 * weight.sum().log()
    log_joint = pv.log_joint(pair.model, x, None, {"z": z.unsqueeze(1).expand(-1, len(x), 2)})
    prior = -0.5 * z.square().sum(-1) - np.log(2 * np.pi)
    return (log_joint + (log_w - prior).unsqueeze(-1)).logsumexp(0)


@pytest.mark.parametrize("words", ["product", "mixture"])
def test_log_px_is_that_of_quadrature_and_all_bags_of_a_size_sum_to_one(words: str) -> None:
    torch.manual_seed(0)
    pair = pv.build("topics", data_shape=(3,), latent=2, alpha=1.0, words=words, hidden=(4,)).double()
    bags = torch.tensor([x for x in itertools.product(range(4), repeat=3) if sum(x) == 3]).double()
    exact = quadrature(pair, bags, 30)
    torch.testing.assert_close(exact, quadrature(pair, bags, 45), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact.logsumexp(0), torch.tensor(0.0).double(), rtol=0, atol=1e-9)
    est = pv.log_likelihood(pair, bags, num_samples=3000, proposal="prior")
    assert bool(((est.log_px - exact).abs() < 4 * est.std_error + 1e-5).all())


def test_a_bag_is_a_multinomial_and_its_draws_have_their_total() -> None:
    torch.manual_seed(0)
    log_p = torch.randn(2, 5).log_softmax(-1)
    total = torch.tensor([3.0, 40.0])
    p = Bag(log_p, total)
    draws = p.sample((4000,))
    assert bool((draws.sum(-1) == total).all())
    torch.testing.assert_close(draws.mean(0), p.mean, rtol=0.1, atol=0.05)
    for i, n in enumerate((3, 40)):
        stock = torch.distributions.Multinomial(n, logits=log_p[i]).log_prob(draws[:20, i])
        torch.testing.assert_close(p.log_prob(draws[:20])[:, i], stock)
    assert bool(p.log_prob(draws[0] + 1).isneginf().all())


def test_what_it_does_not_take() -> None:
    for options in ({"data_shape": (2, 3)}, {"latent": 1}, {"alpha": 0.0}, {"words": "sum"}):
        with pytest.raises(pv.UserError, match="at least two topics"):
            pv.build("topics", **{"data_shape": (6,), **options})


def test_a_word_that_is_rare_in_every_topic_has_a_log_probability() -> None:
    """log(sum_k s_k beta_kv) where the softmax of beta underflows: -200 - log 3 here, and finite gradients."""
    beta = torch.zeros(2, 4)
    beta[:, 0] = -200.0
    beta.requires_grad_()
    log_p = WORDS["mixture"](torch.tensor([[0.5, 0.5]]), beta)
    assert float(log_p[0, 0].detach()) == pytest.approx(-200 - math.log(3), abs=1e-3)
    assert float(log_p.detach().exp().sum()) == pytest.approx(1, abs=1e-6)
    (torch.tensor([[0.0, 1.0, 1.0, 0.0]]) * log_p).sum().backward()
    assert bool(beta.grad.isfinite().all())
