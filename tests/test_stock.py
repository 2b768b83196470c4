"""Stock Pyro code runs unchanged through every verb."""

from __future__ import annotations

from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from stock import TutorialVAE
from torch import Tensor

import ppl_vae as pv


def test_the_tutorials_vae_runs_through_every_verb(tmp_path: Path) -> None:
    vae = TutorialVAE()
    x = torch.rand(60, 20).round()
    t = pv.terms(vae.model, vae.guide, x, num_samples=7)
    assert t.log_w.shape == (7, 60)
    pv.check_pair(vae.model, vae.guide, x)
    pair = pv.Pair(vae.model, vae.guide, data_shape=(20,))
    assert len(list(pair.parameters())) == 10
    before = pv.log_likelihood(pair, x, num_samples=100)
    svi = pv.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(30):
        svi.step(x)
    history = pv.fit(pair, x, epochs=5, lr=1e-2, progress=False, device="cpu")
    assert len(history) == 5
    after = pv.log_likelihood(pair, x, num_samples=100)
    assert float(after.log_px.mean()) > float(before.log_px.mean())
    assert pv.sample(pair, 3, seed=0).shape == (3, 20)
    assert pv.reconstruct(pair, x).shape == x.shape
    assert pv.encode(pair, x).mean["latent"].shape == (60, 3)
    pv.save(tmp_path / "run", pair)
    fresh = TutorialVAE()
    again = pv.load(tmp_path / "run", pair=pv.Pair(fresh.model, fresh.guide))
    assert torch.equal(pv.log_likelihood(again, x, num_samples=100).log_px, after.log_px)
    with pytest.raises(pv.RunError, match="'custom' was made from a model and a guide, by no builder"):
        pv.load(tmp_path / "run")
    assert list(pyro.get_param_store().keys()) == []


def test_what_stock_svi_trained_is_what_is_judged() -> None:
    """After pyro.infer.SVI, whose parameters are in the global store, the estimate is of the trained pair."""
    vae = TutorialVAE()
    x = torch.rand(60, 20).round()
    before = pv.log_likelihood(pv.Pair(vae.model, vae.guide), x, num_samples=50)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(100):
        svi.step(x)
    store = sorted(pyro.get_param_store().keys())
    after = pv.log_likelihood(pv.Pair(vae.model, vae.guide), x, num_samples=50)
    assert float(after.log_px.mean()) > float(before.log_px.mean()) + 0.1
    assert sorted(pyro.get_param_store().keys()) == store
    pyro.clear_param_store()


class Toy(PyroModule):  # type: ignore[misc]
    """A PyroModule with a constrained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(2.0), constraint=torch.distributions.constraints.positive)
        self.loc = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(self.loc * x, self.scale))


def test_what_is_left_in_the_store_does_not_replace_another_instance() -> None:
    """Trap 5 as a user meets it: stock SVI trained one instance, whose weights are in the store under shared names."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    x = torch.linspace(-2, 2, 40)
    trained, other = Toy(), Toy()
    stock = pyro.infer.SVI(model, trained, pyro.optim.Adam({"lr": 5e-2}), Trace_ELBO())
    for _ in range(20):
        stock.step(x)
    kept = {k: v.detach().clone() for k, v in trained.named_parameters()}
    assert len(pyro.get_param_store()) == 2
    pv.terms(model, other, x)
    assert float(other.scale.detach()) == pytest.approx(2.0)  # and not the trained one's
    svi = pv.SVI(model, other, pyro.optim.Adam({"lr": 5e-2}))
    svi.step(x)
    assert float(other.scale.detach()) != pytest.approx(2.0)
    assert all(torch.equal(v, kept[k]) for k, v in trained.named_parameters())
    pyro.clear_param_store()


def test_pyro_modules_train_and_stay_apart() -> None:
    """Trap 5, the other form: two instances share names, and neither overwrites the other."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    x = torch.linspace(-2, 2, 40)
    one, two = Toy(), Toy()
    pv.terms(model, two, x)
    pair = pv.Pair(model, one)
    pv.fit(pair, x, epochs=300, lr=3e-2, progress=False, device="cpu")
    assert float(one.loc.detach()) == pytest.approx(0.5, abs=0.05)
    assert float(one.scale.detach()) == pytest.approx(0.5**0.5, abs=0.05)
    assert float(two.loc.detach()) == pytest.approx(0.3)
    assert float(two.scale.detach()) == pytest.approx(2.0)
    assert list(pyro.get_param_store().keys()) == []
