"""Pairs with discrete latents: log p(x) against the sum over all codes, and what training by each objective does."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import ppl_vae as pv
from ppl_vae.nn.distributions import Concrete

X = torch.tensor(list(product((0.0, 1.0), repeat=4)))  # all data of four bits


def codes(pair: pv.Pair, n: int) -> dict[str, Tensor]:
    """All values of the latents, (codes, n, *event) for each site."""
    config: Any = pair.config
    if pair.name == "binary":
        latent = config["latent"]
        sizes = latent if isinstance(latent, list) else [latent]
        every = torch.tensor(list(product((0.0, 1.0), repeat=sum(sizes)))).split(sizes, -1)
        names = ["z"] if len(sizes) == 1 else [f"z{i + 1}" for i in range(len(sizes))]
    else:
        classes = range(config["classes"])
        every = (one_hot(torch.tensor(list(product(classes, repeat=config["latent"])))).float(),)
        names = ["z"]
    return {name: v.unsqueeze(1).expand(-1, n, *v.shape[1:]) for name, v in zip(names, every, strict=True)}


@torch.no_grad()
def exact(pair: pv.Pair, x: Tensor) -> Tensor:
    was = pair.training
    found: Tensor = pv.log_joint(pair.eval().model, x, None, codes(pair, len(x))).logsumexp(0)
    pair.train(was)
    return found


PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "bits": ("binary", {"latent": 3}),
    "layers of bits": ("binary", {"latent": (3, 2, 2)}),
    "classes": ("categorical", {"latent": 2, "classes": 3}),
}


def built(name: str, **options: Any) -> pv.Pair:
    kind, own = PAIRS[name]
    pair = pv.build(kind, data_shape=(4,), hidden=(8,), **{**own, **options})
    with torch.no_grad():
        for p in pair.parameters():
            p.add_(0.5 * torch.randn_like(p))  # far from where z and x are independent
    return pair


@pytest.mark.parametrize("name", PAIRS)
def test_the_estimate_is_the_sum_over_all_codes(name: str) -> None:
    """Whatever the mode of the pair, and however it was relaxed in training."""
    pair = built(name).train()
    truth = exact(pair, X)
    torch.testing.assert_close(truth.logsumexp(0), torch.tensor(0.0), atol=1e-5, rtol=0)  # over all x: p sums to one
    est = pv.log_likelihood(pair, X, num_samples=20_000)
    assert float(((est.log_px - truth).abs() / est.std_error).max()) < 4.5


@pytest.mark.parametrize(
    ("name", "objective", "options"),
    [
        ("bits", "vimco", {}),
        ("layers of bits", "rws", {}),
        ("classes", "iwae", {}),
        ("classes", "vimco", {"temperature": 0.0}),
    ],
)
def test_training_raises_the_exact_likelihood(name: str, objective: str, options: dict[str, Any]) -> None:
    x = X[torch.tensor([0, 3, 12, 15])]  # two pairs of bits that agree: 1.39 nats each, 2.77 without latents
    pair = built(name, **options)
    before = float(exact(pair, x).mean())
    loss = pv.objective(objective, num_particles=8)
    svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=0.05), loss)
    for _ in range(80):
        svi.step(x)
    assert float(exact(pair, x).mean()) > max(before + 0.8, -2.0)


def test_a_fit_of_relaxed_classes_checks_what_it_trains() -> None:
    """The objective needs draws that have a gradient: those of training have, those of an estimate do not."""
    pair = built("classes")
    loss = pv.IWAE(2, gradient="dreg")
    rows = pv.fit(pair, X, loss, valid=X, epochs=1, device="cpu", capture=False, progress=False)
    assert np.isfinite([rows[-1]["train_bound"], rows[-1]["valid_bound"]]).all()


def test_codes_and_samples_are_classes_in_training_mode_too() -> None:
    pair = built("classes").train()
    code = pv.encode(pair, X, seed=0)
    assert set(code.sample["z"].unique().tolist()) == {0.0, 1.0}
    assert code.sample["z"].shape == (16, 2, 3)
    torch.testing.assert_close(code.mean["z"].sum(-1), torch.ones(16, 2))
    relaxed = pv.terms(pair.model, pair.guide, X).sites["z"].value.exp()
    assert float(relaxed.detach().max()) < 1
    torch.testing.assert_close(relaxed.sum(-1), torch.ones(1, 16, 2))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_largest_entry_is_the_class_at_any_temperature(temperature: float) -> None:
    probs = torch.tensor([0.6, 0.3, 0.1])
    draws = Concrete(torch.tensor(temperature), logits=probs.log()).rsample((20_000,)).argmax(-1)
    assert float((one_hot(draws).float().mean(0) - probs).abs().max()) < 4.5 * (0.25 / 20_000) ** 0.5


def test_at_temperature_zero_training_draws_classes() -> None:
    pair = built("classes", temperature=0.0)
    with pytest.raises(pv.PairError, match="OneHotCategorical has no rsample"):
        pv.fit(pair, X, objective=pv.IWAE(4), epochs=1, device="cpu", progress=False)


def test_what_needs_continuous_latents_says_so() -> None:
    for name in PAIRS:
        with pytest.raises(pv.PairError, match=r"site .* is discrete; annealing.* need"):
            pv.ais(built(name), X, num_temperatures=3)
        with pytest.raises(pv.PairError, match="discrete"):
            pv.refine(built(name), X)


@pytest.mark.parametrize(
    "options", [{"latent": 0}, {"classes": 1}, {"temperature": -1.0}, {"temperature": float("inf")}]
)
def test_no_classes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(pv.UserError, match="at least one group of two classes, and a temperature from 0 on"):
        pv.build("categorical", data_shape=(4,), **options)


@pytest.mark.parametrize("latent", [0, (), (4, 0)])
def test_no_bits_are_refused(latent: Any) -> None:
    with pytest.raises(pv.UserError, match="give the size of each layer"):
        pv.build("binary", data_shape=(4,), latent=latent)
