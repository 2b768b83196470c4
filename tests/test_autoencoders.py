"""Autoencoders: the subspace of PCA, prices that are what they say, tied weights, noise, the density of samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call, read
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

import ppl_vae as pv
from ppl_vae.pairs.sparse_autoencoder import hard_concrete, p_open
from ppl_vae.priors.fitted import Fitted

SMALL: dict[str, Any] = {"data_shape": (6,), "hidden": (5,), "latent": 3}
QUICK: dict[str, Any] = {"device": "cpu", "progress": False, "capture": False}


def build(name: str = "autoencoder", **options: Any) -> pv.Pair:
    return pv.build(name, **{**SMALL, **options}).double()


def binary(n: int = 8, *shape: int) -> Tensor:
    return (torch.rand(n, *(shape or (6,))) > 0.5).double()


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_one_spans_the_subspace_of_pca(tied: bool) -> None:
    """The decoder's columns and the leading principal components of scikit-learn: less than 1 degree apart."""
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    x = 1 + torch.randn(200, 6, dtype=torch.float64) * torch.tensor([2.0, 1.5, 0.4, 0.3, 0.2, 0.1]) @ rotation
    pair = build(hidden=(), latent=2, likelihood="gaussian", tied=tied)

    def angle() -> float:
        columns = pair.model.decoder(torch.eye(2).double()) - pair.model.decoder(torch.zeros(2).double())
        return math.degrees(subspace_angles(columns.reshape(2, 6).detach().T, PCA(2).fit(x).components_.T).max())

    assert angle() > 5
    pv.fit(pair, x, epochs=100, batch_size=100, lr=0.1, schedule="cosine", **QUICK)
    assert angle() < 1


def jacobian(pair: pv.Pair, x: Tensor) -> Tensor:
    """The squared Frobenius norm of the Jacobian of the encoder at each example, (B,)."""
    rows = [torch.autograd.functional.jacobian(lambda v: pair.guide.encode(v[None])[0], one) for one in x]
    return torch.stack([row.square().sum() for row in rows])


def test_the_price_of_contraction_is_the_jacobian_of_one_layer() -> None:
    pair, x = build("contractive_autoencoder", hidden=(), weight=0.7), binary()
    z, norm = pair.guide.contraction(x)
    torch.testing.assert_close(norm, jacobian(pair, x))
    recon = pair.model.likelihood(pair.model.decoder(z)).log_prob(x)
    torch.testing.assert_close(pv.Elbo().bounds(pair.model, pair.guide, x), recon - 0.7 * norm)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_with_more_layers_its_estimate_is_unbiased(network: str) -> None:
    options = {"data_shape": (1, 8, 8), "hidden": (4,), "network": network, "tied": False}
    pair, x = build("contractive_autoencoder", **options), binary(2, 1, 8, 8)
    norm = pair.guide.contraction(x.repeat(2000, 1, 1, 1))[1].detach().reshape(2000, 2)
    off = (norm.mean(0) - jacobian(pair, x)) / (norm.std(0) / math.sqrt(2000))
    assert bool((norm.std(0) > 0).all())
    assert float(off.abs().max()) < 4


@pytest.mark.parametrize("name", ["autoencoder", "contractive_autoencoder"])
def test_tied_weights_are_one_tensor_before_and_after_saving(name: str, tmp_path: Path) -> None:
    pv.save(tmp_path / "run", build(name, tied=True))
    for pair in (build(name, tied=True), pv.load(tmp_path / "run")):
        x = binary().to(next(pair.parameters()))
        before = pair.model.decoder(torch.ones(3).to(x))
        svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=0.01))
        svi.step(x)
        coder = [layer for net in (pair.guide.encoder, pair.guide.code) for layer in net.modules()]
        weights = [layer.weight for layer in coder if isinstance(layer, torch.nn.Linear)]
        assert [id(w) for w in weights[::-1]] == [id(layer.weight) for layer in pair.model.decoder.net.layers]
        first, second = pair.model.decoder.net.biases
        h = (torch.ones(3).to(x) @ weights[1] + first).tanh()
        torch.testing.assert_close(pair.model.decoder(torch.ones(3).to(x)), (h @ weights[0] + second)[None])
        assert not torch.equal(before, pair.model.decoder(torch.ones(3).to(x)))


@pytest.mark.parametrize("options", [{"network": "conv", "data_shape": (1, 8, 8)}, {"likelihood": "gaussian_network"}])
def test_what_has_no_mirror_is_not_tied(options: dict[str, Any]) -> None:
    with pytest.raises(pv.UserError, match="tied weights"):
        build(tied=True, **options)


def test_noise_is_of_training_alone() -> None:
    pair, x = build(noise=0.3, drop=0.25), torch.ones(4000, 6).double()
    seen = pair.guide.train().corrupt(x)
    assert float((seen == 0).double().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(seen[seen != 0].std()) == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(pair.guide(x), pair.guide(x))
    assert torch.equal(pair.guide.eval().corrupt(x), x)
    clean = build()
    clean.load_state_dict(pair.state_dict())
    for look in (lambda p: pv.reconstruct(p.train(), x[:5]), lambda p: pv.encode(p.train(), x[:5]).mean["z"]):
        assert torch.equal(look(pair), look(clean))


def test_gates_are_hard_concrete() -> None:
    """P(g > 0) is what is priced, both ends have a probability, and nothing is drawn after training."""
    a = torch.tensor([-3.0, -1.0, 0.0, 2.0]).double()
    g = hard_concrete(a.expand(20_000, 4), draw=True)
    torch.testing.assert_close((g > 0).double().mean(0), p_open(a), atol=0.015, rtol=0)
    assert bool(((g >= 0) & (g <= 1)).all())
    assert bool((g == 1).any(0)[2:].all())
    torch.testing.assert_close(hard_concrete(a, draw=False), (1.2 * a.sigmoid() - 0.1).clamp(0, 1))


@pytest.mark.parametrize("weight", [0.05, 100.0])
def test_gates_close_where_their_price_is_more_than_they_are_worth(weight: float) -> None:
    x = binary(2).repeat(50, 1)  # two patterns: one number tells them apart, for 6 log 2 nats or so
    pair = build("sparse_autoencoder", weight=weight)
    pv.fit(pair, x, epochs=40, batch_size=50, lr=0.03, **QUICK)
    is_open = pv.encode(pair, x[:2]).mean["z"] != 0
    assert bool(is_open.any()) == (weight < 1)
    assert float((pv.reconstruct(pair, x[:2]) - x[:2]).abs().max()) < 0.1 or weight > 1


def codes(n: int = 300) -> Tensor:
    """Two groups of correlated codes, far from N(0, I), and of another scale in each coordinate."""
    z = torch.randn(n, 2).double() @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double()
    return (z + 6 * (torch.arange(n) % 2)[:, None]) * torch.tensor([1.0, 30.0]).double()


def test_the_fitted_density_is_that_of_scikit_learn() -> None:
    z, prior = codes(), Fitted(2, components=2).double()
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    prior.fit_codes(z)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    mixture = GaussianMixture(2, random_state=0).fit(z.numpy())
    exact = torch.from_numpy(mixture.score_samples(z.numpy()))
    torch.testing.assert_close(prior().base_dist.log_prob(z), exact, atol=0.05, rtol=0)
    draws = prior().sample((5000,))
    assert float(((draws.mean(0) - z.mean(0)) / z.std(0)).abs().max()) < 0.1
    torch.testing.assert_close(torch.corrcoef(draws.T), torch.corrcoef(z.T), atol=0.05, rtol=0)
    assert bool((prior().log_prob(z) == 0).all())  # it counts nothing


@pytest.mark.parametrize(
    "z", [torch.ones(20, 2), torch.rand(3, 2), torch.rand(2, 2) * 1e-12], ids=["equal", "few", "near"]
)
def test_any_codes_can_be_fitted(z: Tensor) -> None:
    """Constant codes, and fewer codes than components: draws are near a code."""
    prior = Fitted(2, components=5)
    prior.fit_codes(z)
    assert float(torch.cdist(prior().sample((50,)), z).min(1).values.max()) < 0.1


def test_fit_ends_with_a_mixture_of_the_codes(tmp_path: Path) -> None:
    """Of the best weights, in memory and on disk, and again when the run is resumed."""
    x = binary(60)
    pair = build(prior="fitted:components=2")
    assert pair.model.prior.told.startswith("N(0, I)")
    options = {"batch_size": 20, "lr": 0.05, "patience": 30, "valid": binary(20), "run_dir": tmp_path / "run", **QUICK}
    for epochs in (3, 5):
        pv.fit(pair, x, epochs=epochs, resume=epochs > 3, **options)
        assert pair.model.prior.told == "a mixture of 2 Gaussians, fitted to the codes of 60 training examples"
        z = pv.encode(pair, x).mean["z"]
        p = pair.model.prior().base_dist
        torch.testing.assert_close(p.mean, z.mean(0), atol=1e-6, rtol=0)  # EM keeps the mean and, nearly, the variance
        torch.testing.assert_close(p.variance, z.var(0, correction=0), atol=0, rtol=1e-2)
        again = pv.load(tmp_path / "run")
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in pair.state_dict().items())
        assert torch.equal(pv.sample(pair, 3, seed=0), pv.sample(again, 3, seed=0))


def test_a_loader_gives_codes_too() -> None:
    x, pair = binary(40), build()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=16)
    pv.fit(pair, loader, epochs=1, **QUICK)
    assert int(pair.model.prior.num_codes) == 40


def test_a_prior_that_does_not_fit_the_pair_is_refused() -> None:
    for name, shape in {"vae": (6,), "series": (4, 6)}.items():
        with pytest.raises(pv.UserError, match="deterministic code"):
            pv.build(name, data_shape=shape, latent=3, prior="fitted")
    for prior in ("mixture", "flow"):
        with pytest.raises(pv.UserError, match="one that learns"):
            build(prior=prior)
    with pytest.raises(pv.UserError, match="components=0"):
        build(prior="fitted:components=0")


def test_a_laplace_prior_counts_as_an_l1_penalty() -> None:
    pair, x = build(prior="laplace:scale=0.5"), binary()
    z = pair.guide.code(pair.guide.encoder(x))
    recon = pair.model.likelihood(pair.model.decoder(z)).log_prob(x)
    torch.testing.assert_close(pv.Elbo().bounds(pair.model, pair.guide, x), recon - 2 * z.abs().sum(-1))


def test_commands_say_what_z_is_drawn_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--hidden", "8", "--latent", "2", "--epochs", "1", "--limit", "10", "--num-samples", "5"]
    call("train", "autoencoder", "--data", "digits", *options, "--prior", "fitted:components=3", "--out", run)
    told = "a mixture of 3 Gaussians, fitted to the codes of 1258 training examples"
    assert read("sample", run, "-n", 4)["drawn_from"] == told
    assert f"z is drawn from {told}" in call("sample", run, "-n", 4).stderr
    assert (run / "figures" / "latent_grid.png").exists()
