"""Sentences: all of them sum to one, draws follow log p(x), padding changes nothing, hidden words only in training."""

from __future__ import annotations

import itertools

import pytest
import torch
from exact import quadrature
from torch import Tensor

import ppl_vae as pv

WORDS, STEPS = 3, 3


def small(steps: int = STEPS, **options: float) -> pv.Pair:
    torch.manual_seed(0)
    given = {"latent": 1, "embedding": 4, "units": 5, **options}
    pair = pv.build("sentences", data_shape=(steps,), vocabulary=WORDS, **given).double()
    for p in pair.model.parameters():
        p.data.mul_(2)  # words that depend on z and on those before
    return pair


def every(steps: int = STEPS) -> Tensor:
    """Every row of words, those with a word after a 0 too."""
    return torch.tensor(list(itertools.product(range(WORDS), repeat=steps)))


def test_all_sentences_sum_to_one_and_those_that_go_on_after_their_end_have_none() -> None:
    pair, x = small(), every()
    log_px = quadrature(pair, x, 60)
    torch.testing.assert_close(log_px.logsumexp(0), torch.tensor(0.0).double(), rtol=0, atol=1e-9)
    goes_on = ((x[:, :-1] == 0) & (x[:, 1:] != 0)).any(-1)
    assert torch.equal(log_px.isneginf(), goes_on)
    legal = x[~goes_on]
    est = pv.log_likelihood(pair, legal, num_samples=2000, proposal="defensive")
    assert bool(((est.log_px - log_px[~goes_on]).abs() < 4 * est.std_error + 1e-5).all())


def test_draws_follow_log_px() -> None:
    pair, x = small(), every()
    draws = pv.sample(pair, 20_000, seed=0)
    share = (draws[:, None] == x).all(-1).double().mean(0)
    expected = quadrature(pair, x, 60).exp()
    assert bool(((share - expected).abs() < 4 * (expected / 20_000).sqrt() + 1e-9).all())


def test_more_padding_changes_nothing() -> None:
    short, long = small(4), small(7)
    x = torch.tensor([[2, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    found = []
    for pair, given in ((short, x), (long, torch.nn.functional.pad(x, (0, 3)))):
        with pv.rng.forked(seed=1):
            found.append(pv.terms(pair.model, pair.guide, given, num_samples=5).log_w)
    torch.testing.assert_close(found[0], found[1])


def test_words_are_hidden_in_training_alone() -> None:
    pair, x = small(word_dropout=0.5), every()[-3:]
    z = {"z": torch.zeros(1, 3, 1).double()}
    first, second = (pv.log_joint(pair.train().model, x, None, z) for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (pv.log_joint(pair.eval().model, x, None, z) for _ in range(2))
    assert torch.equal(first, second)


def test_what_it_does_not_take() -> None:
    for options in ({"data_shape": (2, 3)}, {"vocabulary": 1}, {"word_dropout": 1.0}, {"units": 0}):
        with pytest.raises(pv.UserError, match="give sentences"):
            pv.build("sentences", **{"data_shape": (6,), "vocabulary": 5, **options})
    with pytest.raises(pv.UserError, match=r"outside the support|fails on x"):
        pv.log_likelihood(small(), torch.tensor([[1, 7, 0]]), num_samples=5)
