"""terms and log_joint against log densities written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.runs.state import state_tensors
from ppl_vae.scoring import programs, trace


def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        a = pyro.sample("a", dist.Gamma(torch.tensor(2.0), 1.0))
        b = pyro.sample("b", dist.Normal(a.log(), 1.0).expand([3]).to_event(1) if a.dim() == 0 else
                        dist.Normal(a.log().unsqueeze(-1).expand(*a.shape, 3), 1.0).to_event(1))  # fmt: skip
        pyro.deterministic("twice", 2 * b, event_dim=1)
        pyro.sample("x", dist.Normal(b, 0.5).to_event(1), obs=x)
        pyro.sample("y", dist.Poisson(a), obs=y)


def guide(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("b", dist.Normal(x, 0.4).to_event(1))
        pyro.sample("a", dist.LogNormal(x.mean(-1), 0.3))


def test_terms_are_the_log_densities_of_each_site() -> None:
    x, y = torch.randn(5, 3), torch.poisson(torch.full((5,), 2.0))
    t = pv.terms(model, guide, x, y, num_samples=4)
    a, b = t.sites["a"].value, t.sites["b"].value
    assert list(t.sites) == ["b", "a"]  # the guide's order
    assert a.shape == (4, 5)
    assert b.shape == (4, 5, 3)
    normal = torch.distributions.Normal
    log_lik = normal(b, 0.5).log_prob(x).sum(-1) + torch.distributions.Poisson(a).log_prob(y)
    log_prior = torch.distributions.Gamma(2.0, 1.0).log_prob(a) + normal(a.log()[..., None], 1.0).log_prob(b).sum(-1)
    log_q = normal(x, 0.4).log_prob(b).sum(-1) + torch.distributions.LogNormal(x.mean(-1), 0.3).log_prob(a)
    torch.testing.assert_close(t.log_lik, log_lik)
    torch.testing.assert_close(t.log_prior, log_prior)
    torch.testing.assert_close(t.log_q, log_q)
    torch.testing.assert_close(t.log_w, log_lik + log_prior - log_q)
    assert set(t.observed) == {"x", "y"}
    torch.testing.assert_close(pv.log_joint(model, x, y, {"a": a, "b": b}), log_lik + log_prior)


def test_the_closed_form_kl_is_the_mean_of_the_log_ratio() -> None:
    pair = CASES["vae"].build()
    x, _ = CASES["vae"].draw(3)
    t = pv.terms(pair.model, pair.guide, x, num_samples=40_000)
    site = t.sites["z"]
    ratio = (site.log_q - site.log_p).detach()
    assert site.kl is not None
    assert bool(((ratio.mean(0) - site.kl[0]).abs() < 5 * ratio.std(0) / math.sqrt(40_000)).all())
    both = pv.terms(model, guide, torch.zeros(2, 3), torch.zeros(2))
    assert both.sites["b"].kl is not None
    assert both.sites["a"].kl is None  # LogNormal against Gamma has no formula in torch


def test_a_model_without_latents_is_scored_once() -> None:
    calls: list[tuple[int, ...]] = []
    pair = CASES["made"].build()
    pair.model.net.register_forward_hook(lambda m, args, out: calls.append(tuple(args[0].shape)))
    x, _ = CASES["made"].draw(5)
    t = pv.terms(pair.model, pair.guide, x, num_samples=1000)
    assert t.exact
    assert calls == [(5, 9)]
    assert t.log_w.shape == (1000, 5)
    # and no density is computed for more than one particle, whatever the distribution does when it is expanded
    assert t.observed["x"].p.batch_shape == (1, 5)

    def independent(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    plain = pv.terms(independent, lambda x: None, torch.randn(5, 3), num_samples=1000)
    assert plain.observed["x"].p.batch_shape == (1, 5)
    assert plain.log_w.shape == (1000, 5)


def test_constrained_draws_stay_in_their_space() -> None:
    t = pv.terms(model, guide, torch.randn(5, 3), torch.zeros(5), num_samples=50)
    assert bool((t.sites["a"].value > 0).all())
    assert t.sites["a"].has_rsample


def test_the_parents_of_each_site_are_found() -> None:
    x, y = torch.randn(2, 3), torch.zeros(2)
    t = pv.terms(model, guide, x, y)
    two = pv.terms(model, guide, x, y)
    values = [{n: s.value for n, s in terms.sites.items()} for terms in (t, two)]
    assert programs.parents(model, (x, y), *values) == {"a": set(), "b": {"a"}}


@pytest.mark.parametrize(
    ("signature", "takes"),
    [
        (lambda x: None, False),
        (lambda x, y=None: None, True),
        (lambda xs, ys=None: None, True),
        (lambda x, labels=None: None, True),
        (lambda x, annealing_factor=1.0: None, False),
        (pv.Pair, False),
    ],
)
def test_labels_go_only_where_there_is_a_place_for_them(signature: Any, takes: bool) -> None:
    assert trace.takes_labels(signature) is takes


def test_mistakes_are_named() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="num_samples=0"):
        pv.terms(model, guide, x, torch.zeros(2), num_samples=0)
    with pytest.raises(ValueError, match="grad='reinforce'"):
        pv.terms(model, guide, x, torch.zeros(2), grad="reinforce")  # type: ignore[arg-type]
    with pytest.raises(pv.PairError, match="'b' has no value"):
        pv.log_joint(model, x, torch.zeros(2), {"a": torch.ones(1, 2)})
    with pytest.raises(pv.UserError, match="is a int"):
        pv.Pair(3, guide)  # type: ignore[arg-type]


def test_networks_take_any_leading_dimensions() -> None:
    from ppl_vae.nn.networks import Decoder, Encoder

    for network, shape in (("mlp", (2, 7, 5)), ("conv", (2, 7, 5)), ("conv", (1, 28, 28)), ("conv", (1, 1, 3))):
        encoder, decoder = Encoder(shape, (4, 6), "relu", network), Decoder(3, shape, (6, 4), "relu", network, 2)
        x, z = torch.rand(2, 3, *shape), torch.rand(5, 2, 3)
        assert encoder(x).shape == (2, 3, encoder.features)
        assert decoder(z).shape == (5, 2, 2, *shape)
        torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2][None])[0])
        torch.testing.assert_close(decoder(z)[1, 1], decoder(z[1, 1][None])[0])
    with pytest.raises(pv.UserError, match="network='rnn'"):
        Encoder((9,), (4,), "relu", "rnn")


def test_a_shared_module_is_one_module() -> None:
    """Parameters that model and guide share get both gradients, and are saved once."""
    shared = nn.Linear(2, 2)

    class P(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = shared

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Q(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = shared

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    pair = pv.Pair(P(), Q())
    assert len(list(pair.parameters())) == 2
    assert len(state_tensors(pair)) == 2
    x = torch.randn(6, 2)
    pyro.set_rng_seed(0)
    pv.Elbo()(pair.model, pair.guide)(x).backward()
    ours = shared.weight.grad.clone()  # type: ignore[union-attr]
    shared.zero_grad()
    pyro.set_rng_seed(0)
    pyro.infer.Trace_ELBO()(pair.model, pair.guide)(x).backward()
    torch.testing.assert_close(ours, shared.weight.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 200}, r"hidden=200 is not of the type Sequence\[int\]"),
        ({"latent": "3"}, "latent='3' is not of the type int"),
        ({"latent": 2.5}, "latent=2.5 is not of the type int"),
        ({"likelihood": 3}, "likelihood=3: give a name"),
        ({"depth": 3}, "has no option depth; it takes data_shape"),
        ({"activation": "sine"}, "activation='sine': choose one of tanh"),
    ],
)
def test_options_of_a_builder_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        pv.build("vae", data_shape=(4,), **options)
    with pytest.raises(pv.UserError, match="needs data_shape"):
        pv.build("vae")
    with pytest.raises(pv.UserError, match="pair 'lost' is not known; choose one of autoencoder"):
        pv.build("lost")
