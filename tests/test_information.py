"""What the latents tell: closed forms where everything is a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.figures import kl_bars


def model(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(gain: Tensor, scale: float, full: bool = False) -> Any:
    """q(z|x) = N(gain x, scale^2 I)."""

    def program(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            q: Any = dist.Normal(gain * x, scale * torch.ones_like(x)).to_event(1)
            if full:
                q = dist.MultivariateNormal(gain * x, scale_tril=scale * torch.eye(x.shape[1], dtype=x.dtype))
            pyro.sample("z", q)

    return program


GAIN = torch.tensor([0.5, 0.0], dtype=torch.float64)  # the second dimension ignores x
X = torch.randn(1500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * math.sqrt(2)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_kl_active_units_and_information_are_their_closed_forms(full: bool) -> None:
    """x ~ N(0, 2 I): I = log(1 + gain^2 2 / scale^2) / 2 for each dimension, and q(z) is a Gaussian too."""
    found = pv.information(pv.Pair(model, guide(GAIN, 0.8, full)), X)
    layer = found.layers["z"]
    each = ((GAIN * X).square() + 0.8**2 - 1) / 2 - math.log(0.8)
    if full:  # torch has no formula for a full Gaussian and a diagonal one
        assert float(layer.kl.mean()) == pytest.approx(float(each.sum(1).mean()), abs=0.02)
    else:
        assert torch.allclose(layer.kl, each.sum(1))
    assert layer.active.tolist() == [True, False]
    assert torch.allclose(layer.variance, (GAIN * X).var(0))
    if full:
        assert layer.per_dimension is None
    else:
        assert layer.per_dimension is not None
        assert torch.allclose(layer.per_dimension, each.mean(0))
    exact = 0.5 * math.log(1 + 0.25 * 2 / 0.8**2)
    assert abs(found.mutual_information - exact) < 4 * found.error + 0.01
    assert found.error < 0.03
    variance = torch.tensor([0.25 * 2 + 0.8**2, 0.8**2])  # of q(z), which is N(0, variance)
    marginal = float(((variance - 1) / 2 - variance.log() / 2).sum())
    assert found.marginal_kl == pytest.approx(marginal, abs=0.08)
    assert found.collapsed == []


def test_a_guide_that_ignores_the_data_has_collapsed() -> None:
    found = pv.information(pv.Pair(model, guide(0 * GAIN, 1.0)), X[:300])
    assert found.collapsed == ["z"]
    assert abs(found.mutual_information) < 1e-9
    assert "z: KL 0.000 nats; collapsed: none of 2 dimensions active" in str(found)


def test_a_guide_that_names_the_example_has_all_the_information_that_there_can_be() -> None:
    found = pv.information(pv.Pair(model, guide(GAIN + 1, 1e-6)), X[:200])
    assert found.mutual_information == pytest.approx(math.log(200), abs=1e-6)
    assert found.near_largest
    assert "near its largest value" in str(found)


def test_layers_are_told_apart_and_drawn() -> None:
    pair = pv.build("hierarchical", data_shape=(6,), latent=(3, 2), hidden=(8,), hidden2=(4,))
    found = pv.information(pair, (torch.rand(40, 6) > 0.5).float())
    assert {name: len(layer.variance) for name, layer in found.layers.items()} == {"z1": 3, "z2": 2}
    assert len(kl_bars(found).axes[0].patches) == 5
    t = pv.terms(pair.model, pair.guide, (torch.rand(4, 6) > 0.5).float(), num_samples=3)
    assert sum(found.record()["layers"][name]["kl"] for name in t.sites) == pytest.approx(
        found.mutual_information + found.marginal_kl, rel=1e-5
    )


def test_discrete_latents_count_too() -> None:
    """c ~ Cat(1/2, 1/2) that the guide knows beside z: KL and information are log 2 more than those of z alone."""

    def both(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(torch.ones(2, dtype=x.dtype) / 2))
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def knows(x: Tensor, y: Tensor | None = None) -> None:
        one = (x[:, 1] > 0).to(x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(torch.stack([1 - one, one], -1)))
            pyro.sample("z", dist.Normal(GAIN * x, 0.8 * torch.ones_like(x)).to_event(1))

    alone, found = pv.information(pv.Pair(model, guide(GAIN, 0.8)), X), pv.information(pv.Pair(both, knows), X)
    assert float(found.layers["c"].kl.mean()) == pytest.approx(math.log(2), abs=1e-5)
    assert found.mutual_information - alone.mutual_information == pytest.approx(math.log(2), abs=0.03)
    assert found.marginal_kl == pytest.approx(alone.marginal_kl, abs=0.05)


def test_what_has_no_information_is_one_line() -> None:
    made = pv.build("made", data_shape=(4,), hidden=(8,))
    with pytest.raises(pv.PairError, match="no latents"):
        pv.information(made, torch.zeros(5, 4))
    with pytest.raises(pv.UserError, match="two examples or more"):
        pv.information(pv.Pair(model, guide(GAIN, 1.0)), X[:1])


def test_a_masked_latent_is_refused() -> None:
    masked = (
        pyro.poutine.mask(model, mask=torch.arange(5) > 2),
        pyro.poutine.mask(guide(GAIN, 1.0), mask=torch.arange(5) > 2),
    )
    with pytest.raises(pv.PairError, match="site 'z' is masked: its mutual information"):
        pv.information(pv.Pair(*masked), X[:5])
