"""Simulation-based calibration: the exact law of ranks, and which guides and samplers it finds out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import call, read
from exact import CONJUGATE
from torch import Tensor

import ppl_vae as pv
from ppl_vae.draws import uniformity


def linear(guide: Callable[[Any], Any] | None = None) -> pv.Pair:
    """Probabilistic PCA with correlated latents, and a guide that is a function of its exact posterior."""
    pair = pv.build("linear", data_shape=(4,), latent=2, guide="exact").double()
    pair.model.W.data[:] = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.5], [0.5, 1.0]])  # type: ignore[union-attr]
    if guide is None:
        return pair

    def program(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(pair.model.posterior(x)))  # type: ignore[operator, union-attr]

    return pv.Pair(pair.model, program, data_shape=(4,))


def test_the_p_value_is_exact_for_every_outcome() -> None:
    """Of all 4^5 sets of 5 ranks on 0, ..., 3, as many have a p-value of p or less as p says."""
    outcomes = [np.array(ranks) for ranks in itertools.product(range(4), repeat=5)]
    p = np.array([uniformity.p_value(ranks, 3) for ranks in outcomes])
    assert len(np.unique(p.round(9))) == 8
    for value in np.unique(p):
        assert value == pytest.approx((p <= value + 1e-9).mean(), abs=1e-9)
    low, high = uniformity.envelope(5, 3, 0.9)
    inside = [bool(((low <= c) & (c <= high)).all()) for c in (uniformity.counts(r, 3) for r in outcomes)]
    assert inside == (p > 0.1).tolist()


@pytest.mark.parametrize("defect", ["narrow", "wide", "shift"])
def test_what_is_called_detectable_is_found_in_80_of_100_cases(defect: str) -> None:
    """Gaussian draws with the defect, simulated: the share of ranks that leave the envelope, within 4 errors."""
    size = uniformity.detectable(300, 39, 0.95)[defect]
    scale, shift = (1.0, size) if defect == "shift" else (size, 0.0)
    rng = np.random.default_rng(0)
    exact, draws = rng.normal(size=(400, 1, 300)), rng.normal(size=(400, 39, 300))
    ranks = (shift + scale * draws < exact).sum(1)
    found = np.mean([uniformity.p_value(r, 39) <= 0.05 for r in ranks])
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 400))


def test_the_coverage_of_even_ranks_is_the_level() -> None:
    """Ranks 0, ..., 199 once each: intervals hold exactly as many of 200 as they should."""
    even = pv.Calibration(torch.arange(200)[:, None], ("z",), 199, "exact", 0)
    assert even.coverage("z") == [(pytest.approx(level), pytest.approx(level)) for level in (0.5, 0.8, 0.9, 0.95)]


@pytest.mark.parametrize("name", ["linear", *CONJUGATE])
def test_exact_posteriors_pass(name: str) -> None:
    """With 500 examples, which would find a guide 1.25 times too narrow."""
    pair = linear() if name == "linear" else pv.Pair(CONJUGATE[name][0](), CONJUGATE[name][1](1.0))
    found = pv.sbc(pair, 500)
    assert found.calibrated
    assert "No sign" in str(found)
    assert found.detectable["narrow"] > 0.8
    for level, share in found.coverage(found.quantities[0]):
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 500))


@pytest.mark.parametrize(
    ("scale", "shift", "verdict"), [(1 / 1.5, 0, "too narrow"), (1.5, 0, "too wide"), (1, 0.5, "biased: too high")]
)
def test_a_guide_that_is_off_is_found_and_named(scale: float, shift: float, verdict: str) -> None:
    """500 examples; the right covariance times a factor, or the right mean plus half a standard deviation."""

    def off(posterior: Any) -> Any:
        at = posterior.mean + shift * posterior.stddev
        return dist.MultivariateNormal(at, scale_tril=scale * posterior.scale_tril)

    found = pv.sbc(linear(off), 500)
    assert not found.calibrated
    for name in ("z[0]", "z[1]"):
        assert found.verdict(name).startswith(verdict)
        by_ranks = uniformity.shape(found[name], found.num_samples)
        assert by_ranks.scale == pytest.approx(scale, rel=0.15)
        assert by_ranks.shift * by_ranks.scale == pytest.approx(shift, abs=0.15)
    assert f"{verdict.split(':')[0]} for 2 of 2 latents" in str(found)


def test_a_missing_correlation_is_seen_by_the_quantities_of_all_latents() -> None:
    """A diagonal guide with the right marginals: each latent by itself has uniform ranks."""
    found = pv.sbc(linear(lambda p: dist.Normal(p.mean, p.stddev).to_event(1)), 500)
    assert set(found.failed) == {"log p(x|z)", "log p(x,z)", "log w"}
    assert "each latent by itself is right, but all latents together are off" in found.sentence()


def test_p_values_of_a_calibrated_guide_are_uniform_over_seeds() -> None:
    """Dependent quantities share a seed, so each is looked at by itself: 40 seeds, within 4 errors."""
    runs = [pv.sbc(linear(), 50, 19, seed=seed).p_values for seed in range(40)]
    for name in ("z[0]", "log p(x,z)", "log w"):
        p = torch.tensor([run[name] for run in runs])
        assert float(p.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 40))
        assert float((p <= 0.05).double().mean()) < 0.2


def switching(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
    """b ~ Bernoulli(0.3), c ~ Bernoulli(0.5) summed out, u ~ N(0, 1) with its second entry masked; x ~ N(b + c, 1)."""
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
        pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1))
        return pyro.sample("x", dist.Normal((b + c).unsqueeze(-1), 1.0).to_event(1), obs=x)


def switched(power: float) -> pv.Pair:
    """The posterior of b with its log odds times a factor, and a wrong distribution of what is masked."""

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        def log_lik(b: float) -> Tensor:
            return torch.logsumexp(torch.stack([dist.Normal(b + c, 1.0).log_prob(x[:, 0]) for c in (0.0, 1.0)]), 0)

        with pyro.plate("data", len(x), dim=-1):
            odds = math.log(0.3 / 0.7) + log_lik(1.0) - log_lik(0.0)
            pyro.sample("b", dist.Bernoulli(logits=power * odds))
            wrong = dist.Normal(torch.tensor([0.0, 9.0]), 1.0)
            pyro.sample("u", wrong.mask(torch.tensor([True, False])).to_event(1))

    return pv.Pair(switching, guide)


def test_discrete_latents_have_random_ranks_and_what_is_summed_or_masked_has_none() -> None:
    found = pv.sbc(switched(1.0), 500, 39)
    assert found.quantities == ("b", "u[0]", "log p(x|z)", "log p(x,z)", "log w")
    assert found.calibrated
    assert "b" in pv.sbc(switched(3.0), 500, 39).failed


def test_samplers_are_tested_like_guides() -> None:
    """HMC and refined Gaussians pass under a guide that does not; chains without moves are draws of that guide."""
    pair = linear(lambda p: dist.Normal(p.mean + 1.0, p.stddev / 2).to_event(1))
    assert not pv.sbc(pair, 150, 19).calibrated
    assert pv.sbc(pair, 150, 19, method="refined").calibrated
    assert pv.sbc(pair, 150, 19, method="hmc", warmup=40).calibrated
    assert not pv.sbc(pair, 150, 19, method="hmc", warmup=0).calibrated

    def exact(pair: Any, x: Tensor, y: Tensor | None, num_samples: int) -> dict[str, Tensor]:
        return {"z": pair.model.posterior(x).sample((num_samples,))}

    found = pv.sbc(pair, 150, 19, method=exact)
    assert found.calibrated
    assert found.method == "exact"
    with pytest.raises(pv.UserError, match="shape"):
        pv.sbc(pair, 20, 19, method=lambda pair, x, y, n: {"z": torch.zeros(n, 7, 2)})


def test_a_seed_gives_the_same_ranks_and_nothing_else_moves() -> None:
    """Also over several data batches, and for labelled pairs."""
    pair = pv.build("cvae", data_shape=(6,), num_classes=3, latent=2, hidden=(8,)).train()
    y = torch.arange(130) % 3
    state = torch.get_rng_state()
    one, same, other = (pv.sbc(pair, 130, 9, y, seed=seed).ranks for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert pair.training
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (130, 5)
    assert int(one.min()) == 0
    assert int(one.max()) == 9


def test_what_can_not_be_calibrated_is_refused() -> None:
    with pytest.raises(pv.PairError, match="no latents"):
        pv.sbc(pv.build("made", data_shape=(4,), hidden=(8,)), 10)
    with pytest.raises(pv.UserError, match="choose one of guide, refined, sir, hmc"):
        pv.sbc(linear(), 10, method="nuts")
    with pytest.raises(pv.UserError, match="num_data=0"):
        pv.sbc(linear(), 0)


def test_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = ("--data", "digits", "--epochs", 1, "--hidden", "8", "--latent", 2, "--no-figures")
    call("train", "vae", *short, "--out", out)
    found = read("sbc", out, "--num-data", 60, "--num-samples", 19, "--device", "cpu")
    assert [row["quantity"] for row in found["quantities"]] == ["z[0]", "z[1]", "log p(x|z)", "log p(x,z)", "log w"]
    assert found["sentence"] in (out / "sbc.json").read_text()
    assert {p.name for p in (out / "figures").iterdir()} == {"sbc.png"}
    assert "--num-data" in call("sbc", out, "--num-data", 0, code=2).stderr
