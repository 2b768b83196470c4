"""Under torch.set_default_dtype(torch.float64) all works, and what is known in closed form is met to 1e-9."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW

import ppl_vae as pv
from ppl_vae.common.fields import each
from ppl_vae.training.step_graph import StepGraphs


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def linear(guide: str = "linear") -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(5,), latent=2, guide=guide), torch.randn(40, 5)


def fit(pair: pv.Pair, x: Any, objective: Any = None, **options: Any) -> list[dict[str, Any]]:
    return pv.fit(pair, x, objective, **{"epochs": 2, "progress": False, "device": "cpu", "lr": 1e-4} | options)


FUSED = [functools.partial(kind, fused=True) for kind in (Adam, AdamW, SGD, Adagrad)]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad", *FUSED, Adam, SGD], ids=str)
def test_every_optimiser_moves_the_pair_by_its_own_rule(optimizer: Any) -> None:
    pair, x = linear()
    before = [p.detach().clone() for p in pair.parameters()]
    fit(pair, x, optimizer=optimizer, clip_norm=5.0, warmup=1)
    assert all(p.dtype == torch.float64 for p in pair.parameters())
    assert not any(map(torch.equal, before, pair.parameters()))
    if optimizer in FUSED:  # the kernel that skips a bad step takes the same step as the plain one
        other, _ = linear()
        fit(other, x, optimizer=optimizer.func, clip_norm=5.0, warmup=1)
        for p, q in zip(pair.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", [pv.Elbo(free_bits=0.1, beta=2), pv.IWAE(3, "dreg"), pv.AnalyticKL()])
def test_a_captured_step_is_the_eager_one_to_rounding(objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_vae.training.svi.StepGraphs", functools.partial(StepGraphs, compiled=False))
    ends = []
    for capture in (False, True):
        pair, x = linear()
        fit(pair, x, objective, capture=capture, warmup=1, batch_size=20)  # beta is no float32 number on the way
        ends.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.allclose(*ends, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("fused", [False, True])
def test_svi_trains_and_stops_at_nan(fused: bool) -> None:
    pair, x = linear()
    svi = pv.SVI(pair.model, pair.guide, Adam(pair.parameters(), lr=1e-2, fused=fused))
    losses = [float(svi.step(x)) for _ in range(60)]
    assert losses[-1] < losses[0]
    before = [p.detach().clone() for p in pair.parameters()]
    svi.step(torch.full_like(x, 1e200))
    with pytest.raises(pv.NonFiniteError):
        svi.check()
    assert all(map(torch.equal, before, pair.parameters()))


@pytest.mark.parametrize("proposal", ["guide", "qmc"])
def test_where_the_guide_is_exact_so_are_estimates(proposal: str) -> None:
    pair, x = linear("exact")
    truth = pair.model.evidence(x).detach()
    est = pv.log_likelihood(pair, x, num_samples=20, seed=0, proposal=proposal)
    assert torch.allclose(est.log_px, truth, rtol=0, atol=1e-9)
    assert torch.allclose(est.elbo, truth, rtol=0, atol=1e-9)


def test_the_other_estimates_are_unbiased_in_doubles() -> None:
    pair, x = linear()
    truth = pair.model.evidence(x[:6]).detach()
    for proposal in ("prior", "defensive", "tempered"):
        est = pv.log_likelihood(pair, x[:6], num_samples=5_000, seed=0, proposal=proposal)
        assert torch.allclose(est.log_px, truth, atol=0.5), proposal
    found = pv.ais(pair, x[:6], num_chains=8, num_temperatures=40, seed=0)
    assert torch.allclose(found.log_px, truth, atol=0.5)
    assert pv.bdmc(pair, num_data=3, num_chains=4, num_temperatures=30, seed=0).lower.dtype == torch.float64
    assert pv.sample(pair, 3).dtype == pv.reconstruct(pair, x).dtype == torch.float64


@pytest.mark.parametrize("name", CASES)
def test_every_pair_trains_and_is_judged(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    pair = case.build()
    x, y = case.draw(12)
    x = each(Tensor.double, x)
    assert fit(pair, x if y is None else (x, y), batch_size=6)[-1]["step"] == 4
    if not case.delta:
        assert pv.log_likelihood(pair, x, y, num_samples=10, seed=0).log_px.isfinite().all()


def test_a_run_is_resumed_and_loaded_in_doubles(tmp_path: Path) -> None:
    ends = []
    for folder, parts in (("whole", [3]), ("parts", [1, 3])):
        for i, epochs in enumerate(parts):
            pair, x = linear()
            fit(pair, x, epochs=epochs, run_dir=tmp_path / folder, resume=i > 0)
        ends.append(torch.cat([p.detach().flatten() for p in pv.load(tmp_path / folder).parameters()]))
    assert ends[0].dtype == torch.float64
    assert torch.equal(*ends)


def test_a_pair_of_single_precision_is_trained_as_it_is() -> None:
    pair, x = linear()
    pair.float()
    history = fit(pair, x.float(), warmup=1)
    assert all(p.dtype == torch.float32 for p in pair.parameters())
    torch.set_default_dtype(torch.float32)
    other, _ = linear()
    other.load_state_dict(linear_in_singles())
    assert fit(other, x.float(), warmup=1)[-1]["train_bound"] == pytest.approx(history[-1]["train_bound"], rel=1e-6)


def linear_in_singles() -> dict[str, Tensor]:
    torch.set_default_dtype(torch.float64)
    state = {k: v.float() for k, v in linear()[0].state_dict().items()}
    torch.set_default_dtype(torch.float32)
    return state
