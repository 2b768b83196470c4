"""check_pair: every way to break the contract has one error that names the site and says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae as pv

X = torch.zeros(5, 1)
ZERO, ONE = torch.zeros(3), torch.ones(3)


def normal(x: Any = None) -> Any:
    return dist.Normal(ZERO, ONE).to_event(1)


def guide(q: Callable[[Tensor], Any] = normal, name: str = "z") -> Callable[..., None]:
    def program(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(name, q(x))

    return program


def model(p: Callable[[], Any] = normal, likelihood: Any = None, observe: bool = True) -> Callable[..., None]:
    def program(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", p())
            if observe:
                of_x = dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1) if likelihood is None else likelihood(z)
                pyro.sample("x", of_x, obs=x)

    return program


def global_model(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    model()(x)


def global_guide(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    guide()(x)


def no_plate_model(x: Tensor) -> None:
    z = pyro.sample("z", normal())
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


def no_plate_guide(x: Tensor) -> None:
    pyro.sample("z", normal())


def subsampled(program: Callable[..., None]) -> Callable[..., None]:
    """The same statements in a plate of 100 of which three are seen."""

    def scaled(x: Tensor) -> None:
        pyro.poutine.scale(program, scale=100 / len(x))(x)

    return scaled


def two_plates_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1), pyro.plate("other", 1, dim=-2):
        pyro.sample("z", normal())


def nested_model(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", normal())
        with pyro.plate("pixels", 4, dim=-3):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(4, 1, len(x)))


def wrong_size_guide(x: Tensor) -> None:
    with pyro.plate("data", 1, dim=-1):
        pyro.sample("z", normal())


def greedy_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", normal())
        pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def forgetful_model(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", normal())
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1))


BAD: dict[str, tuple[Any, Any, str]] = {
    "names that do not match": (model(), guide(name="code"), r"draws \['z'\] and the guide draws \['code'\].*rename"),
    "a latent that the guide forgets": (model(), lambda x: None, r"draws \['z'\] and the guide draws \[\]"),
    "a guide that draws the data": (
        model(),
        greedy_guide,
        r"'x' is drawn by the guide but observed by the model; remove it",
    ),
    "nothing observed": (model(observe=False), guide(), r"observes no site; write pyro.sample\(\"x\""),
    "a global latent": (global_model, global_guide, r"'w' is a global latent.*move it inside"),
    "no plate at all": (no_plate_model, no_plate_guide, r"'z' is a global latent outside the data plate"),
    "a scaled plate": (subsampled(model()), subsampled(guide()), r"'z' is scaled by 33.3.*without a subsample"),
    "a second plate": (model(), two_plates_guide, r"guide.*other.*dim=-2.*to_event"),
    "a nested plate": (nested_model, guide(), r"'x' is under the plates.*'pixels' at dim -3.*exactly one"),
    "a plate of another size": (model(), wrong_size_guide, r"'z' is in a plate of size 1 for 3 examples"),
    "a latent without to_event": (
        model(),
        guide(lambda x: dist.Normal(ZERO.expand(len(x), 3), 1.0)),
        r"the guide fails.*to_event",
    ),
    "a likelihood without to_event": (
        model(likelihood=lambda z: dist.Normal(z, 1.0)),
        guide(),
        r"the model fails.*to_event",
    ),
    "support outside the model's": (
        model(lambda: dist.Gamma(ONE, 1.0).to_event(1)),
        guide(),
        r"'z': the guide's Normal has support.*beyond the model's Gamma",
    ),
    "support that is wider": (
        model(lambda: dist.Uniform(ZERO, ONE).to_event(1)),
        guide(lambda x: dist.Gamma(ONE, 1.0).to_event(1)),
        r"'z': the guide's Gamma.*beyond the model's Uniform",
    ),
    "a negative rate under a Gamma prior": (
        model(lambda: dist.Gamma(ONE, 1.0).to_event(1), lambda z: dist.Poisson(z[..., :1]).to_event(1)),
        guide(),
        r"'z': the guide's Normal has support.*beyond the model's Gamma",
    ),
    "a forgotten obs": (forgetful_model, guide(), r'observes no site; write pyro.sample\("x"'),
    "NaN in the guide": (
        model(),
        guide(lambda x: dist.Normal(ZERO / 0, ONE, validate_args=False).to_event(1)),
        r"'z'.*nan",
    ),
    "NaN in the likelihood": (
        model(likelihood=lambda z: dist.Normal(z[..., :1] * float("nan"), 1.0, validate_args=False).to_event(1)),
        guide(),
        r"'x'.*nan",
    ),
    "a network that refuses particles": (
        model(likelihood=lambda z: dist.Normal(torch.nn.Linear(5, 1)(z), 1.0).to_event(1)),
        guide(),
        r"the model fails on x of shape \(3, 1\): RuntimeError.*accept z",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_contract_is_named(name: str, untouched: None) -> None:
    state = torch.get_rng_state()
    bad_model, bad_guide, message = BAD[name]
    with pytest.raises(pv.UserError, match=message) as caught:
        pv.check_pair(bad_model, bad_guide, X)
    assert "\n" not in str(caught.value)
    torch.set_rng_state(state)


def test_good_pairs_pass() -> None:
    assert pv.check_pair(model(), guide(), X) is None
    pv.check_pair(model(), guide(), X[:1])  # fewer than three data are repeated
    pv.check_pair(model(lambda: dist.Gamma(ONE, 1.0).to_event(1)), guide(lambda x: dist.Gamma(ONE, 2.0).to_event(1)), X)
    log_normal = guide(lambda x: dist.LogNormal(ZERO, ONE).to_event(1))
    pv.check_pair(model(lambda: dist.Gamma(ONE, 1.0).to_event(1)), log_normal, X)
    pv.check_pair(model(lambda: dist.Beta(ONE, 1.0).to_event(1)), guide(lambda x: dist.Beta(ONE, 2.0).to_event(1)), X)
    simplex = model(lambda: dist.Dirichlet(ONE))
    pv.check_pair(simplex, guide(lambda x: dist.Dirichlet(2 * ONE)), X)


@pytest.mark.parametrize("objective", [pv.IWAE(2), pv.AnalyticKL(), pyro.infer.TraceMeanField_ELBO()])
def test_a_guide_without_rsample_is_refused_under_a_pathwise_objective_only(objective: Any) -> None:
    def discrete(x: Any = None) -> Any:
        return dist.Bernoulli(ONE / 2).to_event(1)

    pv.check_pair(model(discrete), guide(discrete), X)
    pv.check_pair(model(discrete), guide(discrete), X, objective=pyro.infer.Trace_ELBO())
    with pytest.raises(pv.PairError, match=r"'z'.*Bernoulli has no rsample"):
        pv.check_pair(model(discrete), guide(discrete), X, objective=objective)


def test_data_outside_the_support_are_refused() -> None:
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    with pytest.raises(pv.DataError, match=r"example 1 lies outside the support of site 'x' \(Bernoulli\)"):
        pv.check_pair(pair.model, pair.guide, torch.tensor([[0.0, 1, 0, 1], [0.5, 0, 0, 0], [0, 0, 0, 0]]))


def test_labels_go_to_both_programs() -> None:
    def unlabelled(x: Tensor) -> None:
        guide()(x)

    with pytest.raises(pv.PairError, match=r"the model takes labels and the guide does not; write guide\(x, y=None\)"):
        pv.check_pair(model(), unlabelled, X, torch.zeros(5))
    cvae = pv.build("cvae", data_shape=(4,), num_classes=3, latent=2, hidden=(3,))
    with pytest.raises(pv.UserError, match="give labels y"):
        pv.check_pair(cvae.model, cvae.guide, torch.zeros(3, 4))
    with pytest.raises(pv.UserError, match="labels must be whole numbers from 0 to 2"):
        pv.check_pair(cvae.model, cvae.guide, torch.zeros(3, 4), torch.tensor([0, 1, 3]))


def test_data_of_a_fixed_support_are_checked_without_the_programs() -> None:
    """The pair runs on the first examples alone, and an example far behind is found all the same."""
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    seen: list[int] = []
    pair.model.decoder.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-2]))
    x = torch.zeros(9000, 4)
    x[8765, 2] = 0.5
    with pytest.raises(pv.DataError, match="example 8765 lies outside the support of site 'x'"):
        pv.fit(pair, x, epochs=1, device="cpu", progress=False, capture=False)
    assert max(seen) == 3
