"""The adversarial objective: its value and both gradients, its penalty, what it learns, and log p(x) by annealing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import ppl_vae as pv
from ppl_vae.objectives.adversarial import samples


def small(**options: object) -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("gan", **{"data_shape": (5,), "latent": 2, "hidden": (7,), "likelihood": "gaussian", **options})


def seeded(pair: pv.Pair, x: Tensor, penalty: float = 0.0) -> Tensor:
    torch.manual_seed(1)
    return pv.objective("adversarial", penalty=penalty).bounds(pair.model, pair.guide, x).sum()


def test_one_backward_has_the_gradients_of_the_two_losses() -> None:
    """Those of the critic's cross-entropy and of the model's non-saturating loss, each at the same parameters."""
    pair, x = small().double(), torch.randn(6, 5).double()
    value = seeded(pair, x)
    (-value).backward()
    found = {name: p.grad for name, p in pair.named_parameters()}
    torch.manual_seed(1)
    fake, critic = samples(pair.model, 6), pair.guide.critic
    one, zero = torch.ones(6).double(), torch.zeros(6).double()
    of_critic = cross_entropy(critic(x), one, reduction="sum") + cross_entropy(critic(fake), zero, reduction="sum")
    of_model = cross_entropy(critic(fake), one, reduction="sum")
    torch.testing.assert_close(-value, of_critic)
    for program, loss in ((pair.guide, of_critic), (pair.model, of_model)):
        names = {id(p): name for name, p in pair.named_parameters()}
        params = list(program.parameters())
        for p, g in zip(params, torch.autograd.grad(loss, params, retain_graph=True), strict=True):
            torch.testing.assert_close(found[names[id(p)]], g)


def test_the_penalty_is_the_squared_slope() -> None:
    """For a linear critic it is |w|^2, whose gradient is 2 w."""
    pair, x = small(), torch.randn(6, 5)
    line = nn.Linear(5, 1)
    pair.guide.critic = nn.Sequential(line, nn.Flatten(0))

    def gradient(penalty: float) -> Tensor:
        return torch.autograd.grad(-seeded(pair, x, penalty), line.weight)[0]

    torch.testing.assert_close(gradient(3.0) - gradient(0.0), 6 * 3.0 * line.weight)
    torch.testing.assert_close(seeded(pair, x, 3.0), seeded(pair, x))  # it is in the gradient, not in the value


def test_samples_are_means_at_draws_of_the_prior() -> None:
    pair = small()
    torch.manual_seed(2)
    found = samples(pair.model, 4000)
    assert found.shape == (4000, 5)
    exact = pair.model.decoder(torch.randn(4000, 2))[:, 0]
    error = (found.var(0) / 4000 + exact.var(0) / 4000).sqrt()
    assert bool(((found.mean(0) - exact.mean(0)).abs() < 5 * error).all())
    torch.testing.assert_close(found.std(0), exact.std(0), rtol=0.1, atol=0.0)  # no noise of sigma = 1 is added


def test_it_learns() -> None:
    """Points about (2, 1): the samples get their place and their spread, and the critic can't tell."""
    torch.manual_seed(0)
    x = torch.randn(500, 2) * 0.5 + torch.tensor([2.0, 1.0])
    pair = small(data_shape=(2,), hidden=(16,), likelihood="gaussian:sigma=0.1", activation="relu")
    options = {"epochs": 60, "batch_size": 100, "lr": 1e-2, "schedule": "linear", "device": "cpu", "progress": False}
    history = pv.fit(pair, x, capture=False, **options)  # by the objective of this pair
    with torch.no_grad():
        made = samples(pair.model, 4000)
    assert bool(((made.mean(0) - x.mean(0)).abs() < 0.5).all())
    assert bool(((made.std(0) / x.std(0)).log().abs() < 0.7).all())
    assert abs(history[-1]["train_bound"] + math.log(4)) < 0.1


def test_log_px_is_that_of_annealing() -> None:
    """A linear decoder is probabilistic PCA, whose log p(x) annealing finds."""
    pca = pv.build("linear", data_shape=(6,), latent=1, sigma=0.5)
    pair = small(data_shape=(6,), hidden=(), latent=1, likelihood="gaussian:sigma=0.5")
    linear = pair.model.decoder.net[-1]
    with torch.no_grad():
        pca.model.W.fill_(1.0)
        linear.weight.copy_(pca.model.W)
        linear.bias.copy_(pca.model.m)
    x = torch.full((1, 6), 1.5)
    exact = pca.model.evidence(x).detach().double()
    annealed = pv.ais(pair, x, num_chains=16, num_temperatures=25, capture=False)
    torch.testing.assert_close(annealed.log_px, exact, rtol=0, atol=0.5)


def test_the_guide_knows_nothing() -> None:
    """Its weights are p(x | z) at draws of the prior, and where the noise is small the estimate is marked."""
    pair = small(likelihood="gaussian:sigma=0.01")
    t = pv.terms(pair.model, pair.guide, torch.ones(3, 5), num_samples=20)
    torch.testing.assert_close(t.log_w, t.log_lik)
    assert bool(pv.log_likelihood(pair, torch.ones(3, 5), num_samples=50).unreliable.all())


@pytest.mark.parametrize("penalty", [-1.0, math.inf, "much"])
def test_a_penalty_that_is_none_is_refused(penalty: object) -> None:
    with pytest.raises(pv.UserError, match="penalty"):
        pv.objective("adversarial", penalty=penalty)


def test_a_pair_without_a_critic_is_refused() -> None:
    pair = pv.build("vae", data_shape=(3,), hidden=(4,), latent=2)
    with pytest.raises(pv.PairError, match="adversarial: the guide has no 'critic'"):
        pv.objective("adversarial")(pair.model, pair.guide)(torch.zeros(2, 3))


def test_the_objective_of_a_pair_is_taken_where_none_is_given() -> None:
    assert type(pv.Strategy("gan").objective).__name__ == "Adversarial"
    assert type(pv.Strategy("diffusion").objective).__name__ == "OneTerm"
    assert type(pv.Strategy("vae").objective).__name__ == "Elbo"
    assert type(pv.Strategy("diffusion", objective="elbo").objective).__name__ == "Elbo"
